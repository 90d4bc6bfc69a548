"""Path features: what lies on the paths from a network's input to its output, and how long these paths are.

Cells of many families differ less in their operations than in the order of these: a skip connection makes a short path
beside a long one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csr_array

from gennape.errors import InvalidGraphError
from gennape.predictors.encoder.features import steps
from gennape.search_spaces.graphs.graph import Column, PackedGraphs, offsets_of, topological_levels
from gennape.search_spaces.graphs.ops import WEIGHTED, Op

_NODE_KINDS = (
    "1x1", "3x3", "larger", "grouped 3x3", "grouped 5x5", "grouped larger", "maximum pools", "average pools", "sums",
    "concatenations",
)  # fmt: skip
_LENGTHS = ("layers", "spatial layers", "pools")
#: Names of the columns of :func:`path_features`.
PATH_FEATURES = (
    *(f"{kind} on a path" for kind in _NODE_KINDS),
    *(f"{which} path in {what}" for which in ("shortest", "longest") for what in _LENGTHS),
)


def path_features(
    graphs: PackedGraphs, op: Int64[np.ndarray, " n"], visits: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "g w"]:
    """One row per graph, columns as in :data:`PATH_FEATURES`, all as ``log(1 + x)``.

    ``op`` and ``visits`` come from :func:`.operations` and :func:`visit_probability`. Columns ``on a path`` are
    expected counts on a random walk; the shortest and the longest path are those with the fewest and the most layers
    (convolutions), layers larger than 1x1, or pools. Raises :class:`InvalidGraphError` for a cycle.
    """
    owner, n = graphs.graph_index, len(graphs)
    kinds = _kinds(graphs, op)
    expected = [np.bincount(owner, visits * kind, n) for kind in kinds]
    layer = np.any(kinds[:6], axis=0)
    spatial = layer & _spatial(graphs)
    lengths = np.stack([layer, spatial, kinds[6] | kinds[7]], axis=1).astype(np.float64)
    extremes = _extremes(graphs, op, np.concatenate([lengths, -lengths], axis=1))
    return np.log1p(np.concatenate([np.stack(expected, axis=1), np.abs(extremes)], axis=1))


def visit_probability(graphs: PackedGraphs, op: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Probability that a random walk from the output to the input visits each node.

    The walk picks uniformly among the producers of a step. It passes steps, not nodes, so that the order in which the
    terms of a sum are added makes no difference.
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
    visits = reached
    for _ in range(len(leads)):
        reached = walk @ reached
        if not reached.any():  # as soon as the deepest network was walked through
            return visits[step_of]
        visits = visits + reached
    raise InvalidGraphError("a graph holds a cycle; networks run from their input to their output")


def _spatial(graphs: PackedGraphs) -> Bool[np.ndarray, " n"]:
    return graphs.nodes[:, Column.KERNEL_H].astype(np.int64) * graphs.nodes[:, Column.KERNEL_W] > 1


def _kinds(graphs: PackedGraphs, op: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, "k n"]:
    """Which nodes are of each kind of :data:`_NODE_KINDS`, by the larger side of their window."""
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
    """The smallest sums of ``lengths`` over the nodes of a path to an output; 0 where there is no path."""
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
