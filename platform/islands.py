"""Islands: each a searcher with its own generator, evaluating whole populations; as Ray actors or in this process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import ray

from gennape.errors import GennapeError, ServiceError
from gennape.platform.archive import Archive, Evaluations, none_evaluated
from gennape.platform.objectives import measure, minimised
from gennape.platform.searchers.registry import searcher
from gennape.search_spaces.canonical import canonical_hashes
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int64

    from gennape.platform.config import SearchConfig
    from gennape.platform.searchers.searcher import Searcher, State
    from gennape.predictors.predictor import Prediction
    from gennape.search_spaces.graph import PackedGraphs
    from gennape.search_spaces.space import SearchSpace


class Evaluator(Protocol):
    """Whatever predicts a population in one call: a served ensemble's handle, or a predictor."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """One row per graph, independent of the other graphs."""
        ...


class IslandLostError(ServiceError):
    """An island's process died; the generation has to be run again."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One generation of one island.

    ``quota``: how many new networks it may evaluate at most. ``news``: what other islands evaluated since.
    ``immigrants``: elites of the previous island of the ring.
    """

    generation: int
    quota: int
    news: Evaluations
    immigrants: Evaluations


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one generation of one island gave.

    ``evaluations``: the networks that were new to it. ``asked``: genomes proposed, less those beyond its quota.
    ``state``: of its searcher, after.
    """

    evaluations: Evaluations
    asked: int
    state: State


class Island:
    """One population: asks its searcher, recognises known networks, evaluates the others in one call, tells."""

    def __init__(self, config: SearchConfig, index: int, evaluator: Evaluator) -> None:
        # Spawned, not seeded by number: the generators of all islands are independent whatever the seed.
        seed = np.random.SeedSequence(config.seed).spawn(config.islands)[index]
        self.space = family(config.space)
        self.objectives = config.directed
        self.index = index
        self.evaluator = evaluator
        self.archive = Archive(len(self.space.genes))
        self.searcher = new_searcher(config, self.space, np.random.default_rng(seed))

    def restore(self, state: State | None, evaluations: Evaluations) -> None:
        """Take up a stored state (None: the beginning) and all that is evaluated."""
        self.archive.add(evaluations)
        if state is not None:
            self.searcher.restore(state)

    def advance(self, task: Task) -> Step:
        """Run one generation; raises :class:`ServiceError` when the evaluator has no finite answer at all."""
        # Two islands may have evaluated one network at once: the value that was stored holds, as after a resume.
        self.archive.add(task.news, overrule=True)
        if len(task.immigrants):
            guests = task.immigrants
            self.searcher.immigrate(guests.genomes, minimised(guests.values, self.objectives))
        genomes = self.searcher.ask()
        hashes, new = self._evaluate(genomes, task)
        self.archive.add(new)
        known = np.array([digest in self.archive for digest in hashes], bool)
        values = self.archive.values(digest for digest in hashes if digest in self.archive)
        finite = np.isfinite(values).all(1)
        self.searcher.tell(genomes[known][finite], minimised(values[finite], self.objectives))
        return Step(new, int(known.sum()), self.searcher.state())

    def _evaluate(self, genomes: Int64[np.ndarray, "n g"], task: Task) -> tuple[list[str], Evaluations]:
        """Hashes of all genomes, and the evaluations of the first ``quota`` new networks among them."""
        hashes = [self.archive.hash_of(genome) or "" for genome in genomes]
        unmet = np.array([i for i, digest in enumerate(hashes) if not digest], np.int64)
        graphs = self.space.graphs(genomes[unmet])
        rows: dict[str, int] = {}  # of new networks, in the order asked; values index ``unmet``
        for position, (i, digest) in enumerate(zip(unmet.tolist(), canonical_hashes(graphs), strict=True)):
            hashes[i] = digest
            if digest in self.archive or digest in rows:
                self.archive.remember(genomes[i], digest)
            elif len(rows) < task.quota:
                rows[digest] = position
        chosen = np.array(list(rows.values()), np.int64)
        evaluations = self._predict(genomes[unmet[chosen]], list(rows), graphs.take(chosen), task.generation)
        return hashes, evaluations

    def _predict(
        self, genomes: Int64[np.ndarray, "n g"], hashes: list[str], graphs: PackedGraphs, generation: int
    ) -> Evaluations:
        if not hashes:
            return none_evaluated(len(self.space.genes))
        prediction = self.evaluator.predict(graphs)
        values = measure(graphs, prediction)
        if not np.isfinite(values).all(1).any():
            raise ServiceError(
                f"the predictor gave no finite accuracy for any of {len(hashes)} networks of {self.space.name}, "
                f"first {self.space.encode(genomes[0])}; check its checkpoint"
            )
        memberships = np.asarray(prediction.memberships, np.float64)
        island, born = np.full(len(hashes), self.index, np.int64), np.full(len(hashes), generation, np.int64)
        return Evaluations(np.array(hashes, "U32"), genomes, values, memberships, island, born)


def new_searcher(config: SearchConfig, space: SearchSpace, rng: np.random.Generator) -> Searcher:
    """The configured searcher over a space."""
    return searcher(config.searcher)(space, len(config.directed), config.population, rng)


class Archipelago(Protocol):
    """All islands of a search, wherever they run."""

    def start(self, states: Sequence[State | None], evaluations: Evaluations) -> None:
        """Make the islands anew from stored states."""
        ...

    def advance(self, tasks: Sequence[Task]) -> list[Step]:
        """One generation of every island; raises :class:`IslandLostError` when one died."""
        ...


class LocalIslands:
    """Islands one after another in this process: for tests and for searches inside other programs."""

    def __init__(self, config: SearchConfig, evaluator: Evaluator) -> None:
        self.config = config
        self.evaluator = evaluator
        self.islands: list[Island] = []

    def start(self, states: Sequence[State | None], evaluations: Evaluations) -> None:
        """Make the islands anew from stored states."""
        self.islands = [Island(self.config, i, self.evaluator) for i in range(self.config.islands)]
        for island, state in zip(self.islands, states, strict=True):
            island.restore(state, evaluations)

    def advance(self, tasks: Sequence[Task]) -> list[Step]:
        """One generation of every island, in their order."""
        return [island.advance(task) for island, task in zip(self.islands, tasks, strict=True)]


class RayIslands:
    """Islands as Ray actors. Use as a context manager: the actors end with it.

    Each reserves a quarter of a CPU, less where many islands would otherwise take more than half of the cluster.
    """

    def __init__(self, config: SearchConfig, evaluator: Evaluator) -> None:
        self.config = config
        self.evaluator = evaluator
        share = ray.cluster_resources().get("CPU", 1) / (2 * config.islands)  # type: ignore[no-untyped-call]
        self.cpus = max(0.001, math.floor(1000 * min(0.25, share)) / 1000)
        self.actors: list[Any] = []

    def __enter__(self) -> RayIslands:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, states: Sequence[State | None], evaluations: Evaluations) -> None:
        """Make the actors anew from stored states; the evaluations travel once through the object store."""
        self.stop()
        actor = ray.remote(num_cpus=self.cpus)(Island)
        self.actors = [actor.remote(self.config, i, self.evaluator) for i in range(self.config.islands)]
        shared = ray.put(evaluations)
        _gather([a.restore.remote(s, shared) for a, s in zip(self.actors, states, strict=True)])

    def advance(self, tasks: Sequence[Task]) -> list[Step]:
        """One generation of every island at the same time."""
        return _gather([actor.advance.remote(task) for actor, task in zip(self.actors, tasks, strict=True)])

    def stop(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []


def _gather(references: list[Any]) -> list[Any]:
    """Results of actor calls; our own errors come out as themselves, a dead actor as :class:`IslandLostError`."""
    try:
        results: list[Any] = ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GennapeError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise IslandLostError(f"an island's process died: {error}") from error
    return results
