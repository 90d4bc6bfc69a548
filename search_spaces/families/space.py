"""The search space: genomes (arrays), architectures (JSON) and the graphs they stand for."""

from __future__ import annotations

import html
import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from gennape.errors import InvalidArchitectureError, InvalidGraphError
from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.graph import ComputationGraph, PackedGraphs, pack

#: An architecture as JSON: what people read, files hold and HTTP carries.
Architecture = Any


@dataclass(frozen=True, slots=True)
class Gene:
    """One position of a genome, and the values that it can take.

    A genome holds integers: ``i`` stands for ``values[i]``.

    Args:
        name: What the gene decides, as errors call it.
        values: The possible values.
        sampled: Indices of the values that sampling and mutation draw; None draws all. Every value stays valid in a
            genome.

    Example:
        >>> import gennape as gp
        >>> gene = gp.Gene("kernel", (3, 5, 7), sampled=(0, 1))
        >>> gene.values[2], gene.drawn
        (7, (0, 1))
    """

    name: str
    values: tuple[Hashable, ...]
    sampled: tuple[int, ...] | None = None

    @property
    def drawn(self) -> tuple[int, ...]:
        """Indices that sampling and mutation draw from."""
        return tuple(range(len(self.values))) if self.sampled is None else self.sampled


class SearchSpace(ABC):
    """A search space: what varies between its networks, and which graph each of them is.

    A subclass gives ``name``, ``genes`` and ``emit``. Where architectures are written otherwise than as an object of
    the genes' values by name, it overrides ``encode`` and ``decode``. If some genes do not matter under others, it
    overrides ``canonical``. If not every genome is an architecture, it overrides ``feasible``. Sampling, mutation,
    crossover, validation and graphs are derived. Genomes are int64 arrays [n, g], with one column per gene. Every
    method that draws takes a generator.

    Example:
        >>> import gennape as gp
        >>> class Plain(gp.SearchSpace):
        ...     name = "plain"
        ...     genes = (gp.Gene("width", (16, 32)), gp.Gene("kernel", (3, 5)))
        ...     def emit(self, b, genome):
        ...         width, kernel = self.values(genome)
        ...         x = b.relu(b.conv(b.input(3, 32, 32), width, kernel))
        ...         return b.linear(b.mean(x), 10)
        >>> space = Plain()
        >>> graphs = space.graphs(space.sample(np.random.default_rng(0), 4))
        >>> graphs
        PackedGraphs(4 graphs, 24 nodes)
        >>> gp.params(space.graph(space.decode({"width": 16, "kernel": 3})))
        602
    """

    #: Key of the family in files, on the command line and in tracking.
    name: str
    #: One entry per position of a genome.
    genes: tuple[Gene, ...]

    def values(self, genome: Int64[np.ndarray, " g"]) -> list[Any]:
        """The value of every gene of a genome, in the order of the genes."""
        return [gene.values[i] for gene, i in zip(self.genes, genome.tolist(), strict=True)]

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """The architecture of a canonical genome, as JSON; unless overridden, the genes' values by their names."""
        return dict(zip((gene.name for gene in self.genes), self.values(genome), strict=True))

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """The canonical genome of an architecture, the inverse of :meth:`encode`.

        Raises :class:`InvalidArchitectureError` naming what is wrong.
        """
        fields = require_keys(architecture, [gene.name for gene in self.genes], self.name)
        genome = np.array([index_of(gene, fields[gene.name], self.name) for gene in self.genes], np.int64)
        return self.canonical(genome[None])[0]

    @abstractmethod
    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Put the network of a valid genome into ``b``, from its input on, and return its result.

        Where the graph that was published of a network differs from the network, ``b.published`` asks for the former.
        """

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """The same architectures with genes that do not matter set to 0. Idempotent."""
        return genomes

    def feasible(self, genomes: Int64[np.ndarray, "n g"]) -> Bool[np.ndarray, " n"]:
        """Which genomes, all genes being in range, are architectures of this space."""
        return np.ones(len(genomes), bool)

    def __repr__(self) -> str:
        """Its name and how much it holds."""
        genomes = math.prod(len(gene.values) for gene in self.genes)
        size = f"{genomes:,}" if genomes < 10**6 else f"{Decimal(genomes):.1e}"
        return f"{type(self).__name__}({self.name!r}: {len(self.genes)} genes, {size} genomes)"

    def _repr_html_(self) -> str:
        """What varies, as a table, for notebooks."""
        rows = "".join(
            f"<tr><td>{html.escape(gene.name)}</td><td>{html.escape(', '.join(map(str, gene.values)))}</td></tr>"
            for gene in self.genes
        )
        return f"<b>{html.escape(repr(self))}</b><table><tr><th>gene</th><th>values</th></tr>{rows}</table>"

    # Derived -------------------------------------------------------------------------------------------------------

    def graph(self, genome: Int64[np.ndarray, " g"], published: bool = False) -> ComputationGraph:
        """The computation graph of a valid genome: of the network, or as it was ``published``."""
        b = GraphBuilder(published)
        result = self.emit(b, genome)
        if not isinstance(result, Value):
            raise InvalidGraphError(f"{self.name}: emit gives {shown(result)}, must return the value of the last layer")
        b.output(result)
        return b.build()

    def graphs(self, genomes: Int64[np.ndarray, "n g"]) -> PackedGraphs:
        """The graphs of many genomes, packed."""
        return pack([self.graph(genome) for genome in genomes])

    def validate(self, genomes: Shaped[np.ndarray, "..."]) -> None:
        """Raise :class:`InvalidArchitectureError` naming the first genome and gene outside this space."""
        genomes = np.asarray(genomes)
        if genomes.ndim != 2 or genomes.shape[1] != len(self.genes) or genomes.dtype.kind not in "iu":
            raise InvalidArchitectureError(
                f"{self.name} takes integer genomes of shape [n, {len(self.genes)}], "
                f"got {genomes.dtype} of shape {list(genomes.shape)}"
            )
        limits = np.array([len(gene.values) for gene in self.genes])
        outside = (genomes < 0) | (genomes >= limits)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise InvalidArchitectureError(
                f"{self.name} genome {row}: gene {column} ({self.genes[column].name}) is {genomes[row, column]}, "
                f"must be 0..{limits[column] - 1}"
            )
        feasible = self.feasible(genomes)
        if not feasible.all():
            row = int(np.flatnonzero(~feasible)[0])
            raise InvalidArchitectureError(
                f"{self.name} genome {row} {genomes[row].tolist()} is not an architecture of this space"
            )

    def sample(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, "n g"]:
        """``n`` canonical genomes, each gene uniform over its drawn values, infeasible ones redrawn."""
        return self._redraw(lambda k: self._draw(rng, k), n)

    def mutate(
        self, genomes: Int64[np.ndarray, "n g"], rng: np.random.Generator, rate: float | None = None
    ) -> Int64[np.ndarray, "n g"]:
        """Redraw each gene with probability ``rate`` (default one per genome on average), at least one each.

        Changes that leave the space are drawn again; a genome that finds no neighbour in 32 tries is kept.
        """
        probability = 1 / len(self.genes) if rate is None else rate
        children = genomes.copy()
        waiting = np.arange(len(genomes))
        for _ in range(32):
            if len(waiting) == 0:
                break
            parents = genomes[waiting]
            chosen = rng.random(parents.shape) < probability
            chosen[np.arange(len(parents)), rng.integers(parents.shape[1], size=len(parents))] = True
            trial = self.canonical(np.where(chosen, self._draw(rng, len(parents)), parents))
            good = self.feasible(trial) & (trial != parents).any(1)
            children[waiting[good]] = trial[good]
            waiting = waiting[~good]
        return children

    def crossover(
        self, first: Int64[np.ndarray, "n g"], second: Int64[np.ndarray, "n g"], rng: np.random.Generator
    ) -> Int64[np.ndarray, "n g"]:
        """Uniform crossover: each gene from either parent; a child outside the space becomes its first parent."""
        children = self.canonical(np.where(rng.random(first.shape) < 0.5, first, second))
        return np.where(self.feasible(children)[:, None], children, first)

    def _draw(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, "n g"]:
        columns = [np.asarray(gene.drawn, np.int64)[rng.integers(len(gene.drawn), size=n)] for gene in self.genes]
        return np.stack(columns, axis=1)

    def _redraw(self, draw: Any, n: int) -> Int64[np.ndarray, "n g"]:
        kept: list[np.ndarray] = []
        missing = n
        for _ in range(1000):
            if missing <= 0:
                break
            genomes = draw(max(2 * missing, 16))
            kept.append(genomes[self.feasible(genomes)][:missing])
            missing -= len(kept[-1])
        if missing > 0:
            raise InvalidArchitectureError(f"{self.name}: sampling found too few architectures; check its genes")
        return self.canonical(np.concatenate(kept)) if kept else np.zeros((0, len(self.genes)), np.int64)


_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 12
_SHORT.maxstring = _SHORT.maxother = 300


def shown(value: object) -> str:
    """A value of somebody else's in an error: as Python writes it, cut to what a person reads."""
    return _SHORT.repr(value)


def index_of(gene: Gene, value: object, family: str) -> int:
    """Position of ``value`` in a gene; raises :class:`InvalidArchitectureError` that lists what is allowed."""
    try:
        return gene.values.index(value)
    except ValueError:
        raise InvalidArchitectureError(
            f"{family}: {gene.name} is {shown(value)}, must be one of {list(gene.values)}"
        ) from None


def require_keys(architecture: Any, keys: Sequence[str], family: str) -> Mapping[str, Any]:
    """The architecture as a mapping with exactly ``keys``; raises :class:`InvalidArchitectureError` otherwise."""
    if not isinstance(architecture, dict):
        raise InvalidArchitectureError(
            f"{family}: an architecture is an object with {list(keys)}, got {shown(architecture)}"
        )
    missing, unknown = set(keys) - set(architecture), set(architecture) - set(keys)
    if missing or unknown:
        raise InvalidArchitectureError(
            f"{family}: an architecture has the keys {list(keys)}; "
            f"missing {sorted(missing)}, unknown {shown(sorted(map(str, unknown)))}"
        )
    return architecture
