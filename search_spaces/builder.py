"""Emit computation graphs from a family's description, a few cached pieces at a time.

A family calls ``b.conv(x, ...)``, ``b.relu(x)`` and so on. Sub-networks that recur (a block at some width and
resolution) are decorated with :func:`fragment`: their rows are made once and afterwards appended as arrays, so that
a graph of hundreds of nodes costs as many array copies as it has blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

import numpy as np
from jaxtyping import Float64, Int32

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graph import N_COLUMNS, ComputationGraph
from gennape.search_spaces.ops import Op

P = ParamSpec("P")
Shape = tuple[int, int, int]


class Value(NamedTuple):
    """The output of a node: its index and its channels, height and width."""

    node: int
    c: int
    h: int
    w: int

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        return self[1:]


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """Rows of a sub-network. Edge sources below 0 are its inputs: ``-1`` the first, ``-2`` the second, ..."""

    nodes: Int32[np.ndarray, "n a"]
    scalars: Float64[np.ndarray, " n"]
    edges: Int32[np.ndarray, "e 2"]
    output: Value  # node may be an input (below 0) when the fragment is the identity


class GraphBuilder:
    """Collects fragments and joins them into one graph. Nodes are stored in the order in which they are added."""

    def __init__(self) -> None:
        self._parts: list[Fragment] = []
        self._inputs: list[int] = []
        self._input_counts: list[int] = []
        self._size = 0

    def append(self, part: Fragment, *inputs: Value) -> Value:
        """Add a fragment fed by ``inputs``; returns its output."""
        node, c, h, w = part.output
        if node < 0:
            return Value(inputs[-1 - node].node, c, h, w)
        start = self._size
        self._parts.append(part)
        self._inputs += [value[0] for value in inputs]
        self._input_counts.append(len(inputs))
        self._size = start + len(part.nodes)
        return Value(start + node, c, h, w)

    def _join(self) -> tuple[Int32[np.ndarray, "n a"], Float64[np.ndarray, " n"], Int32[np.ndarray, "e 2"]]:
        parts = self._parts
        if not parts:
            return np.zeros((0, N_COLUMNS), np.int32), np.zeros(0), np.zeros((0, 2), np.int32)
        edges = np.concatenate([part.edges for part in parts])
        edge_counts = [len(part.edges) for part in parts]
        starts = np.cumsum([0] + [len(part.nodes) for part in parts[:-1]], dtype=np.int32)
        first_inputs = np.cumsum([0, *self._input_counts[:-1]], dtype=np.int32)
        source = edges[:, 0]
        outside = source < 0
        port = np.repeat(first_inputs, edge_counts)[outside] - 1 - source[outside]
        edges += np.repeat(starts, edge_counts)[:, None]
        if len(port):
            edges[outside, 0] = np.array(self._inputs, np.int32)[port]
        return np.concatenate([part.nodes for part in parts]), np.concatenate([part.scalars for part in parts]), edges

    def build(self) -> ComputationGraph:
        """The finished graph."""
        return ComputationGraph(*self._join())

    # Primitive operations ------------------------------------------------------------------------------------------

    def input(self, c: int, h: int, w: int) -> Value:
        """The image; every graph has one."""
        return self.append(_node(Op.INPUT, (c, h, w), (c, h, w)))

    def output(self, x: Value) -> Value:
        """The result; every graph has one."""
        return self.append(_node(Op.OUTPUT, x[1:], x[1:]), x)

    def conv(
        self,
        x: Value,
        c_out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> Value:
        """2-D convolution; ``padding`` None keeps the size of an odd kernel at stride 1."""
        return self.append(_conv(x[1:], c_out, kernel, stride, padding, dilation, groups, bias), x)

    def depthwise(self, x: Value, kernel: int, stride: int = 1, dilation: int = 1, bias: bool = False) -> Value:
        """One filter per channel."""
        return self.append(_conv(x[1:], x[1], kernel, stride, None, dilation, x[1], bias), x)

    def batchnorm(self, x: Value, eps: float = 1e-5) -> Value:
        """Affine batch normalisation with running statistics."""
        return self.append(_node(Op.BATCHNORM, x[1:], x[1:], scalar=eps), x)

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        return self.append(_node(Op.RELU, x[1:], x[1:]), x)

    def relu6(self, x: Value) -> Value:
        """min(max(x, 0), 6)."""
        return self.append(_node(Op.RELU6, x[1:], x[1:]), x)

    def hardsigmoid(self, x: Value) -> Value:
        """relu6(x + 3) / 6."""
        return self.append(_node(Op.HARDSIGMOID, x[1:], x[1:]), x)

    def hardswish(self, x: Value) -> Value:
        """x · hardsigmoid(x), as two nodes."""
        return self.append(_hardswish(x[1:]), x)

    def linear(self, x: Value, c_out: int, bias: bool = True) -> Value:
        """Fully connected layer on the channels of a 1x1 map."""
        return self.append(_linear(x[1:], c_out, bias), x)

    def add(self, *xs: Value) -> Value:
        """Sum of equally shaped values."""
        if any(x[1:] != xs[0][1:] for x in xs):
            raise InvalidGraphError(f"add takes equal shapes, got {[x.shape for x in xs]}")
        return self.append(_merge(Op.ADD, tuple(x[1:] for x in xs)), *xs)

    def mul(self, x: Value, gate: Value) -> Value:
        """Product; the gate may be 1x1 and then multiplies every pixel."""
        if gate.c != x.c or gate[2:] not in {x[2:], (1, 1)}:
            raise InvalidGraphError(f"mul takes equal shapes or a 1x1 gate, got {x.shape} and {gate.shape}")
        return self.append(_merge(Op.MUL, (x[1:], gate[1:])), x, gate)

    def concat(self, *xs: Value) -> Value:
        """Channels one after another, in the order given."""
        if any(x[2:] != xs[0][2:] for x in xs):
            raise InvalidGraphError(f"concat takes equal heights and widths, got {[x.shape for x in xs]}")
        return self.append(_merge(Op.CONCAT, tuple(x[1:] for x in xs)), *xs)

    def maxpool(self, x: Value, kernel: int, stride: int, padding: int = 0, ceil_mode: bool = False) -> Value:
        """Maximum over windows."""
        return self.append(_pool(Op.MAXPOOL, x[1:], kernel, stride, padding, ceil_mode, False), x)

    def avgpool(
        self, x: Value, kernel: int, stride: int, padding: int = 0, ceil_mode: bool = False, count_pad: bool = False
    ) -> Value:
        """Mean over windows; ``count_pad`` counts padding as zeros."""
        return self.append(_pool(Op.AVGPOOL, x[1:], kernel, stride, padding, ceil_mode, count_pad), x)

    def mean(self, x: Value) -> Value:
        """Global average over height and width, keeping 1x1."""
        return self.append(_node(Op.MEAN, x[1:], (x[1], 1, 1)), x)

    def slice(self, x: Value, c: int, offset_h: int = 0, offset_w: int = 0, offset_c: int = 0) -> Value:
        """``c`` channels from ``offset_c``, rows from ``offset_h`` and columns from ``offset_w`` to the end."""
        return self.append(_slice(x[1:], c, offset_h, offset_w, offset_c), x)


def fragment(
    function: Callable[Concatenate[GraphBuilder, P], Value],
) -> Callable[Concatenate[GraphBuilder, P], Value]:
    """Cache what ``function`` adds to a builder by the shapes of its :class:`Value` arguments and its other arguments.

    The other arguments must be hashable and positional, and ``function`` must depend on nothing else.
    """

    @lru_cache(maxsize=4096)
    def make(*args: Any) -> Fragment:
        builder = GraphBuilder()
        ports = 0
        actual = []
        for arg in args:
            if type(arg) is _Port:
                ports += 1
                actual.append(Value(-ports, *arg))
            else:
                actual.append(arg)
        output = function(builder, *actual)  # type: ignore[call-arg, arg-type]
        return Fragment(*builder._join(), output)

    @wraps(function)
    def wrapper(builder: GraphBuilder, *args: Any) -> Value:
        key = [_Port(arg[1:]) if type(arg) is Value else arg for arg in args]
        return builder.append(make(*key), *[arg for arg in args if type(arg) is Value])

    return wrapper  # type: ignore[return-value]


class _Port(tuple[int, ...]):
    """The shape of a value in a cache key, apart from tuples that are plain arguments."""

    __slots__ = ()


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@lru_cache(maxsize=65536)
def _node(
    op: Op,
    shape: Shape,
    out: Shape,
    window: tuple[int, ...] = (0, 0, 1, 1, 0, 0, 1, 1),
    groups: int = 1,
    flags: tuple[int, int, int] = (0, 0, 0),
    offset: Shape = (0, 0, 0),
    scalar: float = 0.0,
    inputs: int = 1,
) -> Fragment:
    """One node; ``window`` is kernel, stride, padding, dilation (each h, w), ``flags`` bias, ceil mode, count pad."""
    row = np.array([[op, *shape, *out, *window, groups, *flags, *offset]], np.int32)
    ports = 0 if op is Op.INPUT else inputs
    edges = np.array([[-1 - i, 0] for i in range(ports)], np.int32).reshape(ports, 2)
    return Fragment(row, np.array([scalar]), edges, Value(0, *out))


@lru_cache(maxsize=65536)
def _conv(
    shape: Shape,
    c_out: int,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] | None,
    dilation: int,
    groups: int,
    bias: bool,
) -> Fragment:
    (kh, kw), (sh, sw) = _pair(kernel), _pair(stride)
    ph, pw = (dilation * (kh // 2), dilation * (kw // 2)) if padding is None else _pair(padding)
    c, h, w = shape
    if c % groups or c_out % groups:
        raise InvalidGraphError(f"groups must divide both channel counts, got {groups} groups for {c} -> {c_out}")
    out = (
        c_out,
        (h + 2 * ph - dilation * (kh - 1) - 1) // sh + 1,
        (w + 2 * pw - dilation * (kw - 1) - 1) // sw + 1,
    )
    if min(out) < 1:
        raise InvalidGraphError(f"a {kh}x{kw} convolution with padding {ph},{pw} does not fit an input of {h}x{w}")
    op = Op.DEPTHWISE if groups == c and groups > 1 else Op.CONV
    return _node(op, shape, out, (kh, kw, sh, sw, ph, pw, dilation, dilation), groups, (int(bias), 0, 0))


@lru_cache(maxsize=4096)
def _linear(shape: Shape, c_out: int, bias: bool) -> Fragment:
    if shape[1:] != (1, 1):
        raise InvalidGraphError(f"linear takes a 1x1 map, got {shape}; average or pool it first")
    return _node(Op.LINEAR, shape, (c_out, 1, 1), flags=(int(bias), 0, 0))


@lru_cache(maxsize=65536)
def _pool(op: Op, shape: Shape, kernel: int, stride: int, padding: int, ceil_mode: bool, count_pad: bool) -> Fragment:
    def size(n: int) -> int:
        span = n + 2 * padding - kernel
        out = (-(-span // stride) if ceil_mode else span // stride) + 1
        # A window that would start in the right-hand padding is dropped (PyTorch's rule).
        return out - 1 if ceil_mode and (out - 1) * stride >= n + padding else out

    c, h, w = shape
    out = (c, size(h), size(w))
    if min(out) < 1:
        raise InvalidGraphError(f"a {kernel}x{kernel} pool with padding {padding} does not fit an input of {h}x{w}")
    window = (kernel, kernel, stride, stride, padding, padding, 1, 1)
    return _node(op, shape, out, window, flags=(0, int(ceil_mode), int(count_pad)))


@lru_cache(maxsize=65536)
def _slice(shape: Shape, c: int, offset_h: int, offset_w: int, offset_c: int) -> Fragment:
    if not (0 < c <= shape[0] - offset_c and 0 <= offset_h < shape[1] and 0 <= offset_w < shape[2]):
        raise InvalidGraphError(f"a slice of {c} channels at {offset_c, offset_h, offset_w} leaves its input {shape}")
    out = (c, shape[1] - offset_h, shape[2] - offset_w)
    return _node(Op.SLICE, shape, out, offset=(offset_c, offset_h, offset_w))


@lru_cache(maxsize=65536)
def _merge(op: Op, shapes: tuple[Shape, ...]) -> Fragment:
    c = sum(s[0] for s in shapes) if op is Op.CONCAT else shapes[0][0]
    return _node(op, shapes[0], (c, *shapes[0][1:]), inputs=len(shapes))


@lru_cache(maxsize=4096)
def _hardswish(shape: Shape) -> Fragment:
    builder = GraphBuilder()
    x = Value(-1, *shape)
    gated = builder.mul(x, builder.hardsigmoid(x))
    return Fragment(*builder._join(), gated)


def conv_bn(
    b: GraphBuilder, x: Value, c_out: int, kernel: int | tuple[int, int] = 1, stride: int | tuple[int, int] = 1
) -> Value:
    """Convolution without bias, then batch normalisation."""
    return b.batchnorm(b.conv(x, c_out, kernel, stride))


@fragment
def conv_bn_relu(
    b: GraphBuilder, x: Value, c_out: int, kernel: int | tuple[int, int] = 1, stride: int | tuple[int, int] = 1
) -> Value:
    """Convolution without bias, batch normalisation, ReLU."""
    return b.relu(b.batchnorm(b.conv(x, c_out, kernel, stride)))


def sequence_sum(b: GraphBuilder, xs: Sequence[Value]) -> Value:
    """Sum of one or more values; a single one is passed through."""
    return xs[0] if len(xs) == 1 else b.add(*xs)


def make_divisible(value: int | float) -> int:
    """Nearest multiple of 8, at least 8 and never below 90 % of ``value`` (the MobileNet rule)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded
