"""The state of a search while it runs: rounds that are logged, and islands that are lost and restarted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import WorkspaceError
from gennape.platform.search.evaluations import none_evaluated
from gennape.platform.search.failures import Failures, Outcome
from gennape.platform.search.front import elites, hypervolume
from gennape.platform.search.island_metrics import island_metrics
from gennape.platform.search.islands import Step, Task
from gennape.platform.search.log import count_shards, read_measurements, read_shard, same, shard, write_shard
from gennape.platform.search.seen import join_measurements, measurements_of
from gennape.platform.search.state import absorb, keep_uncut, save_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.evaluations import Evaluations
    from gennape.platform.search.failures import Loss
    from gennape.platform.search.islands import Archipelago
    from gennape.platform.search.state import SearchState
    from gennape.search_spaces.families.space import SearchSpace


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """Metrics after a generation; with asynchronous islands, after a round of as many generations as there are islands.

    ``evaluations``: unique networks so far, of ``target``. ``evaluations_per_second``: since this process started.
    ``hypervolume``: in the product of the objectives' units. ``best_accuracy``: highest predicted, percent.
    ``unique_fraction``: new networks per genome asked in this generation. ``infeasible`` and ``timeouts``: networks
    without a prediction so far. ``preempted`` and ``failed``: steps that were run again since this process started.
    ``islands``: metrics per island, see :func:`island_metrics`. ``front``: the Pareto front so far. ``violation``: the
    smallest total relative violation of the limits so far; None for a search without limits.
    """

    generation: int
    evaluations: int
    target: int
    evaluations_per_second: float
    front_size: int
    hypervolume: float
    best_accuracy: float
    unique_fraction: float
    infeasible: int
    timeouts: int
    preempted: int
    failed: int
    islands: dict[str, dict[str, float]]
    front: Evaluations = field(repr=False, compare=False)
    violation: float | None = None

    def metrics(self) -> dict[str, float]:
        """The numbers that tracking plots per generation."""
        others = ("generation", "target", "islands", "front")
        named = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in others}
        return {name: float(value) for name, value in named.items() if value is not None}


@dataclass(slots=True, eq=False)
class SearchRun:
    """A search while it runs: its settings, state and islands."""

    config: SearchConfig
    folder: Path
    space: SearchSpace
    state: SearchState
    islands: Archipelago
    failures: Failures
    on_generation: Callable[[GenerationRecord], None]
    _began: float = field(default_factory=time.monotonic)
    _offered: list[np.ndarray] = field(init=False)  # hashes of elites that each asynchronous island has received
    _already: int = field(init=False)
    _asked: list[int] = field(init=False)
    _logged: int = field(init=False)  # shards; counted once, since nobody else writes any while the run is locked

    def __post_init__(self) -> None:
        self._already = self.state.evaluations
        self._logged = count_shards(self.folder)
        self._asked = [0] * self.config.islands
        self._offered = [np.zeros(0, "U32")] * self.config.islands

    def task(self, island: int, quota: int, recorded: Evaluations | None = None) -> Task:
        """The next generation of an island. Every ``migration_every`` steps it brings new elites of the others."""
        config, step = self.config, self.state.steps[island]
        arrivals = none_evaluated(len(self.space.genes), config.columns)
        if config.islands > 1 and config.migration_every > 0 and step > 0 and step % config.migration_every == 0:
            arrivals = elites(self._news_for(island, step), config.directed, config.migrants)
        return Task(step, quota, arrivals, recorded)

    def _news_for(self, island: int, step: int) -> Evaluations:
        """What others found since the last migration and is on the front.

        From the common front, so that elites need not travel from island to island. Older ones would come back again
        and again and drive out what an island found itself.
        """
        front = self.state.front
        others = front.take(front.island != island)
        if not self.config.asynchronous:
            return others.take(others.generation >= step - self.config.migration_every)
        # Generations of asynchronous islands are not comparable; what was offered is forgotten at a restart.
        known, self._offered[island] = self._offered[island], others.hashes
        return others.take(~np.isin(others.hashes, known))

    def recorded(self) -> Evaluations | None:
        """Logged evaluations of the current round, if an interrupted search had already written them; else None."""
        number = self.state.rounds
        return read_shard(self.folder, number) if number < self._logged else None

    def restart_island(self, island: int, generation: int, loss: Loss, unlogged: Sequence[Evaluations] = ()) -> None:
        """Restart an island from its state before the lost step. Raises the cause when it was lost too often."""
        self.failures.note(island, generation, loss)
        self._offered[island] = np.zeros(0, "U32")
        measurements = [read_measurements(self.folder, self.state.rounds), *map(measurements_of, unlogged)]
        self.islands.start({island: self.state.searchers[island]}, join_measurements(measurements))

    def record_step(self, island: int, step: Step) -> None:
        """Store an island's state after a step."""
        self.failures.succeeded(island, self.state.steps[island], step.timeouts)
        self._asked[island] += step.asked
        self.state.searchers[island] = step.state
        self.state.steps[island] += 1

    def close_round(self, news: Evaluations, asked: int, *, cut: bool = False) -> None:
        """End a round: log its evaluations, store the state, then call ``on_generation``.

        ``cut``: with a larger budget the round might have evaluated more.
        Raises :class:`WorkspaceError` when the log holds other evaluations of this round.
        """
        number, state, recorded = self.state.rounds, self.state, self.recorded()
        if cut and state.uncut is None:
            keep_uncut(self.folder, state)
        absorb(self.config, state, news)
        if recorded is None:
            write_shard(self.folder, number, news)
            self._logged = number + 1
        elif not same(recorded, news):
            raise WorkspaceError(
                f"{shard(self.folder, number)} holds other evaluations than this search comes to; was it begun "
                "by another version of gennape, or another predictor? Start a new search"
            )
        save_state(self.folder, state)
        self.on_generation(self._record(asked))
        self._asked = [0] * self.config.islands

    def stop_reason(self, stalled_generations: int) -> str | None:
        """Why the search stops now, or None. ``stalled_generations``: consecutive generations without a new network."""
        config, done = self.config, self.state.evaluations
        if done >= config.evaluations:
            return f"all {config.evaluations:,} evaluations are done"
        if stalled_generations >= config.patience:
            return (
                f"no new network in {stalled_generations} generations after {done:,} of {config.evaluations:,} "
                f"evaluations: {config.space} is exhausted or the populations have converged"
            )
        return None

    def hypervolume(self) -> float:
        """Hypervolume of the front."""
        state = self.state
        return 0.0 if state.reference is None else hypervolume(state.front, self.config.directed, state.reference)

    def _record(self, asked: int) -> GenerationRecord:
        state, counts = self.state, self.failures.counts
        return GenerationRecord(
            generation=state.rounds - 1,
            evaluations=state.evaluations,
            target=self.config.evaluations,
            evaluations_per_second=(state.evaluations - self._already) / (time.monotonic() - self._began),
            front_size=len(state.front),
            hypervolume=self.hypervolume(),
            best_accuracy=state.best_accuracy,
            unique_fraction=len(state.news) / max(asked, 1),
            infeasible=state.unpredicted[Outcome.INFEASIBLE],
            timeouts=state.unpredicted[Outcome.TIMEOUT],
            preempted=counts[Outcome.PREEMPTED],
            failed=counts[Outcome.FAILED],
            islands=island_metrics(self._asked, state.found, state.news.island, state.front.island),
            front=state.front,
            violation=state.violation if self.config.constraints else None,
        )
