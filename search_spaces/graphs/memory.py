"""Memory that activations take while a network is executed, counted on its graph."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from gennape.search_spaces.graphs.graph import Column, PackedGraphs
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.order import topological_order

#: Of an activation in single precision.
BYTES = 4


def peak_memory(graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
    """The most bytes that activations take at once while each graph is executed for one image.

    Operations are executed one by one, in the order of the graph where that is a topological one. A value in single
    precision is held from the operation that computes it to the last one that reads it, both included; the image is
    such a value. No operation works in place, and weights are not counted.
    """
    at = _positions(graphs)
    nodes = graphs.nodes.astype(np.int64)
    size = np.zeros(len(nodes), np.int64)
    size[at] = np.where(
        nodes[:, Column.OP] == Op.OUTPUT,  # hands on what is there
        0,
        BYTES * nodes[:, Column.C_OUT] * nodes[:, Column.H_OUT] * nodes[:, Column.W_OUT],
    )
    last = np.arange(len(nodes))
    source, target = at[graphs.edges].T
    np.maximum.at(last, source, target)
    change = np.zeros(len(nodes) + 1, np.int64)
    change[:-1] = size
    np.subtract.at(change, last + 1, size)
    held = np.cumsum(change[:-1])
    peaks = np.zeros(len(graphs), np.int64)
    filled = np.diff(graphs.node_offsets) > 0
    if filled.any():
        peaks[filled] = np.maximum.reduceat(held, graphs.node_offsets[:-1][filled])
    return peaks


def _positions(graphs: PackedGraphs) -> Int64[np.ndarray, " n"]:
    """For each node its place in the order of execution, counted over the nodes of all graphs."""
    at = np.arange(len(graphs.nodes))
    backward = graphs.edges[:, 0] >= graphs.edges[:, 1]
    for index in np.unique(graphs.graph_index[graphs.edges[backward, 1]]).tolist():
        graph, start = graphs[index], graphs.node_offsets[index]
        inputs: list[set[int]] = [set() for _ in range(graph.n_nodes)]
        for source, target in graph.edges.tolist():
            inputs[target].add(source)
        order = np.array(topological_order(inputs), np.int64)
        at[start + order] = start + np.arange(len(order))
    return at
