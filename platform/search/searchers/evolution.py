"""A population that breeds among neighbours on its front; what algorithms differ in is who survives.

pymoo does the generations, with the space's own sampling, crossover and mutation. Its ``random_state`` is the
searcher's generator, which it hands to every operator.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from pymoo.algorithms.base.genetic import GeneticAlgorithm
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling
from pymoo.core.selection import Selection
from pymoo.core.termination import NoTermination
from scipy.spatial import KDTree

from gennape.platform.search.searchers.base import Searcher, State

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64
    from pymoo.core.survival import Survival

    from gennape.search_spaces.families.space import SearchSpace

CROSSOVER_PROBABILITY = 0.9  # Deb et al., 2002
#: Share of children in which a gene is redrawn. More disturb what crossover of two good neighbours gives.
MUTATION_PROBABILITY = 0.3
#: Share of new networks among children below which half of a batch is a sample: a small space is nearly used up.
MIN_NOVELTY = 0.5
#: Networks nearest to the first parent among which the second is drawn.
NEIGHBOURS = 10


class _Sample(Sampling):  # type: ignore[misc]
    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space

    def _do(self, _problem: Any, n: int, *_: Any, random_state: np.random.Generator, **__: Any) -> np.ndarray:
        return self.space.sample(random_state, n)


class _Parents(Selection):  # type: ignore[misc]
    """The first by binary tournament of rank and crowding, the second from its neighbours on the front.

    Neighbours are near in the ranks of all objectives, so that no objective's scale matters.
    """

    def _do(
        self,
        _problem: Any,
        pop: Population,
        n: int,
        _parents: int,
        *_: Any,
        random_state: np.random.Generator,
        **__: Any,
    ) -> Int64[np.ndarray, "n 2"]:
        rank, crowding = pop.get("rank", "crowding")
        one, other = random_state.integers(len(pop), size=(2, n))
        wins = (rank[one] < rank[other]) | ((rank[one] == rank[other]) & (crowding[one] >= crowding[other]))
        first = np.where(wins, one, other)
        places = pop.get("F").argsort(0, kind="stable").argsort(0, kind="stable").astype(np.float64)
        near = min(NEIGHBOURS + 1, len(pop))  # the nearest is itself
        _, nearest = KDTree(places).query(places[first], k=near)
        second = nearest.reshape(n, near)[np.arange(n), random_state.integers(min(1, near - 1), near, size=n)]
        return np.stack([first, second], axis=1).astype(np.int64)


class _Cross(Crossover):  # type: ignore[misc]
    def __init__(self, space: SearchSpace) -> None:
        super().__init__(n_parents=2, n_offsprings=1, prob=CROSSOVER_PROBABILITY)
        self.space = space

    def _do(
        self, _problem: Any, parents: np.ndarray, *_: Any, random_state: np.random.Generator, **__: Any
    ) -> np.ndarray:
        return self.space.crossover(parents[0], parents[1], random_state)[None]


class _Mutate(Mutation):  # type: ignore[misc]
    def __init__(self, space: SearchSpace) -> None:
        super().__init__(prob=MUTATION_PROBABILITY)
        self.space = space

    def _do(
        self, _problem: Any, genomes: np.ndarray, *_: Any, random_state: np.random.Generator, **__: Any
    ) -> np.ndarray:
        return self.space.mutate(genomes, random_state, rate=0.0)  # one gene each


class _Generations(GeneticAlgorithm):  # type: ignore[misc]
    def _set_optimum(self) -> None:
        """The front is kept elsewhere."""
        self.opt = self.pop


class EvolutionarySearcher(Searcher):
    """Breeds ``batch`` children a generation and keeps ``population`` networks.

    The first parent wins a binary tournament; the second is one of its neighbours on the front, since children of
    networks that differ much are rarely good.
    """

    def __init__(self, space: SearchSpace, objectives: int, population: int, rng: np.random.Generator) -> None:
        super().__init__(space, objectives, population, rng)
        self._algorithm = self._fresh()

    @abstractmethod
    def _survival(self) -> Survival:
        """Who stays in the population. It sets ``rank`` and ``crowding`` of survivors, for the tournament."""

    def _fresh(self) -> _Generations:
        algorithm = _Generations(
            pop_size=self.population,
            sampling=_Sample(self.space),
            selection=_Parents(),
            crossover=_Cross(self.space),
            mutation=_Mutate(self.space),
            survival=self._survival(),
            eliminate_duplicates=True,
            advance_after_initial_infill=True,
        )
        problem = Problem(n_var=len(self.space.genes), n_obj=self.objectives)
        algorithm.setup(problem, termination=NoTermination(), seed=0)
        algorithm.random_state = self.rng
        return algorithm

    def ask(self) -> Int64[np.ndarray, "n g"]:
        """The initial sample, later the offspring; distinct from each other and from the population."""
        if self._algorithm.is_initialized and self.novelty < MIN_NOVELTY:
            children = self._breed(self.batch - self.batch // 2)
            members = self._algorithm.pop.get("X").astype(np.int64)
            known = {row.tobytes() for row in np.concatenate([members, children])}
            drawn = np.unique(self.space.sample(self.rng, self.batch // 2), axis=0)
            return np.concatenate([children, drawn[[row.tobytes() not in known for row in drawn]]])
        return self._breed(self.batch)

    def _breed(self, count: int) -> Int64[np.ndarray, "n g"]:
        algorithm = self._algorithm
        algorithm.n_offsprings = algorithm.pop_size = count
        asked = algorithm.ask()
        algorithm.pop_size = self.population
        # pymoo proposes nothing and terminates once every offspring is already in the population.
        algorithm.termination.force_termination = False
        if asked is None or len(asked) == 0:
            return np.zeros((0, len(self.space.genes)), np.int64)
        genomes: Int64[np.ndarray, "n g"] = asked.get("X").astype(np.int64)
        return genomes

    def tell(self, genomes: Int64[np.ndarray, "n g"], objectives: Float64[np.ndarray, "n m"]) -> None:
        """Merge with the population and keep the best."""
        self.check(genomes, objectives)
        if len(genomes):
            self._algorithm.tell(infills=Population.new("X", genomes, "F", objectives))

    def immigrate(self, genomes: Int64[np.ndarray, "n g"], objectives: Float64[np.ndarray, "n m"]) -> None:
        """Let immigrants compete for places in the population at once; genomes that are already in it are ignored."""
        self.check(genomes, objectives)
        algorithm = self._algorithm
        if not algorithm.is_initialized:
            self.tell(genomes, objectives)
            return
        members = {row.tobytes() for row in algorithm.pop.get("X").astype(np.int64)}
        new = [i for i, row in enumerate(genomes) if row.tobytes() not in members]
        if not new:
            return
        merged = Population.merge(algorithm.pop, Population.new("X", genomes[new], "F", objectives[new]))
        algorithm.pop = algorithm.survival.do(
            algorithm.problem, merged, n_survive=self.population, algorithm=algorithm, random_state=self.rng
        )

    def state(self) -> State:
        """Genomes, objectives, rank and crowding of the population, the generation and the generator."""
        state = super().state() | {"generation": np.array([self._algorithm.n_iter or 0])}
        state["novelty"] = np.array([self.novelty])
        if self._algorithm.is_initialized:
            population = self._algorithm.pop
            for key, attribute in _ATTRIBUTES:
                state[key] = np.asarray(population.get(attribute))
        return state

    def restore(self, state: State) -> None:
        """Rebuild pymoo's population around the stored arrays."""
        super().restore(state)
        algorithm = self._algorithm = self._fresh()
        self.novelty = float(state["novelty"][0]) if "novelty" in state else 1.0  # older versions stored none
        if "genomes" not in state:
            return
        values = [item for key, attribute in _ATTRIBUTES for item in (attribute, state[key])]
        algorithm.pop = Population.new(*values)
        algorithm.is_initialized = True
        algorithm.n_iter = int(state["generation"][0])


_ATTRIBUTES = (("genomes", "X"), ("objectives", "F"), ("rank", "rank"), ("crowding", "crowding"))
