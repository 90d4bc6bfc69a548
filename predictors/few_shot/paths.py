"""The ways through a network, from its input to its output: what lies on them, how long they are.

Cells of many families differ less in their operations than in how these follow one another: a skip makes a short way
around a long one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csr_array

from gennape.errors import InvalidGraphError
from gennape.predictors.encoder.features import steps
from gennape.search_spaces.graphs.graph import Column, PackedGraphs, offsets_of, topological_levels
from gennape.search_spaces.graphs.ops import WEIGHTED, Op

_MET = (
    "1x1", "3x3", "larger", "grouped 3x3", "grouped 5x5", "grouped larger", "maximum pools", "average pools", "sums",
    "concatenations",
)  # fmt: skip
_COUNTED = ("layers", "spatial layers", "pools")
#: Names of the columns that :func:`ways` fills.
WAYS = (
    *(f"{kind} on the way" for kind in _MET),
    *(f"{which} way in {what}" for which in ("shortest", "longest") for what in _COUNTED),
)


def ways(
    graphs: PackedGraphs, op: Int64[np.ndarray, " n"], met: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "g w"]:
    """One row per graph, columns as in :data:`WAYS`, all as ``log(1 + x)``.

    ``op`` and ``met`` are those of :func:`.operations` and :func:`met_on_the_way`. ``on the
    way`` are expected numbers on a random walk; the shortest and the longest way are those with the fewest and the most
    layers (convolutions), layers larger than 1x1, or pools. Raises :class:`InvalidGraphError` for a cycle.
    """
    owner, n = graphs.graph_index, len(graphs)
    kinds = _kinds(graphs, op)
    walked = [np.bincount(owner, met * kind, n) for kind in kinds]
    layer = np.any(kinds[:6], axis=0)
    spatial = layer & _spatial(graphs)
    lengths = np.stack([layer, spatial, kinds[6] | kinds[7]], axis=1).astype(np.float64)
    extremes = _extremes(graphs, op, np.concatenate([lengths, -lengths], axis=1))
    return np.log1p(np.concatenate([np.stack(walked, axis=1), np.abs(extremes)], axis=1))


def met_on_the_way(graphs: PackedGraphs, op: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """How probably a walk from the output to the input passes each node, picking among what feeds a step at random.

    Steps are passed, not nodes: in whatever order the terms of a sum are added, each is picked alike.
    """
    leads, step_of = steps(graphs, op)
    source, target = step_of[graphs.edges[:, 0]], step_of[graphs.edges[:, 1]]
    between = source != target
    source, target = source[between], target[between]
    inputs = np.bincount(target, minlength=len(leads))
    if len(leads) == 0:
        return np.zeros(0)
    walk = csr_array((1 / inputs[target], (source, target)), shape=(len(leads), len(leads)))
    reached = np.zeros(len(leads))
    reached[step_of[op == Op.OUTPUT]] = 1
    met = reached
    for _ in range(len(leads)):
        reached = walk @ reached
        if not reached.any():  # as soon as the deepest network was walked through
            return met[step_of]
        met = met + reached
    raise InvalidGraphError("a graph holds a cycle; networks run from their input to their output")


def _spatial(graphs: PackedGraphs) -> Bool[np.ndarray, " n"]:
    return graphs.nodes[:, Column.KERNEL_H].astype(np.int64) * graphs.nodes[:, Column.KERNEL_W] > 1


def _kinds(graphs: PackedGraphs, op: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, "k n"]:
    """Which nodes are of each kind of :data:`_MET`, by the larger side of their window."""
    layer = np.isin(op, WEIGHTED) & (op != Op.LINEAR)
    window = graphs.nodes[:, [Column.KERNEL_H, Column.KERNEL_W]].max(1)
    grouped = layer & (graphs.nodes[:, Column.GROUPS] > 1)
    dense = layer & ~grouped
    return np.stack([
        dense & (window <= 1), dense & (window > 1) & (window <= 3), dense & (window > 3),
        grouped & (window <= 3), grouped & (window > 3) & (window <= 5), grouped & (window > 5),
        *(op == kind for kind in (Op.MAXPOOL, Op.AVGPOOL, Op.ADD, Op.CONCAT)),
    ])  # fmt: skip


def _extremes(
    graphs: PackedGraphs, op: Int64[np.ndarray, " n"], lengths: Float64[np.ndarray, "n k"]
) -> Float64[np.ndarray, "g k"]:
    """The smallest sums of ``lengths`` over the nodes of a way that ends in an output; 0 where none does."""
    levels = topological_levels(graphs)
    order = np.concatenate([np.zeros(0, np.int64), *levels])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    source, target = rank[graphs.edges].T
    source = source[np.argsort(target, kind="stable")]
    starts = offsets_of(np.bincount(target, minlength=len(order)))
    least, bounds = lengths[order], offsets_of(np.array([len(level) for level in levels], np.int64))
    for first, last in zip(bounds[1:-1].tolist(), bounds[2:].tolist(), strict=True):  # all of these have producers
        edges = slice(starts[first], starts[last])
        least[first:last] += np.minimum.reduceat(least[source[edges]], starts[first:last] - starts[first], axis=0)
    out = np.full((len(graphs), lengths.shape[1]), np.inf)
    ends = op == Op.OUTPUT
    np.minimum.at(out, graphs.graph_index[ends], least[rank[ends]])
    return np.where(np.isfinite(out), out, 0)
