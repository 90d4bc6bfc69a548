"""Execution plans of computation graphs, and checks that attributes match the stated sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs import operations as ops
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, PackedGraphs, pack, validate
from gennape.search_spaces.graphs.operations import Fragment, Shape
from gennape.search_spaces.graphs.ops import WEIGHTED, Op
from gennape.search_spaces.graphs.order import topological_order

#: Element-wise operations with one input.
ELEMENTWISE = (
    *(Op.RELU, Op.RELU6, Op.SIGMOID, Op.TANH, Op.SWISH, Op.GELU, Op.HARDSIGMOID),
    *(Op.IDENTITY, Op.ZERO),
)
_WINDOWS = (Op.CONV, Op.DEPTHWISE, Op.CONVTRANSPOSE, Op.MAXPOOL, Op.AVGPOOL)


class PlanStep(NamedTuple):
    """One operation of an execution plan."""

    #: Index of the node in its graph.
    node: int
    op: Op
    #: Name of the layer or of the value, unique in the plan: ``conv1_3x3``, ``relu4``.
    name: str
    #: Nodes whose values are inputs of this step, in order.
    inputs: tuple[int, ...]
    #: True where the value is [batch, channels], False where it is [batch, channels, height, width].
    flat: bool
    #: Nodes whose values are not used by any later step.
    release: tuple[int, ...]
    #: The node's attributes, to be read by :class:`Column`.
    row: tuple[int, ...]
    scalar: float

    def pair(self, first: Column) -> tuple[int, int]:
        """The attribute for height and the next one, for width."""
        return self.row[first], self.row[first + 1]


def execution_plan(graph: ComputationGraph) -> list[PlanStep]:
    """The nodes in execution order: the order of the graph, if possible.

    The output of a fully connected layer stays [batch, channels] through activations, sums, products and concatenations
    with values of the same kind; it becomes a 1x1 map for any other operation.

    Raises :class:`InvalidGraphError` for a graph that :func:`graph.validate` refuses, an operation that cannot be
    executed, or attributes that do not give the output size that a node claims.
    """
    validate(pack([graph]))
    inputs: list[list[int]] = [[] for _ in range(graph.n_nodes)]
    for source, target in graph.edges.tolist():
        inputs[target].append(source)
    order = topological_order(inputs)
    last_use = {source: node for node in order for source in inputs[node]}
    flat: dict[int, bool] = {}
    kinds: Counter[str] = Counter()
    steps = []
    for node in order:
        row, op, sources = tuple(graph.nodes[node].tolist()), Op(graph.nodes[node, Column.OP]), tuple(inputs[node])
        _check(node, op, row, [tuple(graph.nodes[s, Column.C_OUT : Column.W_OUT + 1].tolist()) for s in sources])
        same = op is Op.OUTPUT or op in ELEMENTWISE or op in (Op.ADD, Op.MUL) or _joins_channels(op, row)
        vector = op is Op.LINEAR and row[Column.H_OUT : Column.W_OUT + 1] == (1, 1)
        flat[node] = vector or (same and all(flat[s] for s in sources))
        kinds[op.name] += 1
        release = tuple(s for s in dict.fromkeys(sources) if last_use[s] == node)
        name = _name(op, kinds[op.name], row)
        steps.append(PlanStep(node, op, name, sources, flat[node], release, row, float(graph.scalars[node])))
    return steps


def refuse_false_convolutions(graphs: PackedGraphs) -> None:
    """Refuse convolutions whose attributes do not match their stated output, and bias flags other than 0 and 1.

    Such a graph is valid, but its cost is not that of any network. Equal rows are checked once.

    Raises :class:`InvalidGraphError` naming graph and node.
    """
    op, owner = graphs.nodes[:, Column.OP], graphs.graph_index
    layers = np.flatnonzero(np.isin(op, (Op.CONV, Op.DEPTHWISE, Op.CONVTRANSPOSE)))
    rows = np.ascontiguousarray(graphs.nodes[layers])
    as_bytes = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()  # sorts 20 times faster than rows
    _, first = np.unique(as_bytes, return_index=True)
    for at in layers[np.sort(first)].tolist():
        row, node = tuple(graphs.nodes[at].tolist()), at - int(graphs.node_offsets[owner[at]])
        try:
            _check(node, Op(row[Column.OP]), row, [row[Column.C_IN : Column.W_IN + 1]])
        except InvalidGraphError as error:
            raise InvalidGraphError(f"graph {owner[at]}, {error}") from None
    wrong = np.flatnonzero(np.isin(op, WEIGHTED) & (graphs.nodes[:, Column.BIAS] > 1))
    if len(wrong):
        graph, bias = owner[wrong[0]], graphs.nodes[wrong[0], Column.BIAS]
        node = wrong[0] - graphs.node_offsets[graph]
        raise InvalidGraphError(f"graph {graph}, node {node}: bias is 0 without and 1 with one, got {bias}")


def _name(op: Op, number: int, row: tuple[int, ...]) -> str:
    kernel = f"_{row[Column.KERNEL_H]}x{row[Column.KERNEL_W]}" if op in _WINDOWS else ""
    return f"{op.name.lower()}{number}{kernel}"


def _joins_channels(op: Op, row: tuple[int, ...]) -> bool:
    return op is Op.CONCAT and row[Column.AXIS] == 0


def _check(node: int, op: Op, row: tuple[int, ...], taken: list[tuple[int, ...]]) -> None:
    if op in NOT_EXECUTABLE:
        raise InvalidGraphError(
            f"node {node} is {ops.unknown_name(row)}, which can be priced and predicted but not executed or exported; "
            "replace it in the network by operations of the vocabulary"
        )
    shape, out = row[Column.C_IN : Column.W_IN + 1], row[Column.C_OUT : Column.W_OUT + 1]
    if op in _MADE:
        try:
            fits = _MADE[op](_Row(row), [(c, h, w) for c, h, w in taken]).output.shape == out
        except InvalidGraphError as error:
            raise InvalidGraphError(f"node {node}: {error}") from None
    elif op in (Op.ADD, Op.MUL):
        fits = taken[0] == out and all(b in (a, 1) for t in taken for a, b in zip(out, t, strict=True))
    elif op is Op.RESHAPE:
        fits = shape[0] * shape[1] * shape[2] == out[0] * out[1] * out[2]
    elif op is Op.SOFTMAX:
        fits = shape == out and (row[Column.KIND] == 0 or row[Column.AXIS] == 2)
    elif op in (Op.RESIZE, Op.PAD):
        fits = shape[0] == out[0] if op is Op.RESIZE else _pads(row)
    else:
        fits = shape == out
    if not fits:
        raise InvalidGraphError(
            f"node {node} ({op.name.lower()}) claims to make {list(out)} of {[list(t) for t in taken] or list(shape)} "
            "(channels, height, width), which its attributes do not give; rebuild the graph with the builder"
        )


class _Row:
    """Attributes of a node by their names in :mod:`operations`."""

    def __init__(self, row: tuple[int, ...]) -> None:
        self.row = row
        self.shape: Shape = (row[Column.C_IN], row[Column.H_IN], row[Column.W_IN])
        self.out: Shape = (row[Column.C_OUT], row[Column.H_OUT], row[Column.W_OUT])
        self.c_out = row[Column.C_OUT]
        self.groups = row[Column.GROUPS]

    def pair(self, first: Column) -> tuple[int, int]:
        return self.row[first], self.row[first + 1]


def _conv(row: _Row, _taken: list[Shape]) -> Fragment:
    kernel, stride, padding, dilation = _window(row)
    return ops.conv(row.shape, row.c_out, kernel, stride, padding, dilation, row.groups, False)


def _conv_transpose(row: _Row, _taken: list[Shape]) -> Fragment:
    kernel, stride, padding, dilation = _window(row)
    plain = ops.conv_transpose(row.shape, row.c_out, kernel, stride, padding, 0, dilation, row.groups, False).output
    extra = (row.out[1] - plain.h, row.out[2] - plain.w)  # smaller than a stride or a dilation, as in PyTorch
    extra = (min(extra[0], max(stride[0], dilation[0]) - 1), min(extra[1], max(stride[1], dilation[1]) - 1))
    return ops.conv_transpose(row.shape, row.c_out, kernel, stride, padding, extra, dilation, row.groups, False)


def _pool(row: _Row, _taken: list[Shape]) -> Fragment:
    kernel, stride, padding, dilation = _window(row)
    if dilation != (1, 1):
        raise InvalidGraphError(f"a pool has no dilation, got {dilation}")
    return ops.pool(Op.MAXPOOL, row.shape, kernel, stride, padding, bool(row.row[Column.CEIL_MODE]), False)


def _window(row: _Row) -> tuple[tuple[int, int], ...]:
    return tuple(row.pair(c) for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H, Column.DILATION_H))


def _slice(row: _Row, _taken: list[Shape]) -> Fragment:
    offset = row.row[Column.OFFSET_C], row.row[Column.OFFSET_H], row.row[Column.OFFSET_W]
    return ops.cut(row.shape, offset, row.out, row.pair(Column.STRIDE_H))


def _concat(row: _Row, taken: list[Shape]) -> Fragment:
    axis = row.row[Column.AXIS]
    if axis > 2 or len({tuple(n for i, n in enumerate(t) if i != axis) for t in taken}) > 1:
        raise InvalidGraphError(f"cannot join {taken} along axis {axis}")
    return ops.merge(Op.CONCAT, tuple(taken), axis)


def _matmul(row: _Row, taken: list[Shape]) -> Fragment:
    if len(taken) != 2:
        raise InvalidGraphError(f"a matrix product has two inputs, got {len(taken)}")
    return ops.matmul(taken[0], taken[1], bool(row.row[Column.KIND]))


def _permute(row: _Row, _taken: list[Shape]) -> Fragment:
    return ops.permute(row.shape, ops.permutation(row.row))


def _extended(row: _Row, _taken: list[Shape]) -> Fragment:
    axis = row.row[Column.AXIS]
    if axis > 2:
        raise InvalidGraphError(f"a map is extended along axis 0, 1 or 2, got {axis}")
    size, offset = row.out[axis] - row.shape[axis], row.row[Column.OFFSET_C : Column.OFFSET_W + 1]
    if offset not in ((0, 0, 0), tuple(size * (i == axis) for i in range(3))):
        raise InvalidGraphError(f"{size} numbers are added before or after a map, got offsets {list(offset)}")
    return ops.extended(row.shape, axis, size, any(offset), 0)


def _pads(row: tuple[int, ...]) -> bool:
    before = row[Column.OFFSET_C : Column.OFFSET_W + 1]
    sizes = zip(row[Column.C_IN : Column.W_IN + 1], before, row[Column.C_OUT : Column.W_OUT + 1], strict=True)
    return row[Column.KIND] < len(ops.PAD_MODES) and all(size + b <= out for size, b, out in sizes)


#: Operations that a graph may contain but that cannot be executed.
NOT_EXECUTABLE = (Op.UNKNOWN, Op.OTHER, Op.SPACETOBATCH, Op.BATCHTOSPACE, Op.GLOBAL)

#: Functions that rebuild a node from its attributes and input shapes, to compare the stated output.
_MADE: dict[Op, Callable[[_Row, list[Shape]], Fragment]] = {
    Op.CONV: _conv,
    Op.DEPTHWISE: _conv,
    Op.CONVTRANSPOSE: _conv_transpose,
    Op.MAXPOOL: _pool,
    Op.AVGPOOL: _pool,
    Op.LINEAR: lambda row, _: ops.linear(row.shape, row.c_out, False),
    Op.MEAN: lambda row, _: ops.node(Op.MEAN, row.shape, (row.shape[0], 1, 1)),
    Op.SLICE: _slice,
    Op.CONCAT: _concat,
    Op.MATMUL: _matmul,
    Op.PERMUTE: _permute,
    Op.EXTEND: _extended,
    Op.SPACETODEPTH: lambda row, _: ops.blocks(Op.SPACETODEPTH, row.shape, row.pair(Column.KERNEL_H)[0]),
    Op.DEPTHTOSPACE: lambda row, _: ops.blocks(Op.DEPTHTOSPACE, row.shape, row.pair(Column.KERNEL_H)[0]),
}
