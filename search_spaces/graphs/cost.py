"""Cost of networks, counted on their graphs: multiply-accumulates, FLOPs and parameters."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from gennape.search_spaces.graphs.graph import Column, PackedGraphs
from gennape.search_spaces.graphs.ops import WEIGHTED, Op
from gennape.search_spaces.graphs.weight_sharing import repeated


def macs(graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
    """Multiply-accumulates of each graph for one image: of convolutions, fully connected layers, matrix products, and
    what operations outside the vocabulary declare; biases and the rest are 0."""
    return _per_graph(graphs, node_macs(graphs))


def flops(graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
    """Floating-point operations of each graph: 2 x MACs."""
    return 2 * macs(graphs)


def params(graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
    """Learnt parameters of each graph: weights, biases, scales and shifts, and what other operations declare.

    Weights that several nodes share count once.
    """
    return _per_graph(graphs, own_params(graphs))


def node_macs(graphs: PackedGraphs) -> Int64[np.ndarray, " n"]:
    """Multiply-accumulates of each node."""
    nodes = graphs.nodes.astype(np.int64)
    op = nodes[:, Column.OP]
    turned = op == Op.CONVTRANSPOSE  # each input value is spread over a window
    pixels = np.where(
        turned, nodes[:, Column.H_IN] * nodes[:, Column.W_IN], nodes[:, Column.H_OUT] * nodes[:, Column.W_OUT]
    )
    product = nodes[:, Column.C_OUT] * pixels * nodes[:, Column.W_IN]
    declared = np.where(op == Op.OTHER, graphs.scalars, 0).astype(np.int64)
    return np.where(op == Op.MATMUL, product, _kernel_weights(nodes) * pixels + declared)


def node_params(graphs: PackedGraphs) -> Int64[np.ndarray, " n"]:
    """Learnt parameters of each node, including shared ones."""
    nodes = graphs.nodes.astype(np.int64)
    op, c_out = nodes[:, Column.OP], nodes[:, Column.C_OUT]
    norms = np.where((op == Op.BATCHNORM) & (nodes[:, Column.KIND] == 0), 2 * c_out, 0)
    biases = np.where(np.isin(op, WEIGHTED), nodes[:, Column.BIAS] * c_out, 0)
    return _kernel_weights(nodes) + biases + norms + nodes[:, Column.PARAMS]


def own_params(graphs: PackedGraphs) -> Int64[np.ndarray, " n"]:
    """Learnt parameters of each node; parameters that it shares with an earlier node count only there."""
    of_nodes = node_params(graphs)
    of_nodes[repeated(graphs.nodes[:, Column.TIED], graphs.graph_index)] = 0
    return of_nodes


def _kernel_weights(nodes: Int64[np.ndarray, "n a"]) -> Int64[np.ndarray, " n"]:
    op, c_in, c_out = nodes[:, Column.OP], nodes[:, Column.C_IN], nodes[:, Column.C_OUT]
    window = nodes[:, Column.KERNEL_H] * nodes[:, Column.KERNEL_W]
    conv = (op == Op.CONV) | (op == Op.DEPTHWISE) | (op == Op.CONVTRANSPOSE)
    weights = c_out * (c_in // np.maximum(nodes[:, Column.GROUPS], 1)) * window
    return np.where(conv, weights, np.where(op == Op.LINEAR, c_in * c_out, 0))


def _per_graph(graphs: PackedGraphs, values: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " g"]:
    totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
    return totals[graphs.node_offsets[1:]] - totals[graphs.node_offsets[:-1]]
