"""Published graphs: the form in which GENNAPE's TensorFlow graph builder writes networks (Mills et al., AAAI-23).

The input is ``space.graph(genome, published=True)``, which has the operations of the published networks. This module
applies the rules of the published builder, equal for all families: which nodes vanish, which are renamed, and which
sizes a node has. Sizes are counts of channels and pixels; only :func:`features` normalises them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, PackedGraphs, offsets_of, pack
from gennape.search_spaces.graphs.ops import VOCABULARY_SIZE, WEIGHTED, Op

#: Names of the operations; :attr:`PublishedGraph.op` holds positions in this tuple.
VOCABULARY: tuple[str, ...] = (
    *("<oov>", "input", "output", "conv", "depthwise", "batchnorm", "relu", "relu6", "matmul", "add", "mul", "concat"),
    *("maxpool", "avgpool", "sigmoid", "tanh", "swish", "gelu", "paddings", "mean", "spacetobatchnd", "batchtospacend"),
    *("spacetodepthnd", "depthtospacend", "global", "identity", "zero", *(f"reserved{i}" for i in range(1, 6))),
)
#: Divisors of heights and widths, and of channels, in the published features, and the largest kernel.
MAX_SIZE, MAX_CHANNELS, MAX_KERNEL = 256, 512, 7

#: Operations that the builder drops: their names contain none of its keywords, or they are sums or products with
#: constants, which have no parents.
VANISHING = (Op.SLICE, Op.RESHAPE, Op.PERMUTE, Op.RESIZE, Op.SOFTMAX, Op.SCALE, Op.SHIFT)
#: Operations that it writes under another name.
RENAMED = {Op.HARDSIGMOID: Op.RELU6, Op.LEAKYRELU: Op.RELU, Op.CONVTRANSPOSE: Op.CONV}

_STRIDED = (Op.CONV, Op.DEPTHWISE, Op.CONVTRANSPOSE, Op.MAXPOOL, Op.AVGPOOL)
_SIZES = (Column.H_IN, Column.H_OUT, Column.W_IN, Column.W_OUT, Column.C_IN, Column.C_OUT)
# Columns of the node table that the functions below share.
_OP, _WEIGHTED, _BIAS = 0, 1, 14
_RESOLUTION, _SHAPE, _STRIDES = slice(2, 8), slice(8, 12), slice(12, 14)

_CODES = np.full(VOCABULARY_SIZE, -1)
_CODES[[int(op) for op in Op if op <= Op.ZERO]] = [int(op) for op in Op if op <= Op.ZERO]
_CODES[[int(op) for op in RENAMED]] = [int(op) for op in RENAMED.values()]


@dataclass(frozen=True, slots=True, eq=False)
class PublishedGraph:
    """One graph as published: nodes with weights first, then the others, both in the order of the original graph.

    ``op``         int64 [n]: positions in :data:`VOCABULARY`.
    ``weighted``   bool [n]: whether the node holds the weights of a matrix product.
    ``resolution`` int64 [n, 6]: height in and out, width in and out, channels in and out.
    ``shape``      int64 [n, 4]: input channels, output channels, kernel height and width of a weight (0 for a fully
    connected layer); a depthwise one has ``[channels, 1, height, width]``; without weights all 0.
    ``strides``    int64 [n, 2]: vertical and horizontal, of convolutions and pools; 0 for others.
    ``bias``       bool [n]: whether a learnt bias is added.
    ``edges``      int64 [e, 2]: (producer, consumer), each once, in ascending order.
    """

    op: Int64[np.ndarray, " n"]
    weighted: Bool[np.ndarray, " n"]
    resolution: Int64[np.ndarray, "n 6"]
    shape: Int64[np.ndarray, "n 4"]
    strides: Int64[np.ndarray, "n 2"]
    bias: Bool[np.ndarray, " n"]
    edges: Int64[np.ndarray, "e 2"]


@dataclass(frozen=True, slots=True, eq=False)
class PublishedFeatures:
    """Inputs of the published predictors.

    ``op``         int64 [n]: index into an embedding of operations; ``weighted`` bool [n] selects one of the two.
    ``resolution`` float32 [n, 6]: as in :class:`PublishedGraph`, divided by :data:`MAX_SIZE` and :data:`MAX_CHANNELS`.
    ``kernel``     int64 [n, 2]: indices into the embedding of kernel sizes, for nodes with weights.
    ``bias``       float32 [n, 2]: (1, 0) without and (0, 1) with a bias, for nodes with weights; 0 for others.
    ``edge_index`` int64 [2, e]: producers, then consumers.
    """

    op: Int64[np.ndarray, " n"]
    weighted: Bool[np.ndarray, " n"]
    resolution: Float32[np.ndarray, "n 6"]
    kernel: Int64[np.ndarray, "n 2"]
    bias: Float32[np.ndarray, "n 2"]
    edge_index: Int64[np.ndarray, "2 e"]


def published_graph(graph: ComputationGraph) -> PublishedGraph:
    """One graph in its published form; see :func:`published_graphs`."""
    return published_graphs(pack([graph]))[0]


def published_graphs(graphs: PackedGraphs) -> list[PublishedGraph]:
    """The published form of every graph (families specification, sections 11.2 to 11.4).

    Raises :class:`InvalidGraphError` naming the first operation that the published vocabulary lacks.
    """
    stand_in = _stand_ins(graphs)
    kept = stand_in == np.arange(len(stand_in))
    nodes = _describe(graphs, kept)
    into_kept = graphs.edges[kept[graphs.edges[:, 1]]]
    edges = np.stack([stand_in[into_kept[:, 0]], into_kept[:, 1]], axis=1)
    # Three positions per node leave room for the nodes around a dilated convolution.
    place, owner = 3 * np.arange(len(nodes)) + 1, graphs.graph_index
    dilated = np.flatnonzero(_is_dilated(graphs))
    if len(dilated):
        nodes, edges = _dilate(graphs, dilated, nodes, edges)
        place = np.concatenate([place, 3 * dilated, 3 * dilated + 2])
        owner, kept = (np.concatenate([x, x[dilated], x[dilated]]) for x in (owner, kept))
    order = np.lexsort((place, 1 - nodes[:, _WEIGHTED], owner))
    order = order[kept[order]]
    new = np.zeros(len(nodes), np.int64)
    new[order] = np.arange(len(order))
    edges = np.stack(np.divmod(np.unique(new[edges[:, 0]] * len(nodes) + new[edges[:, 1]]), len(nodes)), axis=1)
    starts = offsets_of(np.bincount(owner[order], minlength=len(graphs)))
    return _split(nodes[order], edges, starts)


def features(graph: PublishedGraph, max_size: int = MAX_SIZE) -> PublishedFeatures:
    """The published features (section 11.3). Values above 1 do occur.

    ``max_size`` divides heights and widths: 256 for every family as published, or 32 (CIFAR-10) and 224 (ImageNet).
    Raises :class:`InvalidGraphError` for a kernel larger than the published embedding allows.
    """
    kernel = graph.shape[:, 2:]
    if kernel.max(initial=0) > MAX_KERNEL:
        raise InvalidGraphError(f"published features hold kernels up to {MAX_KERNEL}, got {int(kernel.max())}")
    divisors = np.array([max_size] * 4 + [MAX_CHANNELS] * 2, np.float32)
    bias = np.stack([~graph.bias, graph.bias], axis=1) & graph.weighted[:, None]
    resolution = graph.resolution.astype(np.float32) / divisors
    return PublishedFeatures(graph.op, graph.weighted, resolution, kernel, bias.astype(np.float32), graph.edges.T)


def to_state_dict(graph: PublishedGraph, name: str) -> dict[str, Any]:
    """The graph with the keys of published JSON files (section 11.4), as plain numbers, lists and strings.

    ``str_id`` is the index of a node, ``label`` the name of its operation, and ``metadata`` holds ``use_bias``; the
    published files have names from TensorFlow there, which are never read.
    """
    first = int(np.flatnonzero(graph.op == Op.INPUT)[0])
    height, _, width, _, channels, _ = graph.resolution[first].tolist()
    nodes = [_node_dict(graph, i) for i in range(len(graph.op))]
    n_weighted = int(graph.weighted.sum())
    return {
        "name": name,
        "input_shape": [1, height, width, channels],
        "max_hidden_size": MAX_CHANNELS,
        "max_kernel_size": MAX_KERNEL,
        "max_derived_H": MAX_SIZE,
        "max_derived_W": MAX_SIZE,
        "edge_pairs": graph.edges.tolist(),
        "weighted_nodes": nodes[:n_weighted],
        "regular_nodes": nodes[n_weighted:],
    }


def _node_dict(graph: PublishedGraph, index: int) -> dict[str, Any]:
    vertical, horizontal = graph.strides[index].tolist()
    node = {
        "str_id": str(index),
        "op_type_idx": int(graph.op[index]),
        "label": VOCABULARY[graph.op[index]],
        "resolution": graph.resolution[index].tolist(),
        "strides": [1, vertical, horizontal, 1] if vertical else None,
        "metadata": {"use_bias": bool(graph.bias[index])},
    }
    return {**node, "shape": graph.shape[index].tolist()} if graph.weighted[index] else node


# Steps ----------------------------------------------------------------------------------------------------------------


def _stand_ins(graphs: PackedGraphs) -> Int64[np.ndarray, " n"]:
    """For every node the one that replaces it: itself, or the only parent of a node that vanishes.

    A sum or product vanishes if only one distinct parent is left (x + x), which may make another one vanish.
    """
    op = graphs.nodes[:, Column.OP]
    stand_in = np.arange(len(op))
    edges = graphs.edges[np.isin(op, (Op.ADD, Op.MUL, *VANISHING))[graphs.edges[:, 1]]]
    source, target = edges[np.argsort(edges[:, 1], kind="stable")].T
    if not len(target):
        return stand_in
    starts = np.flatnonzero(np.diff(target, prepend=-1))
    node = target[starts]
    while True:  # ends, as graphs are acyclic: every round settles at least one more node
        parents = stand_in[source]
        lowest = np.minimum.reduceat(parents, starts)
        passed = np.where(lowest == np.maximum.reduceat(parents, starts), lowest, node)
        if np.array_equal(passed, stand_in[node]):
            return stand_in
        stand_in[node] = passed


def _describe(graphs: PackedGraphs, kept: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, "n k"]:
    """One row per node: operation, weighted, resolution, shape, strides, bias. Rows of vanished nodes do not matter."""
    rows = graphs.nodes.astype(np.int64)
    op = rows[:, Column.OP]
    code = _CODES[op]
    if (unknown := kept & (code < 0)).any():
        name = Op(int(op[unknown][0])).name.lower()
        raise InvalidGraphError(
            f"published graphs have no operation for {name}; it occurs {int((op == op[unknown][0]).sum())} times"
        )
    resolution = rows[:, _SIZES]
    # The builder takes input sizes (every second column) from the first input: for a product the gate, our last one.
    source, target = graphs.edges[op[graphs.edges[:, 1]] == Op.MUL].T
    resolution[target, ::2] = rows[source][:, (Column.H_OUT, Column.W_OUT, Column.C_OUT)]
    weighted = np.isin(op, WEIGHTED)
    shape = rows[:, (Column.C_IN, Column.C_OUT, Column.KERNEL_H, Column.KERNEL_W)]
    groups = rows[:, Column.GROUPS]
    depthwise = op == Op.DEPTHWISE
    shape[:, 0] //= np.where(depthwise, 1, groups)
    shape[:, 1] //= np.where(depthwise, groups, 1)
    strides = rows[:, (Column.STRIDE_H, Column.STRIDE_W)] * np.isin(op, _STRIDED)[:, None]
    columns = (code[:, None], weighted[:, None], resolution, shape * weighted[:, None], strides)
    return np.concatenate([*columns, (weighted & (rows[:, Column.BIAS] == 1))[:, None]], axis=1)


def _is_dilated(graphs: PackedGraphs) -> Bool[np.ndarray, " n"]:
    dilation = graphs.nodes[:, (Column.DILATION_H, Column.DILATION_W)]
    return (graphs.nodes[:, Column.OP] == Op.DEPTHWISE) & (dilation > 1).any(1)


def _dilate(
    graphs: PackedGraphs,
    at: Int64[np.ndarray, " d"],
    nodes: Int64[np.ndarray, "n k"],
    edges: Int64[np.ndarray, "e 2"],
) -> tuple[Int64[np.ndarray, "m k"], Int64[np.ndarray, "f 2"]]:
    """Surround dilated convolutions as TensorFlow does, by moving pixels into a batch of smaller images and back.

    The convolution runs, undilated and unpadded, on images that include their share of the padding. The nodes before
    it are appended to the table, followed by the nodes after it.
    """
    row = graphs.nodes[at].astype(np.int64)
    size, padding = row[:, (Column.H_IN, Column.W_IN)], row[:, (Column.PAD_H, Column.PAD_W)]
    dilation, kernel = row[:, (Column.DILATION_H, Column.DILATION_W)], row[:, (Column.KERNEL_H, Column.KERNEL_W)]
    share = -(-(size + 2 * padding) // dilation)
    result = (share - kernel) // row[:, (Column.STRIDE_H, Column.STRIDE_W)] + 1
    before, after = np.zeros((2, len(at), nodes.shape[1]), np.int64)
    before[:, _OP], after[:, _OP] = Op.SPACETOBATCH, Op.BATCHTOSPACE
    before[:, _RESOLUTION] = after[:, _RESOLUTION] = nodes[at, _RESOLUTION]
    nodes = np.concatenate([nodes, before, after])
    first, second = len(nodes) - 2 * len(at) + np.arange(len(at)), len(nodes) - len(at) + np.arange(len(at))
    heights, widths = (2, 3), (4, 5)  # columns of sizes in and out
    for axis, (size_in, size_out) in enumerate((heights, widths)):
        nodes[first, size_out] = nodes[at, size_in] = share[:, axis]
        nodes[second, size_in] = nodes[at, size_out] = result[:, axis]
    into, out_of = np.arange(len(nodes)), np.arange(len(nodes))
    into[at], out_of[at] = first, second
    edges = np.stack([out_of[edges[:, 0]], into[edges[:, 1]]], axis=1)
    return nodes, np.concatenate([edges, np.stack([first, at], axis=1), np.stack([at, second], axis=1)])


def _split(
    nodes: Int64[np.ndarray, "n k"], edges: Int64[np.ndarray, "e 2"], starts: Int64[np.ndarray, " g1"]
) -> list[PublishedGraph]:
    edge_starts = np.searchsorted(edges[:, 0], starts)
    graphs = []
    for g, start in enumerate(starts[:-1].tolist()):
        rows = nodes[start : starts[g + 1]]
        graphs.append(
            PublishedGraph(
                rows[:, _OP],
                rows[:, _WEIGHTED] == 1,
                rows[:, _RESOLUTION],
                rows[:, _SHAPE],
                rows[:, _STRIDES],
                rows[:, _BIAS] == 1,
                edges[edge_starts[g] : edge_starts[g + 1]] - start,
            )
        )
    return graphs
