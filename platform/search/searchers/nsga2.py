"""NSGA-II (Deb et al., 2002) through pymoo's ask and tell, with the space's own sampling, crossover and mutation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling
from pymoo.core.termination import NoTermination

from gennape.platform.search.searchers.base import Searcher, State

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

    from gennape.search_spaces.families.space import SearchSpace

CROSSOVER_PROBABILITY = 0.9  # Deb et al., 2002


class _Sample(Sampling):  # type: ignore[misc]
    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space

    def _do(self, _problem: Any, n: int, *_: Any, random_state: np.random.Generator, **__: Any) -> np.ndarray:
        return self.space.sample(random_state, n)


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
        super().__init__(prob=1.0)
        self.space = space

    def _do(
        self, _problem: Any, genomes: np.ndarray, *_: Any, random_state: np.random.Generator, **__: Any
    ) -> np.ndarray:
        return self.space.mutate(genomes, random_state)


class NSGA2(Searcher):
    """A population that breeds by binary tournament and survives by rank and crowding distance.

    pymoo draws from ``self.rng`` only: it hands its ``random_state`` to every operator, and that is this generator.
    """

    name = "nsga2"

    def __init__(self, space: SearchSpace, objectives: int, population: int, rng: np.random.Generator) -> None:
        super().__init__(space, objectives, population, rng)
        self._algorithm = self._fresh()

    def _fresh(self) -> PymooNSGA2:
        algorithm = PymooNSGA2(
            pop_size=self.population,
            sampling=_Sample(self.space),
            crossover=_Cross(self.space),
            mutation=_Mutate(self.space),
        )
        problem = Problem(n_var=len(self.space.genes), n_obj=self.objectives)
        algorithm.setup(problem, termination=NoTermination(), seed=0)
        algorithm.random_state = self.rng
        return algorithm

    def ask(self) -> Int64[np.ndarray, "n g"]:
        """The initial sample, later the offspring; distinct from each other and from the population."""
        asked = self._algorithm.ask()
        # pymoo proposes nothing and terminates once every offspring is already in the population.
        self._algorithm.termination.force_termination = False
        if asked is None or len(asked) == 0:
            return np.zeros((0, len(self.space.genes)), np.int64)
        genomes: Int64[np.ndarray, "n g"] = asked.get("X").astype(np.int64)
        return genomes

    def tell(self, genomes: Int64[np.ndarray, "n g"], objectives: Float64[np.ndarray, "n m"]) -> None:
        """Merge with the population and keep the best by rank and crowding."""
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
        if self._algorithm.is_initialized:
            population = self._algorithm.pop
            for key, attribute in _ATTRIBUTES:
                state[key] = np.asarray(population.get(attribute))
        return state

    def restore(self, state: State) -> None:
        """Rebuild pymoo's population around the stored arrays."""
        super().restore(state)
        algorithm = self._algorithm = self._fresh()
        if "genomes" not in state:
            return
        values = [item for key, attribute in _ATTRIBUTES for item in (attribute, state[key])]
        algorithm.pop = Population.new(*values)
        algorithm.is_initialized = True
        algorithm.n_iter = int(state["generation"][0])


_ATTRIBUTES = (("genomes", "X"), ("objectives", "F"), ("rank", "rank"), ("crowding", "crowding"))
