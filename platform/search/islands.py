"""Islands: one searcher with a generator each, evaluating whole populations; as Ray actors or in this process."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from gennape.errors import GennapeError
from gennape.platform.cluster.own_code import carried
from gennape.platform.search.evaluations import Evaluations, as_objects, digests_of, narrow, none_evaluated
from gennape.platform.search.evaluator import (
    PopulationResult,
    concatenate_results,
    evaluate_population,
    no_accuracy_error,
)
from gennape.platform.search.failures import IslandLostError, Loss, Outcome
from gennape.platform.search.objectives import NAMES, measure, minimised
from gennape.platform.search.searchers.registry import REGISTRY as SEARCHERS
from gennape.platform.search.searchers.registry import searcher
from gennape.platform.search.seen import Measurements, SeenNetworks, measurements_of
from gennape.platform.search.starting import starting_genomes
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.families.registry import REGISTRY as FAMILIES
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Int64

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.evaluator import Evaluator
    from gennape.platform.search.searchers.base import Searcher, State
    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.graphs.graph import PackedGraphs

#: Size of an island's cache of genome hashes, first in first out. Other genomes are built to compute their hashes.
REMEMBERED = 20_000
WATCH_S = 2.0


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
    ) -> None:
        FAMILIES.take(spaces)
        SEARCHERS.take(searchers)
        # Spawned rather than seeded by index, so that the generators of all islands are independent for every seed.
        seed = np.random.SeedSequence(config.seed).spawn(config.islands)[index]
        self.space = family(config.space)
        self.config = config
        self.objectives = config.directed
        self.index = index
        self.evaluator = evaluator
        self.seen = SeenNetworks()
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
            self.searcher.immigrate(guests.genomes, minimised(guests.values, self.objectives))
        starting = self._starting(task)
        genomes = np.concatenate([starting, self.searcher.ask()[: self.config.share]])
        hashes, new, timeouts = self._evaluate(genomes, task)
        self.seen.add(measurements_of(new))
        found, values = self.seen.find(digests_of(hashes))
        if len(new) and not self.seen.any_finite:
            raise no_accuracy_error(new.states, f"{self.space.name}, first {self.space.encode(new.genomes[0])}")
        finite = np.isfinite(values).all(1)
        self.searcher.novelty = len(new) / max(len(genomes), 1)
        asked, points = np.arange(len(genomes)) >= len(starting), minimised(values, self.objectives)
        self.searcher.tell(genomes[finite & asked], points[finite & asked])
        if len(starting):
            self.searcher.immigrate(genomes[finite & ~asked], points[finite & ~asked])
        return Step(new, int(found.sum()), self.searcher.state(), timeouts)

    def _starting(self, task: Task) -> Int64[np.ndarray, "n g"]:
        """What the first generation evaluates before all that the searcher asks for."""
        if task.generation:
            return np.zeros((0, len(self.space.genes)), np.int64)
        return starting_genomes(self.config, self.space, self.index)

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
            return none_evaluated(len(self.space.genes)), 0
        result = (
            evaluate_population(self.evaluator, graphs)
            if task.recorded is None
            else self._recall(hashes, graphs, task.recorded)
        )
        # Costs are computed from the graphs, independent of the predictor.
        values = measure(graphs, Prediction(result.accuracy, result.memberships))
        island, born = np.full(len(hashes), self.index, np.int64), np.full(len(hashes), task.generation, np.int64)
        texts = as_objects([json.dumps(self.space.encode(genome)) for genome in genomes])
        columns = (genomes, values, result.memberships, island, born, result.states, texts, result.deviation)
        return Evaluations(np.array(hashes, "U32"), *columns), result.timeouts

    def _recall(self, hashes: list[str], graphs: PackedGraphs, recorded: Evaluations) -> PopulationResult:
        """Recorded evaluations where there are any; the other networks are predicted."""
        rows = {digest: row for row, digest in enumerate(recorded.hashes.tolist())}
        unrecorded = np.array([i for i, digest in enumerate(hashes) if digest not in rows], np.int64)
        asked = evaluate_population(self.evaluator, graphs.take(unrecorded))
        old = recorded.take([rows[digest] for digest in hashes if digest in rows])
        recalled = PopulationResult(
            old.values[:, NAMES.index("accuracy")], old.memberships, old.deviation, old.states, 0
        )
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
    """Islands that run one after another in this process, for tests and for searches inside other programs."""

    def __init__(self, config: SearchConfig, evaluator: Evaluator) -> None:
        self.config = config
        self.evaluator = evaluator
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
        i, task, news = self.waiting.pop(0)
        try:
            return [(i, self.advance(i, task, news))]
        except GennapeError as error:
            return [(i, loss_by(error))]

    def advance(self, island: int, task: Task, news: Measurements) -> Step:
        """Run one generation of one island."""
        return self.islands[island].advance(task, news)


class RayIslands:
    """Islands as Ray actors, spread over the cluster. Use as a context manager, which ends the actors.

    Each reserves a quarter of a CPU, or less if all islands would otherwise take more than half of the cluster. An
    island that finds no free CPU, as after the loss of a node, waits for one. ``watch`` is called every few seconds
    while islands are running; an error that it raises ends the wait for them.
    """

    def __init__(self, config: SearchConfig, evaluator: Evaluator, watch: Callable[[], None] = lambda: None) -> None:
        self.config = config
        self.evaluator = evaluator
        self.watch = watch
        self.actors: dict[int, Any] = {}
        self._restored: dict[int, Any] = {}  # calls that the first step of each actor waits for
        self._running: dict[Any, int] = {}

    def __enter__(self) -> RayIslands:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, states: Mapping[int, State | None], measurements: Measurements) -> None:
        """Start or restart actors from stored states; the measurements are put into the object store once."""
        share = ray.cluster_resources().get("CPU", 1) / (2 * self.config.islands)  # type: ignore[no-untyped-call]
        cpus = max(0.001, math.floor(1000 * min(0.25, share)) / 1000)
        actor, shared = ray.remote(num_cpus=cpus, scheduling_strategy="SPREAD")(Island), ray.put(measurements)
        own = carried(FAMILIES.registered), carried(SEARCHERS.registered)
        for i, state in states.items():
            self._end(i)
            self.actors[i] = actor.remote(self.config, i, self.evaluator, *own)
            self._restored[i] = self.actors[i].restore.remote(state, shared)

    def send(self, tasks: Mapping[int, Task], news: Measurements) -> None:
        """Call the actors; news for several of them are put into the object store once."""
        shared = ray.put(news) if len(tasks) > 1 else news
        self._running |= {self.actors[i].advance.remote(task, shared): i for i, task in tasks.items()}

    def receive(self) -> list[tuple[int, Step | Loss]]:
        """Block until at least one call finishes; returns all that have finished."""
        calls = list(self._running)
        while not ray.wait(calls, num_returns=1, timeout=WATCH_S)[0]:
            self.watch()
        ended, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        islands = [(self._running.pop(call), call) for call in ended]
        return [(i, _result([self._restored[i], call])) for i, call in sorted(islands)]

    def stop(self) -> None:
        """End the actors."""
        for i in list(self.actors):
            self._end(i)

    def _end(self, island: int) -> None:
        self._running = {call: i for call, i in self._running.items() if i != island}
        if island in self.actors:
            ray.kill(self.actors.pop(island))


def most_replicas(islands: int) -> int:
    """Maximum number of predictor replicas: one per island, on at most half of the cluster's CPUs."""
    cpus = ray.cluster_resources().get("CPU", 0) if ray.is_initialized() else 0  # type: ignore[no-untyped-call]
    return max(2, min(islands, int(cpus) // 2))


def loss_by(error: GennapeError) -> Loss:
    """Convert an island's error into a loss."""
    return Loss(Outcome.PREEMPTED if isinstance(error, IslandLostError) else Outcome.FAILED, error)


def _result(calls: list[Any]) -> Step | Loss:
    """The result of the last of an actor's calls, or the loss if any of them failed."""
    try:
        step: Step = ray.get(calls)[-1]
    except RayTaskError as error:
        return loss_by(error.cause) if isinstance(error.cause, GennapeError) else Loss(Outcome.FAILED, error)
    except RayError as error:
        return Loss(Outcome.PREEMPTED, IslandLostError(f"an island's process died: {error}"))
    return step
