"""The search: drives islands generation by generation, keeps archive and front, and can stop and continue anywhere."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from gennape.errors import ServiceError
from gennape.platform.archive import concatenate, none_evaluated, to_frame, write_shard
from gennape.platform.front import elites, extend_front, front_frame, hypervolume, reference_point
from gennape.platform.islands import IslandLostError, Task
from gennape.platform.state import SearchState, best_accuracy, load_state, save_state
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

    from gennape.platform.archive import Evaluations
    from gennape.platform.config import SearchConfig
    from gennape.platform.islands import Archipelago, Step

#: How often one generation is run again after an island died before the search gives up.
RETRIES = 3


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """What is known after a generation.

    ``evaluations``: unique networks so far, of ``target``. ``evaluations_per_second``: of this process, since it began.
    ``hypervolume``: in the product of the objectives' units. ``best_accuracy``: highest predicted, percent.
    ``unique_fraction``: new networks per genome asked in this generation.
    """

    generation: int
    evaluations: int
    target: int
    evaluations_per_second: float
    front_size: int
    hypervolume: float
    best_accuracy: float
    unique_fraction: float

    def metrics(self) -> dict[str, float]:
        """The numbers that tracking plots against the generation."""
        return {name: float(value) for name, value in asdict(self).items() if name not in ("generation", "target")}


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """The end of a search: its front and all evaluations as data frames, and why it ended."""

    front: pd.DataFrame
    evaluations: pd.DataFrame
    hypervolume: float
    reason: str


def run_search(
    config: SearchConfig,
    folder: Path,
    islands: Archipelago,
    on_generation: Callable[[GenerationRecord], None] = lambda _: None,
) -> SearchResult:
    """Search from the last state stored in ``folder``, or from the beginning, to the end.

    All islands finish a generation before any starts the next. This barrier costs some waiting and buys what matters
    more: what an island knows at each step depends on the seed alone, never on timing, so that the same seed gives the
    same front and a search that was cut off continues to the front it would have reached.

    ``config.evaluations`` unique networks are predicted in all, exactly; fewer only when ``config.patience``
    generations in a row found nothing new. Each generation stores its evaluations, then its state, both atomically.
    A generation during which an island died is run again from the state at its start. Raises what the evaluator
    raises, and :class:`ServiceError` when islands keep dying.
    """
    space = family(config.space)
    state = load_state(folder, config, len(space.genes))
    islands.start(state.searchers, state.archive.all())
    started, already = time.monotonic(), len(state.archive)
    while (reason := _reason_to_end(config, state)) is None:
        steps = _advance(config, state, islands)
        commit(config, state, steps)
        write_shard(folder, state.generation - 1, state.news, space)
        save_state(folder, state)
        rate = (len(state.archive) - already) / (time.monotonic() - started)
        on_generation(_record(config, state, sum(step.asked for step in steps), rate))
    frame = front_frame(state.front, config.directed, space)
    return SearchResult(frame, to_frame(state.archive.all(), space), _volume(config, state), reason)


def commit(config: SearchConfig, state: SearchState, steps: list[Step]) -> None:
    """Take one generation of all islands into the state; of a network that two found at once, the first counts."""
    state.news = concatenate([state.archive.add(step.evaluations) for step in steps])
    state.front = extend_front(state.front, state.news, config.directed)
    if state.reference is None and len(state.front):
        state.reference = reference_point(state.news, config.directed)
    state.idle = 0 if len(state.news) else state.idle + 1
    state.best_accuracy = max(state.best_accuracy, best_accuracy(state.news))
    state.searchers = [step.state for step in steps]
    state.generation += 1


def _advance(config: SearchConfig, state: SearchState, islands: Archipelago) -> list[Step]:
    tasks = _tasks(config, state)
    for _ in range(RETRIES):
        try:
            return islands.advance(tasks)
        except IslandLostError:
            islands.start(state.searchers, state.archive.all())
    raise ServiceError(
        f"islands died {RETRIES} times in generation {state.generation}; the usual cause is too little memory: "
        "try fewer islands or a smaller population"
    )


def _tasks(config: SearchConfig, state: SearchState) -> list[Task]:
    """What each island does next; the quotas add up to what is left, so that the total is never overshot."""
    share, rest = divmod(config.evaluations - len(state.archive), config.islands)
    nobody = none_evaluated(len(family(config.space).genes))
    migrate = config.islands > 1 and config.migration_every > 0 and state.generation > 0
    arrivals = [nobody] * config.islands
    if migrate and state.generation % config.migration_every == 0:
        arrivals = _migrants(config, state.archive.all())
    return [
        Task(state.generation, share + (i < rest), _others(state.news, i), arrivals[i]) for i in range(config.islands)
    ]


def _others(news: Evaluations, island: int) -> Evaluations:
    return news.take(news.island != island)


def _migrants(config: SearchConfig, everything: Evaluations) -> list[Evaluations]:
    """For each island the elites of the one before it in the ring."""
    best = [
        elites(everything.take(everything.island == i), config.directed, config.migrants) for i in range(config.islands)
    ]
    return [best[i - 1] for i in range(config.islands)]


def _reason_to_end(config: SearchConfig, state: SearchState) -> str | None:
    if len(state.archive) >= config.evaluations:
        return f"all {config.evaluations:,} evaluations are done"
    if state.idle >= config.patience:
        return (
            f"no new network in {state.idle} generations after {len(state.archive):,} of {config.evaluations:,} "
            f"evaluations: {config.space} is exhausted or the populations have converged"
        )
    return None


def _record(config: SearchConfig, state: SearchState, asked: int, rate: float) -> GenerationRecord:
    return GenerationRecord(
        generation=state.generation - 1,
        evaluations=len(state.archive),
        target=config.evaluations,
        evaluations_per_second=rate,
        front_size=len(state.front),
        hypervolume=_volume(config, state),
        best_accuracy=state.best_accuracy,
        unique_fraction=len(state.news) / max(asked, 1),
    )


def _volume(config: SearchConfig, state: SearchState) -> float:
    return 0.0 if state.reference is None else hypervolume(state.front, config.directed, state.reference)
