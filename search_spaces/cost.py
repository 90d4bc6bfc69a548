"""Cost of networks, counted on their graphs: multiply-accumulates, FLOPs and parameters."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from gennape.search_spaces.graph import Column, PackedGraphs
from gennape.search_spaces.ops import Op


def macs(graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
    """Multiply-accumulates of each graph's convolutions and linear layers for one image; biases and the rest are 0."""
    nodes = graphs.nodes.astype(np.int64)
    return _per_graph(graphs, _kernel_weights(nodes) * nodes[:, Column.H_OUT] * nodes[:, Column.W_OUT])


def flops(graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
    """Floating-point operations of each graph: 2 x MACs."""
    return 2 * macs(graphs)


def params(graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
    """Learnt parameters of each graph: weights, biases, and scale and shift of batch normalisations."""
    nodes = graphs.nodes.astype(np.int64)
    c_out = nodes[:, Column.C_OUT]
    norms = np.where(nodes[:, Column.OP] == Op.BATCHNORM, 2 * c_out, 0)
    return _per_graph(graphs, _kernel_weights(nodes) + nodes[:, Column.BIAS] * c_out + norms)


def _kernel_weights(nodes: Int64[np.ndarray, "n a"]) -> Int64[np.ndarray, " n"]:
    op, c_in, c_out = nodes[:, Column.OP], nodes[:, Column.C_IN], nodes[:, Column.C_OUT]
    window = nodes[:, Column.KERNEL_H] * nodes[:, Column.KERNEL_W]
    conv = (op == Op.CONV) | (op == Op.DEPTHWISE)
    return np.where(
        conv, c_out * (c_in // nodes[:, Column.GROUPS]) * window, np.where(op == Op.LINEAR, c_in * c_out, 0)
    )


def _per_graph(graphs: PackedGraphs, values: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " g"]:
    totals = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
    return totals[graphs.node_offsets[1:]] - totals[graphs.node_offsets[:-1]]
