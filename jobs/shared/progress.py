"""Progress bars of the verbs that take longer than two seconds."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gennape.notebook import NotebookBar, shell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A bar on stderr, of an unknown ``total`` where that is None; yields ``advance(count, note="")``."""
    if (kernel := shell()) is not None:
        yield _notebook_bar(NotebookBar(kernel, what, total))
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, note="")

        def advance(count: int, note: str = "") -> None:
            progress.update(task, advance=count, note=note)

        yield advance


def _notebook_bar(bar: NotebookBar) -> Callable[..., None]:
    done = 0

    def advance(count: int, note: str = "") -> None:
        nonlocal done
        done += count
        bar.show(done, note)

    return advance
