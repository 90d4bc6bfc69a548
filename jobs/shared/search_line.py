"""Progress of a search: a live line on a terminal, log lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gennape.notebook import NotebookBar, shell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.driver import GenerationRecord


def search_progress(screen: Console) -> Progress:
    """A progress bar, followed by the metrics so far."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    # Narrow enough for 80 columns.
    columns = ("{task.description}", BarColumn(8), MofNCompleteColumn(), TextColumn("{task.fields[found]}"))
    return Progress(*columns, console=screen, disable=not screen.is_terminal)


class SearchLine:
    """The live line of a search; without a terminal, a plain line after every tenth of the budget."""

    def __init__(self, live: Progress, screen: Console, config: SearchConfig) -> None:
        self.live = live
        self.screen = screen
        self.task = live.add_task(config.space, total=config.evaluations, found="")
        self.tenths = 0
        kernel = shell()
        self.bar = None if kernel is None else NotebookBar(kernel, config.space, config.evaluations)

    def show(self, record: GenerationRecord) -> None:
        """Update the line."""
        found = f"{record.evaluations_per_second:,.0f} evals/s · front {record.front_size} · {_quality(record)}"
        if self.bar is not None:
            self.bar.show(record.evaluations, found)
            return
        self.live.update(self.task, completed=record.evaluations, found=found)
        tenths = 10 * record.evaluations // record.target
        if not self.screen.is_terminal and tenths > self.tenths:
            self.screen.print(f"{record.evaluations}/{record.target} evaluations · {found}", soft_wrap=True)
        self.tenths = tenths


def _quality(record: GenerationRecord) -> str:
    """The hypervolume, or before any network is within the limits, how far the nearest is from them."""
    if record.violation:
        return f"none within the limits, the nearest is {100 * record.violation:.3g} % beyond"
    return f"hypervolume {record.hypervolume:.4g}"
