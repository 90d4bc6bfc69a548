"""Networks that begin a search beside its sample: the ends of the space, found from its genes and graphs alone."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gennape.platform.search.given_starts import given_genomes
from gennape.platform.search.searchers.registry import searcher
from gennape.search_spaces.graphs import cost

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

    from gennape.platform.search.settings import SearchConfig
    from gennape.search_spaces.families.space import Gene, SearchSpace

    _Effects = tuple[Int64[np.ndarray, " e"], Int64[np.ndarray, " e"], Float64[np.ndarray, " e"]]

#: Networks from which the effect of every gene's value on cost is estimated, and their penalty in that regression.
_PROBES, _RIDGE = 96, 0.3
#: Rounds of descent, and neighbours by one gene that each builds for each of the four ends.
_ROUNDS, _NEIGHBOURS = 3, 24
#: Groups of genes of which every combination of small and large is a corner; of more, one group at a time differs.
_MAX_CROSSED = 4


def starting_genomes(config: SearchConfig, space: SearchSpace, island: int) -> Int64[np.ndarray, "n g"]:
    """Genomes that an island evaluates in its first generation, beside what its searcher asks for.

    Args:
        config: Settings of the search; its seed decides the result.
        space: The search space, or the part of it that is searched.
        island: Number of the island. Given architectures are dealt out; all islands begin with the same ends, which
            count once.

    Returns:
        Distinct canonical genomes: the given ones, then the ends, which a baseline does without.
    """
    given = given_genomes(config, space, island)
    if searcher(config.searcher).baseline:
        return given
    return _valid(space, np.concatenate([given, extreme_genomes(space, np.random.default_rng(config.seed))]))


def extreme_genomes(space: SearchSpace, rng: np.random.Generator) -> Int64[np.ndarray, "n g"]:
    """The smallest and the largest networks of a space by FLOPs and parameters, and corners between them.

    Accuracy mostly grows with cost, so that the largest networks are also the ends of accuracy. A corner takes some
    groups of genes from the smallest network, the others from the largest: deep but narrow, say. Some 400 graphs are
    built at most.
    """
    probes = [space.sample(rng, _PROBES), _first_and_last(space)]
    tried = _Tried(np.zeros((0, len(space.genes)), np.int64), np.zeros((0, 2))).extended(space, np.concatenate(probes))
    directions = [(column, sign) for sign in (1.0, -1.0) for column in range(2)]
    for _ in range(_ROUNDS):
        trials = [_trials(space, tried.genomes, sign * tried.costs[:, column]) for column, sign in directions]
        tried = tried.extended(space, np.concatenate(trials))
    ends = [tried.genomes[np.argmin(sign * tried.costs[:, column])] for column, sign in directions]
    whole = [
        _filled(space, end, _effects(space.genes, tried.genomes, sign * tried.costs[:, column]))
        for end, (column, sign) in zip(ends, directions, strict=True)
    ]
    corners = [_corners(space.genes, whole[column], whole[column + 2]) for column in range(2)]
    return _valid(space, np.concatenate([np.stack(ends), *corners]))


@dataclass(frozen=True)
class _Tried:
    """Genomes, and logarithms of their FLOPs and parameters."""

    genomes: Int64[np.ndarray, "n g"]
    costs: Float64[np.ndarray, "n 2"]

    def extended(self, space: SearchSpace, genomes: Int64[np.ndarray, "n g"]) -> _Tried:
        """These and new ones."""
        known = {row.tobytes() for row in self.genomes}
        new = [row for row in _valid(space, genomes) if row.tobytes() not in known]
        if not new:
            return self
        graphs = space.graphs(np.stack(new))
        costs = np.log1p(np.stack([cost.flops(graphs), cost.params(graphs)], axis=1).astype(np.float64))
        return _Tried(np.concatenate([self.genomes, np.stack(new)]), np.concatenate([self.costs, costs]))


def _valid(space: SearchSpace, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
    """The distinct architectures among genomes, canonical, in their order."""
    canonical = space.canonical(genomes)
    _, first = np.unique(canonical, axis=0, return_index=True)
    distinct = canonical[np.sort(first)]
    return distinct[space.feasible(distinct)]


def _first_and_last(space: SearchSpace) -> Int64[np.ndarray, "2 g"]:
    """All genes at their first value, and all at their last: the ends, where values are written in their order."""
    return np.array([[gene.drawn[at] for gene in space.genes] for at in (0, -1)], np.int64)


def _trials(
    space: SearchSpace, genomes: Int64[np.ndarray, "n g"], costs: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, "t g"]:
    """What should cost least, by genomes whose costs are known: the least of every gene together, and one at a time."""
    best = genomes[np.argmin(costs)]
    genes, values, effects = _effects(space.genes, genomes, costs)
    own = np.zeros(len(best))
    same = values == best[genes]
    own[genes[same]] = effects[same]
    gains = own[genes] - effects
    order = np.argsort(-gains, kind="stable")
    together = best.copy()
    singly: list[np.ndarray] = []
    changed: set[int] = set()
    for gene, value, gain in zip(genes[order].tolist(), values[order].tolist(), gains[order].tolist(), strict=True):
        trial = best.copy()
        trial[gene] = value
        if value != best[gene] and len(singly) < _NEIGHBOURS:
            singly.append(trial)
        if gain > 0 and gene not in changed:
            trial = together.copy()
            trial[gene] = value
            if space.feasible(space.canonical(trial[None]))[0]:
                together = trial
                changed.add(gene)
    return np.stack([together, *singly])


def _filled(space: SearchSpace, genome: Int64[np.ndarray, " g"], effects: _Effects) -> Int64[np.ndarray, " g"]:
    """The same architecture, in which genes that do not matter have their value of least effect, ready for corners."""
    genes, values, sizes = effects
    order = np.argsort(-sizes, kind="stable")
    least = genome.copy()
    least[genes[order]] = values[order]  # of several values of a gene the last one stays
    trials = np.where(np.eye(len(genome), dtype=bool), least, genome)
    idle = (space.canonical(trials) == space.canonical(genome[None])).all(1)
    return np.where(idle, least, genome)


def _effects(genes: tuple[Gene, ...], genomes: Int64[np.ndarray, "n g"], costs: Float64[np.ndarray, " n"]) -> _Effects:
    """Gene, value and effect on the cost, of every value that a search draws: ridge regression on one-hot genes."""
    pairs = np.array([(g, value) for g, gene in enumerate(genes) for value in gene.drawn], np.int64)
    present = (genomes[:, pairs[:, 0]] == pairs[:, 1]).astype(np.float64)
    centred = present - present.mean(0)
    gram = centred @ centred.T + _RIDGE * np.eye(len(genomes))
    return pairs[:, 0], pairs[:, 1], centred.T @ np.linalg.solve(gram, costs - costs.mean())


def _corners(
    genes: tuple[Gene, ...], small: Int64[np.ndarray, " g"], large: Int64[np.ndarray, " g"]
) -> Int64[np.ndarray, "n g"]:
    """Genomes that take some groups of genes from ``small`` and the others from ``large``.

    A group is genes whose names differ in numbers only, such as the depths of all units.
    """
    names = [re.sub(r"\d+", "", gene.name) for gene in genes]
    groups = list(dict.fromkeys(names))
    if len(groups) <= _MAX_CROSSED:
        chosen = [frozenset(part) for n in range(len(groups) + 1) for part in itertools.combinations(groups, n)]
    else:
        chosen = [frozenset(part) for group in groups for part in ({group}, {*groups} - {group})]
    taken = np.array([[name in part for name in names] for part in chosen])
    return np.where(taken, small, large)
