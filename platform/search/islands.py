"""Islands: one searcher with a generator each, evaluating whole populations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gennape.errors import GennapeError, ServiceError
from gennape.platform.search.config import space_of
from gennape.platform.search.evaluations import Evaluations, as_objects, digests_of, narrow, none_evaluated
from gennape.platform.search.evaluator import (
    PopulationResult,
    concatenate_results,
    evaluate_population,
    no_accuracy_error,
)
from gennape.platform.search.failures import IslandLostError, Loss, Outcome
from gennape.platform.search.limits import points_to_tell, violation
from gennape.platform.search.measures import REGISTRY as MEASURES
from gennape.platform.search.measures import Measure, measure
from gennape.platform.search.searchers.registry import REGISTRY as SEARCHERS
from gennape.platform.search.searchers.registry import searcher
from gennape.platform.search.seen import Measurements, SeenNetworks, measurements_of
from gennape.platform.search.starting import starting_genomes
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.families.registry import REGISTRY as FAMILIES
from gennape.search_spaces.graphs.canonical import canonical_hashes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float64, Int64

    from gennape.platform.search.evaluator import Evaluator
    from gennape.platform.search.searchers.base import Searcher, State
    from gennape.platform.search.settings import SearchConfig
    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.graphs.graph import PackedGraphs

#: Size of an island's cache of genome hashes, first in first out. Other genomes are built to compute their hashes.
REMEMBERED = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One generation of one island.

    ``quota``: maximum number of new networks to evaluate. ``immigrants``: new elites of all other islands.
    ``recorded``: evaluations of this generation that are already in the log; they are not predicted again.
    """

    generation: int
    quota: int
    immigrants: Evaluations
    recorded: Evaluations | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The result of one generation of one island.

    ``evaluations``: networks that were new to the island. ``asked``: proposed genomes, without those beyond the quota.
    ``state``: state of the searcher afterwards. ``timeouts``: requests to the evaluator that timed out.
    """

    evaluations: Evaluations
    asked: int
    state: State
    timeouts: int = 0

    def __reduce__(self) -> tuple[Callable[..., Step], tuple[object, ...]]:
        """Pickle losslessly in few bytes."""
        arrays = {key: (array.dtype.str, narrow(array)) for key, array in self.state.items()}
        return _unpacked, (self.evaluations, self.asked, arrays, self.timeouts)


def _unpacked(evaluations: Evaluations, asked: int, arrays: dict[str, tuple[str, np.ndarray]], timeouts: int) -> Step:
    return Step(evaluations, asked, {key: array.astype(kind) for key, (kind, array) in arrays.items()}, timeouts)


class Island:
    """One population: asks its searcher, evaluates unseen networks in one call, and tells the searcher the results."""

    def __init__(
        self,
        config: SearchConfig,
        index: int,
        evaluator: Evaluator,
        spaces: Sequence[SearchSpace] = (),
        searchers: Sequence[type[Searcher]] = (),
        measures: Sequence[Measure] = (),
    ) -> None:
        FAMILIES.take(spaces)
        SEARCHERS.take(searchers)
        MEASURES.take(measures)
        # Spawned rather than seeded by index, so that the generators of all islands are independent for every seed.
        seed = np.random.SeedSequence(config.seed).spawn(config.islands)[index]
        self.space = space_of(config)
        self.config = config
        self.objectives, self.limits, self.names = config.directed, config.limits, config.columns
        self.index = index
        self.evaluator = evaluator
        self.seen = SeenNetworks(len(self.names))
        self.hashes: dict[bytes, str] = {}  # of genomes, oldest first
        self.searcher = new_searcher(config, self.space, np.random.default_rng(seed))

    def restore(self, state: State | None, measurements: Measurements) -> None:
        """Load a stored state (None for a new search) and all measurements so far."""
        self.seen.add(measurements)
        if state is not None:
            self.searcher.restore(state)

    def advance(self, task: Task, news: Measurements) -> Step:
        """Run one generation. ``news``: measurements since the previous one.

        Raises :class:`ServiceError` when the evaluator has not returned any finite value, :class:`IslandLostError`
        when its service was lost.
        """
        # Two islands may have evaluated the same network at once: the logged value counts, as after a resume.
        self.seen.add(news)
        if len(task.immigrants):
            guests = task.immigrants
            self.searcher.immigrate(guests.genomes, self._points(guests.values))
        starting = self._starting(task)
        genomes = np.concatenate([starting, self.searcher.ask()[: self.config.share]])
        hashes, new, timeouts = self._evaluate(genomes, task)
        self.seen.add(measurements_of(new))
        found, values = self.seen.find(digests_of(hashes))
        if len(new) and not self.seen.any_finite:
            raise self._nothing_measured(new)
        finite = np.isfinite(values).all(1)
        self.searcher.novelty = len(new) / max(len(genomes), 1)
        asked, points = np.arange(len(genomes)) >= len(starting), self._points(values)
        self.searcher.tell(genomes[finite & asked], points[finite & asked])
        if len(starting):
            self.searcher.immigrate(genomes[finite & ~asked], points[finite & ~asked])
        return Step(new, int(found.sum()), self.searcher.state(), timeouts)

    def _starting(self, task: Task) -> Int64[np.ndarray, "n g"]:
        """What the first generation evaluates before all that the searcher asks for."""
        if task.generation:
            return np.zeros((0, len(self.space.genes)), np.int64)
        return starting_genomes(self.config, self.space, self.index)

    def _nothing_measured(self, new: Evaluations) -> ServiceError:
        without = [name for name in self.names if not np.isfinite(new.column(name)).any()]
        if without and "accuracy" not in without:
            return ServiceError(
                f"{without[0]} is no finite number for any of {len(new)} networks of {self.space.name}; mend this "
                "measure"
            )
        return no_accuracy_error(new.states, f"{self.space.name}, first {self.space.encode(new.genomes[0])}")

    def _points(self, values: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n m"]:
        return points_to_tell(values, self.objectives, self.limits, self.names)

    def _evaluate(self, genomes: Int64[np.ndarray, "n g"], task: Task) -> tuple[list[str], Evaluations, int]:
        """Hashes of all genomes, the evaluations of the first ``quota`` new networks among them, and timeouts."""
        hashes = [self.hashes.get(genome.tobytes(), "") for genome in genomes]
        unmet = np.array([i for i, digest in enumerate(hashes) if not digest], np.int64)
        graphs = self.space.graphs(genomes[unmet])
        found = canonical_hashes(graphs)
        seen, _ = self.seen.find(digests_of(found))
        rows: dict[str, int] = {}  # of new networks, in the order of the genomes; values index ``unmet``
        for position, (i, digest) in enumerate(zip(unmet.tolist(), found, strict=True)):
            hashes[i] = digest
            if not seen[position] and digest not in rows and len(rows) < task.quota:
                rows[digest] = position
            if seen[position] or digest in rows:
                self._remember(genomes[i], digest)
        chosen = np.array(list(rows.values()), np.int64)
        new, timeouts = self._predict(genomes[unmet[chosen]], list(rows), graphs.take(chosen), task)
        return hashes, new, timeouts

    def _remember(self, genome: Int64[np.ndarray, " g"], digest: str) -> None:
        self.hashes[genome.tobytes()] = digest
        if len(self.hashes) > REMEMBERED:
            del self.hashes[next(iter(self.hashes))]

    def _predict(
        self, genomes: Int64[np.ndarray, "n g"], hashes: list[str], graphs: PackedGraphs, task: Task
    ) -> tuple[Evaluations, int]:
        if not hashes:
            return none_evaluated(len(self.space.genes), self.names), 0
        result = (
            evaluate_population(self.evaluator, graphs, self.config.heads)
            if task.recorded is None
            else self._recall(hashes, graphs, task.recorded)
        )
        # Costs are computed from the graphs, independent of the predictor.
        values = measure(graphs, Prediction(result.accuracy, result.memberships, heads=result.heads), self.names)
        unmeasured = (result.states == Outcome.DONE) & ~np.isfinite(values).all(1)
        states = np.where(unmeasured, str(Outcome.INFEASIBLE), result.states)
        island, born = np.full(len(hashes), self.index, np.int64), np.full(len(hashes), task.generation, np.int64)
        texts = as_objects([json.dumps(self.space.encode(genome)) for genome in genomes])
        beyond = violation(values, self.limits, self.names)
        columns = (genomes, values, result.memberships, island, born, states, texts, result.deviation, beyond)
        return Evaluations(np.array(hashes, "U32"), *columns, self.names), result.timeouts

    def _recall(self, hashes: list[str], graphs: PackedGraphs, recorded: Evaluations) -> PopulationResult:
        """Recorded evaluations where there are any; the other networks are predicted."""
        rows = {digest: row for row, digest in enumerate(recorded.hashes.tolist())}
        unrecorded = np.array([i for i, digest in enumerate(hashes) if digest not in rows], np.int64)
        asked = evaluate_population(self.evaluator, graphs.take(unrecorded), self.config.heads)
        old = recorded.take([rows[digest] for digest in hashes if digest in rows])
        heads = {name: old.column(name) for name in self.config.heads}
        recalled = PopulationResult(old.column("accuracy"), old.memberships, old.deviation, old.states, 0, heads)
        order = np.argsort(np.append(np.setdiff1d(np.arange(len(hashes)), unrecorded), unrecorded))
        return concatenate_results(recalled, asked).take(order)


def new_searcher(config: SearchConfig, space: SearchSpace, rng: np.random.Generator) -> Searcher:
    """A new searcher as configured."""
    new = searcher(config.searcher)(space, len(config.directed), config.population, rng)
    new.batch = config.share
    return new


class Archipelago(Protocol):
    """All islands of a search, wherever they run. Each works on one task at a time."""

    def start(self, states: Mapping[int, State | None], measurements: Measurements) -> None:
        """Start or restart islands, by number, from stored states and all measurements so far."""
        ...

    def send(self, tasks: Mapping[int, Task], news: Measurements) -> None:
        """Start a task on each of these islands. ``news``: measurements since their last task."""
        ...

    def receive(self) -> list[tuple[int, Step | Loss]]:
        """Block until at least one island finishes.

        Returns (island, result) pairs; a :class:`Loss` means the island must be restarted.
        """
        ...


class LocalIslands:
    """Islands that run one after another in this process. ``watch`` is called before each step."""

    def __init__(self, config: SearchConfig, evaluator: Evaluator, watch: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self.evaluator = evaluator
        self.watch = watch
        self.islands: dict[int, Island] = {}
        self.waiting: list[tuple[int, Task, Measurements]] = []

    def start(self, states: Mapping[int, State | None], measurements: Measurements) -> None:
        """Start or restart islands from stored states."""
        for i, state in states.items():
            self.islands[i] = Island(self.config, i, self.evaluator)
            self.islands[i].restore(state, measurements)

    def send(self, tasks: Mapping[int, Task], news: Measurements) -> None:
        """Queue the tasks."""
        self.waiting += [(i, task, news) for i, task in tasks.items()]

    def receive(self) -> list[tuple[int, Step | Loss]]:
        """Run the oldest task in the queue."""
        self.watch()
        i, task, news = self.waiting.pop(0)
        try:
            return [(i, self.advance(i, task, news))]
        except GennapeError as error:
            return [(i, loss_by(error))]

    def advance(self, island: int, task: Task, news: Measurements) -> Step:
        """Run one generation of one island."""
        return self.islands[island].advance(task, news)


def loss_by(error: GennapeError) -> Loss:
    """Convert an island's error into a loss."""
    return Loss(Outcome.PREEMPTED if isinstance(error, IslandLostError) else Outcome.FAILED, error)
