"""Run a search: drive the islands, keep log, front and state; it can be interrupted and resumed at any point."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsFloat

from gennape.errors import ConfigError
from gennape.platform.search.asynchronous import run_asynchronously
from gennape.platform.search.choice import best_point
from gennape.platform.search.config import space_of
from gennape.platform.search.failures import Failures
from gennape.platform.search.front import front_frame
from gennape.platform.search.limits import Limit
from gennape.platform.search.log import read_measurements, read_table
from gennape.platform.search.measures import RESERVED
from gennape.platform.search.runs import REPORT
from gennape.platform.search.search_run import GenerationRecord, SearchRun
from gennape.platform.search.state import load_state
from gennape.platform.search.synchronous import run_synchronously

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.islands import Archipelago

#: Networks of a front that a notebook shows.
_MAX_ROWS = 12

__all__ = ["GenerationRecord", "SearchResult", "run_search"]


@dataclass(frozen=True, eq=False, repr=False)
class SearchResult:
    """The result of a search: its Pareto front, and why it ended.

    ``evaluations``, a data frame of every network, is read from the log in ``folder`` on first use. A notebook shows a
    result as a picture and a table.

    Args:
        front: One row per network, sorted by accuracy, the best first: ``index``, accuracy in percent, cost, and the
            architecture as JSON.
        hypervolume: The volume that the front dominates, in the product of the objectives' units.
        reason: Why the search ended.
        folder: Where the run is stored.

    Example:
        >>> import gennape as gp
        >>> import pandas as pd
        >>> front = pd.DataFrame({"accuracy": [93.5, 91.0], "flops": [6e8, 2e8], "architecture": ["a", "b"]})
        >>> result = gp.SearchResult(front, 1.0, "all evaluations are done", folder)  # as gp.search returns it
        >>> result.best(flops=3e8)["architecture"]
        'b'
    """

    front: pd.DataFrame
    hypervolume: float
    reason: str
    folder: Path

    def __repr__(self) -> str:
        """The number of networks, the range of every measure, and the folder."""
        from gennape.platform.search.front_page import readable  # noqa: PLC0415 (its library takes a second)

        if not len(self.front):
            return f"SearchResult(no network on the front; {self.folder})"
        spans = [
            f"{name} {readable(name, float(self.front[name].min()))} to {readable(name, float(self.front[name].max()))}"
            for name in self._measures
        ]
        return f"SearchResult({len(self.front)} networks on the front: {', '.join(spans)}; {self.folder})"

    @property
    def _measures(self) -> list[str]:
        return [str(name) for name in self.front.columns if name == "accuracy" or name not in RESERVED]

    def _repr_html_(self) -> str:
        """The front as HTML for notebooks: the picture of its report, if there is one, and a table."""
        picture = self.folder / REPORT / "front.png"
        image = base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else ""
        shown = f'<img src="data:image/png;base64,{image}" alt="Pareto front">' if image else ""
        return f"{shown}{self.front.to_html(max_rows=_MAX_ROWS, index=False, escape=True)}"

    def best(self, **limits: SupportsFloat) -> pd.Series[Any]:
        """The network of the front with the highest accuracy within limits.

        Args:
            **limits: The largest ``flops``, ``macs``, ``params`` or further measure, or the smallest ``accuracy``
                (percent).

        Returns:
            Its row of ``front``.

        Raises:
            ConfigError: The front does not hold the measure of a limit, or no network is within all limits.
        """
        known = self._measures
        wrong = [name for name in limits if name not in known]
        if wrong:
            raise ConfigError(f"the front has no {', '.join(wrong)}; limits are of {', '.join(known)}")
        records: list[dict[str, Any]] = self.front.to_dict("records")  # type: ignore[assignment]
        points = [{**point, "row": row} for row, point in enumerate(records)]
        wanted = [Limit(name, ">=" if name == "accuracy" else "<=", float(bound)) for name, bound in limits.items()]
        found: pd.Series[Any] = self.front.iloc[int(best_point(points, wanted)["row"])]
        return found

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """Every network in the order of the log, held in memory as a whole."""
        frame: pd.DataFrame = read_table(self.folder).to_pandas()
        return frame


def run_search(
    config: SearchConfig,
    folder: Path,
    islands: Archipelago,
    on_generation: Callable[[GenerationRecord], None] = lambda _: None,
) -> SearchResult:
    """Run a search to its end, from the log and state in ``folder`` or from the beginning.

    By default islands are synchronous: all finish a generation before any starts the next. What an island knows at each
    step then depends on the seed alone, so the same seed gives the same front, and an interrupted search reaches the
    front it would have reached without the interruption. With ``config.asynchronous`` no island waits for another.

    Exactly ``config.evaluations`` unique networks are recorded, or fewer when ``config.patience`` consecutive
    generations found nothing new. Each round appends its evaluations to the log and then stores its state, both
    atomically. Lost islands and failed steps are run again (see :class:`failures.Outcome`). Raises the error of a step
    that keeps failing, and :class:`ServiceError` when an island keeps getting lost.
    """
    space = space_of(config)
    state = load_state(folder, config, len(space.genes))
    run = SearchRun(config, folder, space, state, islands, Failures(folder, config.islands), on_generation)
    islands.start(dict(enumerate(state.searchers)), read_measurements(folder, state.rounds))
    reason = (run_asynchronously if config.asynchronous else run_synchronously)(run)
    frame = front_frame(state.front, config.directed)
    return SearchResult(frame, run.hypervolume(), reason, folder)
