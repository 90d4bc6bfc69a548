"""Whether a search space holds networks within limits: the ends of exact costs, found before a search begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import ConfigError
from gennape.platform.search.limits import violation
from gennape.platform.search.measures import COSTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float64, Int64

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.limits import Limit
    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.graphs.graph import PackedGraphs

    _Costs = Callable[[Int64[np.ndarray, "n g"]], Float64[np.ndarray, " n"]]

#: Sampled networks, how many of them the descent starts from beside the corners, and how often each gene is tried.
_SAMPLED, _STARTS, _ROUNDS = 64, 2, 8


def refuse_unreachable(config: SearchConfig, space: SearchSpace) -> None:
    """Raise :class:`ConfigError` for a limit of an exact cost that no network of the space seems to keep.

    The smallest or largest cost is sought by coordinate descent: one gene after another takes its best value, from
    networks in which all genes have their first or last value and from the best of a sample. Where costs grow with
    each gene, as in the families that ship, this end is exact.
    """
    counts = {cost.name: cost.values for cost in COSTS}
    limits = [limit for limit in config.limits if limit.name in counts]
    if not limits:
        return
    genomes = _begin(space)
    graphs = space.graphs(genomes)
    names = tuple(dict.fromkeys(limit.name for limit in limits))
    values = np.stack([counts[name](graphs).astype(np.float64) for name in names], axis=1)
    if (violation(values, limits, names) == 0).any():
        return
    for limit in limits:
        _refuse(limit, space, genomes, values[:, names.index(limit.name)], counts[limit.name])


def _begin(space: SearchSpace) -> Int64[np.ndarray, "n g"]:
    """A sample, and the corners that are architectures of the space."""
    corners = np.array([[gene.drawn[at] for gene in space.genes] for at in (0, -1)], np.int64)
    corners = space.canonical(corners)
    return np.concatenate([corners[space.feasible(corners)], space.sample(np.random.default_rng(0), _SAMPLED)])


def _refuse(
    limit: Limit,
    space: SearchSpace,
    genomes: Int64[np.ndarray, "n g"],
    values: Float64[np.ndarray, " n"],
    count: Callable[[PackedGraphs], np.ndarray],
) -> None:
    sign = 1.0 if limit.sign == "<=" else -1.0
    corners = len(genomes) - _SAMPLED
    order = [*range(corners), *(corners + np.argsort(sign * values[corners:], kind="stable")[:_STARTS]).tolist()]
    end = min(_descend(space, genomes[row], sign * values[row], lambda g: sign * count(space.graphs(g)),
                       sign * limit.bound) for row in order)  # fmt: skip
    if end > sign * limit.bound:
        which, change = ("smallest", "Raise") if sign > 0 else ("largest", "Lower")
        raise ConfigError(
            f"no network of {space.name} keeps {limit}: the {which} {limit.name} found is {sign * end:.10g}. {change} "
            "this limit"
        )


def _descend(space: SearchSpace, genome: Int64[np.ndarray, " g"], value: float, cost: _Costs, enough: float) -> float:
    """The least cost that is reached from a genome by changing one gene at a time; ends early where it is enough."""
    for _ in range(_ROUNDS):
        before = value
        for at, gene in enumerate(space.genes):
            if value <= enough:
                return value
            trials = np.repeat(genome[None], len(gene.drawn), axis=0)
            trials[:, at] = gene.drawn
            trials = space.canonical(trials)
            trials = trials[space.feasible(trials) & (trials != genome).any(1)]
            if not len(trials):
                continue
            costs = cost(trials)
            best = int(costs.argmin())
            if costs[best] < value:
                genome, value = trials[best], float(costs[best])
        if value == before:
            break
    return value
