"""Emit computation graphs from a family's description.

A family calls ``b.conv(x, ...)``, ``b.relu(x)`` and so on. Sub-networks that recur (a block at some width and
resolution) are decorated with :func:`.blocks.fragment`: their rows are made once and afterwards appended as arrays.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int32

from gennape.errors import InvalidGraphError
from gennape.moved import former_names
from gennape.search_spaces.graphs import operations as ops
from gennape.search_spaces.graphs.graph import MAX_NODES, N_COLUMNS, ComputationGraph
from gennape.search_spaces.graphs.operations import Fragment, Pair, Shape, Value
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.weight_sharing import tied

__all__ = ["Fragment", "GraphBuilder", "Value"]

#: The documentation named these here.
__getattr__ = former_names(
    __name__, "gennape.search_spaces.graphs.blocks", ("conv_bn", "conv_bn_relu", "fragment", "make_divisible")
)


class GraphBuilder:
    """Builds a computation graph, one operation at a time.

    Every method adds an operation and returns its output, a :class:`Value` with the channels ``c``, height ``h`` and
    width ``w``. Nodes are stored in the order in which they are added. Shapes are checked as you go.

    Args:
        published: Whether a search space should emit the graph that was published of a network where it differs from
            the network.

    Raises:
        InvalidGraphError: Shapes do not fit, or the graph has more than 32,768 nodes.

    Example:
        >>> import gennape as gp
        >>> b = gp.GraphBuilder()
        >>> x = b.input(3, 32, 32)
        >>> x = b.relu(b.batchnorm(b.conv(x, 16, kernel=3, stride=2)))
        >>> (x.c, x.h, x.w)
        (16, 16, 16)
        >>> _ = b.output(b.linear(b.mean(x), 10))
        >>> b.build()
        ComputationGraph(7 nodes, 3x32x32 to 10x1x1)
    """

    def __init__(self, published: bool = False) -> None:
        #: Whether a family should emit the graph that was published of a network where it differs from the network.
        self.published = published
        self._parts: list[Fragment] = []
        self._starts: list[int] = []
        self._inputs: list[int] = []
        self._first_inputs: list[int] = []
        self._size = 0
        self._tied: list[tuple[int, ...]] = []
        #: Of nodes that cut a value: that value, and the first place and step along each axis; kept by importers.
        self.slices: dict[int, tuple[Value, Shape, Shape]] = {}

    @property
    def size(self) -> int:
        """Number of nodes that were added."""
        return self._size

    def append(self, part: Fragment, *inputs: Value) -> Value:
        """Add a fragment fed by ``inputs``; returns its output."""
        node, c, h, w = part.output
        if node < 0:
            return Value(inputs[-1 - node].node, c, h, w)
        start = self._size
        self._parts.append(part)
        self._starts.append(start)
        self._first_inputs.append(len(self._inputs))
        self._inputs += [value[0] for value in inputs]
        self._size = start + len(part.nodes)
        if self._size > MAX_NODES:
            raise InvalidGraphError(f"a graph has at most {MAX_NODES} nodes; divide the network")
        return Value(start + node, c, h, w)

    def _join(self) -> tuple[Int32[np.ndarray, "n a"], Float64[np.ndarray, " n"], Int32[np.ndarray, "e 2"]]:
        parts = self._parts
        if not parts:
            return np.zeros((0, N_COLUMNS), np.int32), np.zeros(0), np.zeros((0, 2), np.int32)
        edges = np.concatenate([part.edges for part in parts])
        counts = [len(part.edges) for part in parts]
        starts, first_inputs = np.array([self._starts, self._first_inputs], np.int32).repeat(counts, axis=1)
        source = edges[:, 0]
        outside = np.flatnonzero(source < 0)
        port = first_inputs[outside] - 1 - source[outside]
        edges += starts[:, None]
        if len(port):
            edges[outside, 0] = np.array(self._inputs, np.int32)[port]
        return np.concatenate([part.nodes for part in parts]), np.concatenate([part.scalars for part in parts]), edges

    def part(self, output: Value) -> Fragment:
        """What was added so far, as a part of other graphs that gives ``output``; see :func:`.blocks.fragment`."""
        if self._tied:
            raise InvalidGraphError("layers of a fragment cannot share weights; tie them where the graph is built")
        return Fragment(*self._join(), output)

    def build(self) -> ComputationGraph:
        """The finished graph."""
        nodes, scalars, edges = self._join()
        keys = {node: number for number, nodes_of_one in enumerate(self._tied) for node in nodes_of_one}
        return ComputationGraph(tied(nodes, keys) if keys else nodes, scalars, edges)

    def tie(self, *layers: Value) -> None:
        """Say that these layers share one set of weights; of layers whose weights differ in shape none are shared.

        Within a :func:`fragment` no layers can be tied.
        """
        self._tied.append(tuple(layer.node for layer in layers))

    # Primitive operations ------------------------------------------------------------------------------------------

    def input(self, c: int, h: int, w: int) -> Value:
        """The image; every graph has one."""
        return self.append(ops.node(Op.INPUT, (c, h, w), (c, h, w)))

    def output(self, x: Value) -> Value:
        """The result; every graph has one."""
        return self.elementwise(Op.OUTPUT, x)

    def elementwise(self, op: Op, x: Value, scalar: float = 0.0, kind: int = 0) -> Value:
        """An operation that keeps the shape of its one input; for those that have no method of their own."""
        return self.append(ops.node(op, x[1:], x[1:], scalar=scalar, kind=kind), x)

    def conv(
        self,
        x: Value,
        c_out: int,
        kernel: Pair = 1,
        stride: Pair = 1,
        padding: Pair | None = None,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> Value:
        """2-D convolution; ``padding`` None keeps the size of an odd kernel at stride 1."""
        return self.append(ops.conv(x[1:], c_out, kernel, stride, padding, dilation, groups, bias), x)

    def depthwise(self, x: Value, kernel: int, stride: int = 1, dilation: int = 1, bias: bool = False) -> Value:
        """One filter per channel."""
        return self.append(ops.conv(x[1:], x[1], kernel, stride, None, dilation, x[1], bias), x)

    def conv_transpose(
        self,
        x: Value,
        c_out: int,
        kernel: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> Value:
        """2-D transposed convolution."""
        part = ops.conv_transpose(x[1:], c_out, kernel, stride, padding, output_padding, dilation, groups, bias)
        return self.append(part, x)

    def linear(self, x: Value, c_out: int, bias: bool = True) -> Value:
        """Fully connected layer on the channels, the same for every pixel."""
        return self.append(ops.linear(x[1:], c_out, bias), x)

    def matmul(self, x: Value, y: Value, transposed: bool = False) -> Value:
        """For each channel the product of two matrices [height, width]; ``transposed`` turns the second."""
        return self.append(ops.matmul(x[1:], y[1:], transposed), x, y)

    def batchnorm(self, x: Value, eps: float = 1e-5, affine: bool = True) -> Value:
        """Batch normalisation with running statistics; ``affine`` with learnt scale and shift (else ``kind`` 1)."""
        return self.append(ops.node(Op.BATCHNORM, x[1:], x[1:], scalar=eps, kind=int(not affine)), x)

    def layernorm(self, x: Value, eps: float = 1e-5, weight: bool = True, bias: bool = True, axis: int = 0) -> Value:
        """Normalises the channels of each pixel (``axis`` 0) or all numbers (``axis`` 3), then scales and shifts."""
        size = x.c if axis == 0 else x.c * x.h * x.w
        part = ops.node(
            Op.LAYERNORM,
            x[1:],
            x[1:],
            flags=(int(bias), 0, 0),
            scalar=eps,
            axis=axis,
            params=size * (int(weight) + int(bias)),
        )
        return self.append(part, x)

    def groupnorm(self, x: Value, groups: int, eps: float = 1e-5, affine: bool = True) -> Value:
        """Normalises groups of channels over all pixels, then scales and shifts each channel."""
        if groups < 1 or x.c % groups:
            raise InvalidGraphError(f"groups must divide the channels, got {groups} groups for {x.c}")
        params, bias = 2 * x.c * affine, (int(affine), 0, 0)
        return self.append(
            ops.node(Op.GROUPNORM, x[1:], x[1:], groups=groups, flags=bias, scalar=eps, params=params), x
        )

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        return self.elementwise(Op.RELU, x)

    def relu6(self, x: Value) -> Value:
        """min(max(x, 0), 6)."""
        return self.elementwise(Op.RELU6, x)

    def leakyrelu(self, x: Value, slope: float = 0.01, params: int = 0) -> Value:
        """max(x, 0) + slope · min(x, 0); with ``params`` the slope is learnt, for all channels or each."""
        constant = 0.0 if params else slope
        return self.append(ops.node(Op.LEAKYRELU, x[1:], x[1:], scalar=constant, params=params), x)

    def gelu(self, x: Value, tanh: bool = False) -> Value:
        """x · Φ(x), exactly or by the usual ``tanh`` (``kind`` 1)."""
        return self.elementwise(Op.GELU, x, kind=int(tanh))

    def hardsigmoid(self, x: Value) -> Value:
        """relu6(x + 3) / 6."""
        return self.elementwise(Op.HARDSIGMOID, x)

    def hardswish(self, x: Value) -> Value:
        """x · hardsigmoid(x), as two nodes."""
        return self.append(_hardswish(x[1:]), x)

    def power(self, x: Value, exponent: float) -> Value:
        """x to the power of ``exponent``."""
        return self.elementwise(Op.POWER, x, exponent)

    def clamp(self, x: Value, low: float | None, high: float | None) -> Value:
        """max(min(x, high), low) as shifts around a ReLU: low + relu(x - low), then high - relu(high - x)."""
        if low is not None:
            x = self.relu(self.shift(x, (), -low) if low else x)
            x = self.shift(x, (), low) if low else x
        if high is not None:
            x = self.relu(self.shift(self.scale(x, (), -1.0), (), high))
            x = self.shift(self.scale(x, (), -1.0), (), high)
        return x

    def softmax(self, x: Value, axis: int = 0, causal: bool = False) -> Value:
        """Exponentials that sum to 1 along ``axis`` (0 channels, 1 height, 2 width).

        ``causal``: each row has zeros right of its diagonal (``kind`` 1); ``axis`` is then 2.
        """
        return self.append(ops.node(Op.SOFTMAX, x[1:], x[1:], axis=axis, kind=int(causal)), x)

    def zero(self, x: Value) -> Value:
        """x · 0."""
        return self.elementwise(Op.ZERO, x)

    def identity(self, x: Value) -> Value:
        """x itself, as a node: only published graphs hold such nodes."""
        return self.elementwise(Op.IDENTITY, x)

    def scale(self, x: Value, axes: tuple[int, ...] = (), value: float = 1.0, params: int | None = None) -> Value:
        """x times a learnt tensor that spans ``axes`` (0 channels, 1 height, 2 width), or times the constant.

        The tensor's numbers are learnt one by one, unless ``params`` says how many learnt numbers they are computed
        of; 0 is a tensor that is fixed.
        """
        return self.append(ops.learnt(Op.SCALE, x[1:], axes, value, params), x)

    def shift(self, x: Value, axes: tuple[int, ...] = (), value: float = 0.0, params: int | None = None) -> Value:
        """x plus a tensor that spans ``axes``, as :meth:`scale` has it, or plus the constant."""
        return self.append(ops.learnt(Op.SHIFT, x[1:], axes, value, params), x)

    def extend(self, x: Value, size: int, axis: int = 0, before: bool = True, params: int | None = None) -> Value:
        """``size`` numbers before (or after) those of x along ``axis``, the same for every image: class tokens.

        They are learnt one by one, unless ``params`` says how many learnt numbers they are computed of; 0 is a tensor
        that is fixed.
        """
        return self.append(ops.extended(x[1:], axis, size, before, params), x)

    def add(self, *xs: Value) -> Value:
        """Sum of one or more values, two at a time from the left as it is executed; one is passed on.

        All have the shape of the first, or 1 where it is broadcast.
        """
        total = xs[0]
        for x in xs[1:]:
            self._broadcast("add", total, x)
            total = self.append(ops.merge(Op.ADD, (total[1:], x[1:])), total, x)
        return total

    def add_n(self, *xs: Value) -> Value:
        """Sum as one node, whatever the number of terms: only published graphs hold such nodes."""
        return self.append(ops.merge(Op.ADD, tuple(x[1:] for x in xs)), *xs)

    def mul(self, x: Value, gate: Value) -> Value:
        """Product; where the gate's channels, height or width are 1 it is broadcast."""
        self._broadcast("mul", x, gate)
        return self.append(ops.merge(Op.MUL, (x[1:], gate[1:])), x, gate)

    @staticmethod
    def _broadcast(what: str, x: Value, y: Value) -> None:
        if x[1:] != y[1:] and any(b not in (a, 1) for a, b in zip(x[1:], y[1:], strict=True)):
            raise InvalidGraphError(f"{what} takes equal shapes, or 1 where the second spreads; got {x[1:]}, {y[1:]}")

    def concat(self, *xs: Value, axis: int = 0) -> Value:
        """Values one after another along channels (0), height (1) or width (2), in the order given.

        One value is passed on, but for published graphs, which have a node for it.
        """
        if len(xs) == 1 and not self.published:
            return xs[0]
        rest = [tuple(n for i, n in enumerate(x[1:]) if i != axis) for x in xs]
        if any(shape != rest[0] for shape in rest):
            raise InvalidGraphError(f"concat takes equal sizes but along axis {axis}, got {[x.shape for x in xs]}")
        return self.append(ops.merge(Op.CONCAT, tuple(x[1:] for x in xs), axis), *xs)

    def maxpool(self, x: Value, kernel: Pair, stride: Pair, padding: Pair = 0, ceil_mode: bool = False) -> Value:
        """Maximum over windows."""
        return self.append(ops.pool(Op.MAXPOOL, x[1:], kernel, stride, padding, ceil_mode, False), x)

    def avgpool(
        self, x: Value, kernel: Pair, stride: Pair, padding: Pair = 0, ceil_mode: bool = False, count_pad: bool = False
    ) -> Value:
        """Mean over windows; ``count_pad`` counts padding as zeros."""
        return self.append(ops.pool(Op.AVGPOOL, x[1:], kernel, stride, padding, ceil_mode, count_pad), x)

    def mean(self, x: Value, op: Op = Op.MEAN) -> Value:
        """Global average over height and width, keeping 1x1; some published graphs call it ``Op.GLOBAL``."""
        return self.append(ops.node(op, x[1:], (x[1], 1, 1)), x)

    def pad(self, x: Value, before: Shape, after: Shape, mode: str = "constant", value: float = 0.0) -> Value:
        """Channels, rows and columns added ``before`` and ``after``; modes are ``operations.PAD_MODES``."""
        if not any((*before, *after)):
            return x
        return self.append(ops.pad(x[1:], before, after, mode, value), x)

    def resize(self, x: Value, h: int, w: int, mode: str = "nearest") -> Value:
        """Interpolation to another height and width; modes are ``operations.RESIZE_MODES``."""
        if (h, w) == x[2:]:
            return x
        return self.append(ops.node(Op.RESIZE, x[1:], (x.c, h, w), kind=ops.RESIZE_MODES.index(mode)), x)

    def slice(
        self,
        x: Value,
        c: int,
        offset_h: int = 0,
        offset_w: int = 0,
        offset_c: int = 0,
        h: int | None = None,
        w: int | None = None,
        step: tuple[int, int] = (1, 1),
    ) -> Value:
        """``c`` channels from ``offset_c``, ``h`` rows and ``w`` columns (None: to the end) in steps."""
        rows, columns = (
            -(-(whole - offset) // jump) if size is None else size
            for size, whole, offset, jump in zip((h, w), x[2:], (offset_h, offset_w), step, strict=True)
        )
        part = ops.cut(x[1:], (offset_c, offset_h, offset_w), (c, rows, columns), step)
        return x if part.output.shape == x[1:] else self.append(part, x)

    def reshape(self, x: Value, c: int, h: int, w: int) -> Value:
        """The same numbers in the same order, channels outermost."""
        if (c, h, w) == x[1:]:
            return x
        if c * h * w != x.c * x.h * x.w:
            raise InvalidGraphError(f"a reshape keeps the count of numbers; {x.shape} has not that of {(c, h, w)}")
        return self.append(ops.node(Op.RESHAPE, x[1:], (c, h, w)), x)

    def permute(self, x: Value, axes: Shape) -> Value:
        """Channels, height and width (0, 1, 2) in another order: axis ``i`` of the result is ``axes[i]`` of x."""
        if axes == (0, 1, 2):
            return x
        return self.append(ops.permute(x[1:], axes), x)

    def space_to_depth(self, x: Value, block: int) -> Value:
        """Pixels of square blocks become channels (PyTorch's pixel unshuffle)."""
        return self.append(ops.blocks(Op.SPACETODEPTH, x[1:], block), x)

    def depth_to_space(self, x: Value, block: int) -> Value:
        """Channels become the pixels of square blocks (PyTorch's pixel shuffle)."""
        return self.append(ops.blocks(Op.DEPTHTOSPACE, x[1:], block), x)

    def other(self, name: str, out: Shape, *xs: Value, macs: int = 0, params: int = 0) -> Value:
        """An operation outside the vocabulary: priced and hashed by its name, but not executable."""
        part = ops.node(
            Op.OTHER,
            xs[0][1:],
            out,
            scalar=float(macs),
            inputs=len(xs),
            params=params,
            kind=ops.other_kind(name),
        )
        return self.append(part, *xs)


@lru_cache(maxsize=4096)
def _hardswish(shape: Shape) -> Fragment:
    builder = GraphBuilder()
    x = Value(-1, *shape)
    return builder.part(builder.mul(x, builder.hardsigmoid(x)))
