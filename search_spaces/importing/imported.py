"""The result of an import: the graph, and the operations that its vocabulary lacks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from gennape.search_spaces.graphs.graph import ComputationGraph


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A network imported from PyTorch or ONNX.

    ``others`` counts, by name, operations outside the vocabulary. The graph has their costs but cannot execute them.
    """

    graph: ComputationGraph
    others: dict[str, int] = field(default_factory=dict)


def without_dead_ends(graph: ComputationGraph) -> tuple[ComputationGraph, Int64[np.ndarray, " k"]]:
    """Drop nodes that do not reach the output, the last node. Returns the graph and the indices of kept nodes."""
    sources: list[list[int]] = [[] for _ in range(graph.n_nodes)]
    for source, target in graph.edges.tolist():
        sources[target].append(source)
    alive = np.zeros(graph.n_nodes, bool)
    waiting = [graph.n_nodes - 1]
    while waiting:
        node = waiting.pop()
        if not alive[node]:
            alive[node] = True
            waiting += sources[node]
    kept = np.flatnonzero(alive)
    position = np.cumsum(alive, dtype=np.int32) - np.int32(1)
    edges = position[graph.edges[alive[graph.edges[:, 1]]]]
    return ComputationGraph(graph.nodes[kept], graph.scalars[kept], edges), kept
