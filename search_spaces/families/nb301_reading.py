"""Read the two cells of a DARTS network off its graph."""

from __future__ import annotations

from gennape.search_spaces.families.nb301 import CELLS, NODES
from gennape.search_spaces.families.space import Architecture
from gennape.search_spaces.graphs.graph import Column, PackedGraphs
from gennape.search_spaces.graphs.ops import Op

_POOLS = {int(Op.MAXPOOL): "max_pool_3x3", int(Op.AVGPOOL): "avg_pool_3x3"}


class _Network:
    """One graph, asked for the inputs of nodes."""

    def __init__(self, graph: PackedGraphs) -> None:
        self.nodes = graph.nodes
        self.op = graph.nodes[:, Column.OP].tolist()
        self.inputs: list[list[int]] = [[] for _ in self.op]
        for source, target in graph.edges.tolist():
            self.inputs[target].append(source)

    def back(self, node: int, *ops: Op) -> int:
        """The node before these operations, the last of which is ``node``; raises ``ValueError`` for others."""
        for op in ops:
            if self.op[node] != op or not self.inputs[node]:
                raise ValueError(f"operation {self.op[node]} is not {op}")
            node = self.inputs[node][0]
        return node

    def is_(self, node: int, *ops: Op) -> bool:
        """Whether ``node`` and those before it are these operations."""
        try:
            self.back(node, *ops)
        except ValueError:
            return False
        return True


def read_cells(graph: PackedGraphs) -> Architecture:
    """The normal and the reduction cell, read off the second and the third cell of a graph in its normal form.

    Raises ``ValueError`` or ``IndexError`` where there are none. The result need not be right: build it, and compare.
    """
    network = _Network(graph)
    cells = [i for i, op in enumerate(network.op) if op == Op.CONCAT and len(network.inputs[i]) == NODES]
    cells.sort(key=_depths(network).__getitem__)
    return {name: _cell(network, cells, i) for name, i in zip(CELLS, (1, 2), strict=True)}


def _depths(network: _Network) -> list[int]:
    """How many nodes the longest path to each node has."""
    depths = [-1] * len(network.op)
    for start in range(len(depths)):
        waiting = [start]
        while waiting:
            node = waiting[-1]
            missing = [source for source in network.inputs[node] if depths[source] < 0]
            if missing:
                waiting += missing
            else:
                depths[node] = 1 + max((depths[source] for source in network.inputs[node]), default=0)
                waiting.pop()
    return depths


def _cell(network: _Network, cells: list[int], i: int) -> list[list[object]]:
    nodes, pairs = network.inputs[cells[i]], []
    for node in nodes:
        if network.op[node] != Op.ADD or len(network.inputs[node]) != 2:
            raise ValueError("a node is no sum of two")
        for term in network.inputs[node]:
            operation, source = _term(network, term)
            state = 2 + nodes.index(source) if source in nodes else _state(network, source, cells[i - 1])
            pairs.append([operation, state])
    return pairs


def _term(network: _Network, node: int) -> tuple[str, int]:
    """The operation that gives a term of a sum, and what it is applied to."""
    op = network.op[node]
    if op in _POOLS:
        return _POOLS[op], network.inputs[node][0]
    if network.is_(node, Op.BATCHNORM, Op.CONV, Op.DEPTHWISE):
        deep = network.back(node, Op.BATCHNORM, Op.CONV)
        kernel = int(network.nodes[deep, Column.KERNEL_H])
        if network.nodes[deep, Column.DILATION_H] == 2:
            return f"dil_conv_{kernel}x{kernel}", network.back(deep, Op.DEPTHWISE, Op.RELU)
        half = network.back(deep, Op.DEPTHWISE, Op.RELU)
        return f"sep_conv_{kernel}x{kernel}", network.back(half, Op.BATCHNORM, Op.CONV, Op.DEPTHWISE, Op.RELU)
    if network.is_(node, Op.BATCHNORM, Op.CONCAT, Op.CONV, Op.RELU):
        return "skip_connect", network.back(node, Op.BATCHNORM, Op.CONCAT, Op.CONV, Op.RELU)
    return "skip_connect", node


def _state(network: _Network, node: int, previous: int) -> int:
    """Which of the two cells before a cell takes in: 1 where the first convolution reads the previous cell."""
    return int(network.back(node, Op.BATCHNORM, Op.CONV, Op.RELU) == previous)
