"""Diagrams of networks: boxes with their texts, and the edges between them, without positions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from gennape.search_spaces.graphs.cost import node_macs, node_params
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack
from gennape.search_spaces.graphs.ops import Op

#: Names of operations in pictures, if they differ from the name in lower case.
NAMES = {
    Op.BATCHNORM: "bn",
    Op.MAXPOOL: "max pool",
    Op.AVGPOOL: "avg pool",
    Op.MEAN: "global mean",
    Op.HARDSIGMOID: "h-sigmoid",
    Op.LAYERNORM: "layer norm",
    Op.GROUPNORM: "group norm",
    Op.LEAKYRELU: "leaky relu",
    Op.CONVTRANSPOSE: "conv transpose",
    Op.SPACETOBATCH: "space to batch",
    Op.BATCHTOSPACE: "batch to space",
    Op.SPACETODEPTH: "space to depth",
    Op.DEPTHTOSPACE: "depth to space",
}
ACTIVATIONS = (
    *(Op.RELU, Op.RELU6, Op.SIGMOID, Op.TANH, Op.SWISH, Op.GELU, Op.HARDSIGMOID, Op.LEAKYRELU, Op.SOFTMAX, Op.POWER),
)
NORMALISATIONS = (Op.BATCHNORM, Op.LAYERNORM, Op.GROUPNORM, Op.SCALE, Op.SHIFT)
#: Kinds of operations, each drawn in its own colour, in the order of the legend.
KINDS: dict[str, tuple[Op, ...]] = {
    "convolution": (Op.CONV, Op.CONVTRANSPOSE),
    "depthwise convolution": (Op.DEPTHWISE,),
    "matrix product": (Op.LINEAR, Op.MATMUL),
    "pooling": (Op.MAXPOOL, Op.AVGPOOL, Op.MEAN, Op.GLOBAL),
    "normalisation": NORMALISATIONS,
    "activation": ACTIVATIONS,
    "add, multiply, concatenate": (Op.ADD, Op.MUL, Op.CONCAT, Op.EXTEND),
    "input, output": (Op.INPUT, Op.OUTPUT),
    "shape": (
        *(Op.PAD, Op.SLICE, Op.RESIZE, Op.RESHAPE, Op.PERMUTE, Op.IDENTITY, Op.ZERO),
        *(Op.SPACETOBATCH, Op.BATCHTOSPACE, Op.SPACETODEPTH, Op.DEPTHTOSPACE),
    ),
    "other": (Op.UNKNOWN, Op.OTHER),
}
KIND_OF = {op: kind for kind, ops in KINDS.items() for op in ops}
#: Columns that a tooltip shows in its own words, or not at all.
_TOLD = frozenset(Column) & {
    *(Column.OP, Column.C_IN, Column.H_IN, Column.W_IN, Column.C_OUT, Column.H_OUT, Column.W_OUT),
    *(Column.KERNEL_H, Column.KERNEL_W, Column.STRIDE_H, Column.STRIDE_W, Column.PAD_H, Column.PAD_W),
    *(Column.DILATION_H, Column.DILATION_W, Column.GROUPS),
}

_PAIRS = (
    *(("kernel", Column.KERNEL_H), ("stride", Column.STRIDE_H)),
    *(("padding", Column.PAD_H), ("dilation", Column.DILATION_H)),
)
#: Separator in kernels and shapes.
TIMES = "\N{MULTIPLICATION SIGN}"

Edges = Int64[np.ndarray, "e 2"]


@dataclass(frozen=True, slots=True)
class Box:
    """One rectangle: ``lines`` are its text, ``nodes`` those it represents, ``tooltip`` all their attributes."""

    lines: tuple[str, ...]
    kind: str
    nodes: tuple[int, ...]
    tooltip: str
    shape: tuple[int, int, int]  # height, width, channels of its result
    takes: tuple[int, int, int]  # the same of its first input


@dataclass(frozen=True, slots=True)
class Frame:
    """The boxes ``boxes`` represent ``times`` copies of themselves in sequence."""

    boxes: tuple[int, ...]
    times: int


@dataclass(frozen=True, slots=True, eq=False)
class Diagram:
    """Boxes, edges [e, 2] between their indices (each once), and frames around repetitions."""

    boxes: tuple[Box, ...]
    edges: Edges
    frames: tuple[Frame, ...] = ()


def plain_diagram(graph: ComputationGraph) -> Diagram:
    """One box for every node of a graph."""
    tooltips = node_tooltips(graph)
    boxes = tuple(node_box(row, node, tooltips[node]) for node, row in enumerate(graph.nodes.tolist()))
    return Diagram(boxes, unique_edges(graph.edges.tolist()))


def unique_edges(edges: Iterable[Iterable[int]]) -> Edges:
    """Each pair once, as int64 [e, 2], sorted."""
    return np.array(sorted({(int(a), int(b)) for a, b in edges}), np.int64).reshape(-1, 2)


def node_box(row: list[int], node: int, tooltip: str) -> Box:
    """The box of one node, given its row as a list."""
    shape = (row[Column.H_OUT], row[Column.W_OUT], row[Column.C_OUT])
    takes = (row[Column.H_IN], row[Column.W_IN], row[Column.C_IN])
    kind = KIND_OF.get(Op(row[Column.OP]), "other")
    return Box((label(row),), kind, (node,), tooltip, shape, takes)


def merged_box(boxes: list[Box], main: int, lines: tuple[str, ...]) -> Box:
    """One box for several in sequence, with the colour of the one at ``main``."""
    nodes = tuple(node for box in boxes for node in box.nodes)
    tooltip = "\n".join(box.tooltip for box in boxes)
    return replace(boxes[main], lines=lines, nodes=nodes, tooltip=tooltip, shape=boxes[-1].shape, takes=boxes[0].takes)


def op_name(op: int) -> str:
    """The name of an operation in pictures."""
    return NAMES.get(Op(op), Op(op).name.lower())


def label(row: list[int]) -> str:
    """One line for a node: operation, kernel, stride, dilation, groups, and output channels if they are free."""
    op = Op(row[Column.OP])
    parts = [op_name(op)]
    kernel, stride = (row[Column.KERNEL_H], row[Column.KERNEL_W]), (row[Column.STRIDE_H], row[Column.STRIDE_W])
    if max(kernel) > 0:
        parts.append(by(kernel))
    if max(stride) > 1:
        parts.append(f"/{stride[0]}" if stride[0] == stride[1] else f"/{by(stride)}")
    if row[Column.DILATION_H] > 1:
        parts.append(f"dilated {row[Column.DILATION_H]}")
    if row[Column.GROUPS] > 1 and op in {Op.CONV, Op.CONVTRANSPOSE}:
        parts.append(f"g{row[Column.GROUPS]}")
    if op in {Op.CONV, Op.CONVTRANSPOSE, Op.LINEAR, Op.SLICE}:
        parts.append(f"·{row[Column.C_OUT]}")
    return " ".join(parts)


def by(sizes: Iterable[int]) -> str:
    """Sizes with multiplication signs between them."""
    return TIMES.join(map(str, sizes))


def node_tooltips(graph: ComputationGraph) -> list[str]:
    """One line per node with all its attributes."""
    packed = pack([graph])
    rows = zip(
        *(graph.nodes.tolist(), graph.scalars.tolist(), node_macs(packed).tolist(), node_params(packed).tolist()),
        strict=True,
    )
    return [_tooltip(node, *row) for node, row in enumerate(rows)]


def _tooltip(node: int, row: list[int], scalar: float, n_macs: int, n_params: int) -> str:
    takes = by((row[Column.H_IN], row[Column.W_IN], row[Column.C_IN]))
    gives = by((row[Column.H_OUT], row[Column.W_OUT], row[Column.C_OUT]))
    parts = [f"{node}: {Op(row[Column.OP]).name.lower()}", f"{takes} → {gives}"]
    if row[Column.KERNEL_H] or row[Column.KERNEL_W]:
        parts += [f"{name} {by(row[column : column + 2])}" for name, column in _PAIRS]
        parts.append(f"groups {row[Column.GROUPS]}")
    for column in Column:
        if column not in _TOLD and column < len(row) and row[column]:
            parts.append(f"{column.name.lower().replace('_', ' ')} {row[column]}")
    if scalar:
        parts.append(f"scalar {scalar:g}")
    if n_macs:
        parts.append(f"{n_macs:,} MACs")
    if n_params:
        parts.append(f"{n_params:,} parameters")
    return ", ".join(parts)
