"""The extension point for search algorithms: ask for genomes, tell their objectives."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from gennape.errors import InvalidDataError

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64, UInt8

    from gennape.search_spaces.families.space import SearchSpace

#: A searcher's whole state: arrays only, so that it is stored without pickle.
State = dict[str, np.ndarray]


class Searcher(ABC):
    """A search algorithm: proposes genomes of one space and learns from their objectives.

    A subclass gives ``name``, ``ask`` and ``tell`` and, where it remembers anything, ``state``, ``restore`` and
    ``immigrate``. Every random choice comes from ``self.rng``, so that a restored searcher continues bit for bit.
    Objectives are always minimised. :func:`gennape.register` runs the conformance suite
    (``gennape.platform.search.searchers.testing``).

    ``batch``, the population at first, is how many genomes of an :meth:`ask` are evaluated; an island sets it, and
    takes the first of those that are more. ``novelty``, which an island sets too, is the share of the last ones that
    had not been evaluated before.

    Args:
        space: The search space.
        objectives: How many there are.
        population: How many networks it keeps, and how many genomes :meth:`ask` proposes, at most.
        rng: The generator of every random choice.

    Example:
        >>> import gennape as gp
        >>> class Sampler(gp.Searcher):
        ...     name = "sampler"
        ...     def ask(self):
        ...         return self.space.sample(self.rng, self.population)
        ...     def tell(self, genomes, objectives):
        ...         self.check(genomes, objectives)
        >>> gp.register(Sampler).name
        'sampler'
        >>> Sampler(gp.family("hiaml"), 2, 10, np.random.default_rng(0)).ask().shape
        (10, 4)
    """

    #: Key on the command line and in tracking.
    name: ClassVar[str]
    #: Whether others are compared with it, so that it starts from nothing but what it asks for.
    baseline: ClassVar[bool] = False

    def __init__(self, space: SearchSpace, objectives: int, population: int, rng: np.random.Generator) -> None:
        self.space = space
        self.objectives = objectives
        self.population = self.batch = population
        self.rng = rng
        self.novelty = 1.0

    @abstractmethod
    def ask(self) -> Int64[np.ndarray, "n g"]:
        """The next canonical genomes to evaluate, up to ``batch``; none when it has nothing left to propose."""

    @abstractmethod
    def tell(self, genomes: Int64[np.ndarray, "n g"], objectives: Float64[np.ndarray, "n m"]) -> None:
        """Learn the objectives of asked genomes: any subset, none included.

        Raises :class:`InvalidDataError` when an objective is not finite.
        """

    def immigrate(self, genomes: Int64[np.ndarray, "n g"], objectives: Float64[np.ndarray, "n m"]) -> None:
        """Receive elites of another island. Searchers without a population ignore them."""
        self.check(genomes, objectives)

    def state(self) -> State:
        """The complete state of the searcher."""
        return {"rng": pack_generator(self.rng)}

    def restore(self, state: State) -> None:
        """Continue exactly like the searcher that returned ``state``."""
        self.rng = unpack_generator(state["rng"])

    def check(self, genomes: Int64[np.ndarray, "n g"], objectives: Float64[np.ndarray, "n m"]) -> None:
        """Refuse objectives of the wrong shape or not finite: one NaN would make every later front meaningless."""
        if objectives.shape != (len(genomes), self.objectives):
            raise InvalidDataError(
                f"{len(genomes)} genomes need objectives of shape {(len(genomes), self.objectives)}, "
                f"got {objectives.shape}"
            )
        if not np.isfinite(objectives).all():
            row = int(np.flatnonzero(~np.isfinite(objectives).all(1))[0])
            raise InvalidDataError(
                f"objectives must be finite, got {objectives[row].tolist()} for genome {genomes[row].tolist()}; "
                "leave out what could not be evaluated"
            )


def pack_generator(rng: np.random.Generator) -> UInt8[np.ndarray, " b"]:
    """State of a numpy generator as the bytes of a JSON text."""
    text = json.dumps(rng.bit_generator.state, default=_plain)
    return np.frombuffer(text.encode(), np.uint8).copy()


def unpack_generator(packed: UInt8[np.ndarray, " b"]) -> np.random.Generator:
    """The generator that :func:`pack_generator` stored."""
    state: dict[str, Any] = json.loads(packed.tobytes())
    if state.get("bit_generator") != "PCG64":
        raise InvalidDataError(f"stored generators are PCG64, got {state.get('bit_generator')!r}")
    bits = np.random.PCG64(0)
    bits.state = cast("Any", state)
    return np.random.Generator(bits)


def _plain(value: object) -> int:
    if isinstance(value, np.integer):
        return int(value)
    raise TypeError(f"{type(value)} in the state of a generator")
