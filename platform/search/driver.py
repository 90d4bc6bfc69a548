"""The search: drives islands, keeps log, front and state, and can stop and continue anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from gennape.platform.search.asynchronous import run_freely
from gennape.platform.search.failures import Failures
from gennape.platform.search.front import front_frame
from gennape.platform.search.log import read_findings, read_table
from gennape.platform.search.rounds import GenerationRecord, Rounds
from gennape.platform.search.state import load_state
from gennape.platform.search.synchronous import run_in_step
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.islands import Archipelago

__all__ = ["GenerationRecord", "SearchResult", "run_search"]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The end of a search: its front as a data frame, and why it ended.

    ``evaluations`` are read from the log in ``folder`` when they are first asked for.
    """

    front: pd.DataFrame
    hypervolume: float
    reason: str
    folder: Path

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """Every network, in the order of the log: all of it in memory."""
        frame: pd.DataFrame = read_table(self.folder).to_pandas()
        return frame


def run_search(
    config: SearchConfig,
    folder: Path,
    islands: Archipelago,
    on_generation: Callable[[GenerationRecord], None] = lambda _: None,
) -> SearchResult:
    """Search from where the log and the state in ``folder`` stand, or from the beginning, to the end.

    In step, which is the default, all islands finish a generation before any starts the next: what an island knows at
    each step depends on the seed alone, so that the same seed gives the same front, and a search that was cut off
    continues to the front it would have reached. With ``config.asynchronous`` no island waits for another.

    ``config.evaluations`` unique networks are recorded in all, exactly; fewer only when ``config.patience``
    generations in a row found nothing new. Each round appends its evaluations to the log, then stores its state, both
    atomically. Islands that are lost, and steps that fail, are run again (see :class:`failures.Outcome`). Raises what a
    step raised that failed again and again, and :class:`ServiceError` when an island is lost again and again.
    """
    space = family(config.space)
    state = load_state(folder, config, len(space.genes))
    rounds = Rounds(config, folder, space, state, islands, Failures(folder, config.islands), on_generation)
    islands.start(dict(enumerate(state.searchers)), read_findings(folder, state.rounds))
    reason = (run_freely if config.asynchronous else run_in_step)(rounds)
    frame = front_frame(state.front, config.directed)
    return SearchResult(frame, rounds.volume(), reason, folder)
