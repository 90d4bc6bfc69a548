"""Find layers that share weights: nodes that use the same tensors of the file."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32, Int64

from gennape.search_spaces.graphs.cost import node_params
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack
from gennape.search_spaces.graphs.ops import WEIGHTED, Op
from gennape.search_spaces.graphs.weight_sharing import counted_once, tied
from gennape.search_spaces.importing.onnx_nodes.file import Constant


@dataclass(frozen=True, slots=True)
class Origin:
    """The constants of an operator of the file, and its nodes, from ``first`` up to and without ``end``."""

    first: int
    end: int
    constants: tuple[Constant, ...]

    @property
    def decisive(self) -> bool:
        """Whether equal tensors mean shared weights.

        Exporters write equal tensors once. In untrained layers many scales and biases are equal, so vectors and filled
        tensors are no evidence.
        """
        return any(_is_telling(x) for x in self.constants)

    @property
    def more(self) -> int:
        """How many more numbers the tensors were computed from than they hold: gains of a filter."""
        many = [x for x in self.constants if any(size > 1 for _, size in x.sources)]
        sources = frozenset[tuple[str, int]]().union(*(x.sources for x in many))
        return max(0, sum(size for _, size in sources if size > 1) - sum(math.prod(x.shape) for x in many))


def _is_telling(x: Constant) -> bool:
    if x.values is None:
        return sum(size > 1 for size in x.shape) > 1
    return x.values.size > 1 and bool((x.values != x.values.flat[0]).any())


def with_shared_weights(
    graph: ComputationGraph, kept: Int64[np.ndarray, " k"], origins: Sequence[Origin]
) -> ComputationGraph:
    """The graph with layers of the same tensors tied; ``kept`` are the indices of its nodes before dropping others.

    Vectors count as shared if the layer before is shared too, as in a convolution with its normalisation. An operation
    outside the vocabulary counts only numbers that no earlier node has counted, as in a trace of PyTorch.
    """
    position = {int(old): new for new, old in enumerate(kept)}
    made = [[position[node] for node in range(x.first, x.end) if node in position] for x in origins]
    nodes = _with_computed(graph, made, origins)
    params = node_params(pack([replace(graph, nodes=nodes)]))
    before = {int(target): int(source) for source, target in graph.edges[::-1]}
    keys, used = dict[int, Hashable](), set[tuple[str, int]]()
    for origin, alive in zip(origins, made, strict=True):
        sources = tuple(sorted(x.sources) for x in origin.constants)
        for place, node in enumerate(node for node in alive if params[node]):
            held = {source for of_one in sources for source in of_one}
            if nodes[node, Column.OP] == Op.OTHER:
                if origin.decisive and sum(size for _, size in held) == nodes[node, Column.PARAMS]:
                    nodes[node, Column.PARAMS] -= sum(size for _, size in held & used)
            else:
                beside = None if origin.decisive else keys.get(before[node])
                if origin.decisive or beside is not None:
                    keys[node] = (str(sources), place, beside)
            used |= held
    if not keys:
        return replace(graph, nodes=nodes)
    return replace(graph, nodes=tied(nodes, keys))


def _with_computed(
    graph: ComputationGraph, made: Sequence[Sequence[int]], origins: Sequence[Origin]
) -> Int32[np.ndarray, "n a"]:
    """The rows with each layer counting all numbers its weights were computed from, and each tensor once."""
    params = node_params(pack([graph]))
    nodes, held = graph.nodes.copy(), dict[int, tuple[Hashable, ...]]()
    for origin, alive in zip(origins, made, strict=True):
        learning = [node for node in alive if params[node]]
        if len(learning) == 1:
            (node,) = learning
            held[node] = tuple(x.sources for x in origin.constants if _is_telling(x))
            if nodes[node, Column.OP] in WEIGHTED:
                nodes[node, Column.PARAMS] += origin.more
    return counted_once(nodes, held)
