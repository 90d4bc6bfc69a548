"""Operators outside the vocabulary with their own shape rules: nodes with a name and a cost."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx_nodes.arithmetic import ARITHMETIC, times
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler, Result
from gennape.search_spaces.importing.onnx_nodes.dimensions import axis_of, whole_numbers
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.shapes import SHAPES
from gennape.search_spaces.importing.tracing.traced_value import TracedValue

Shape = tuple[int, ...]


def _of(call: Call, i: int) -> Shape:
    """The shape of an input, traced or constant."""
    x = call.xs[i] if i < len(call.xs) else None
    if x is None:
        raise InvalidGraphError(f"its input {i} is missing")
    return x.shape


def _taking_all(call: Call, name: str, shape: Shape, macs: int = 0) -> TracedValue:
    """The node of an operator with all its traced inputs, and its learnable constants as parameters."""
    if min(shape, default=1) < 1:
        raise InvalidGraphError(f"its result of shape {list(shape)[:20]} is empty")
    traced = [x for x in call.xs if isinstance(x, TracedValue)]
    learnt = sum(x.params for x in call.xs if isinstance(x, Constant) and x.params > 1)
    return call.other(name, shape, *traced, macs=macs, params=learnt)


def _like(name: str, i: int = 0) -> Handler:
    """The handler of a node with the shape of input ``i``."""
    return lambda call: _taking_all(call, name, _of(call, i))


def _grid_sample(call: Call) -> TracedValue:
    """Sample a map at the positions of a grid."""
    image, grid = _of(call, 0), _of(call, 1)
    if len(image) != len(grid) or grid[-1] != len(image) - 2 or image[0] != grid[0]:
        raise InvalidGraphError(f"its grid {list(grid)} does not match {list(image)}")
    return _taking_all(call, "grid_sampler", (*image[:2], *grid[1:-1]))


def _gather_nd(call: Call) -> TracedValue:
    x, index, batch = _of(call, 0), _of(call, 1), call.node.integer("batch_dims", 0)
    depth = index[-1] if index else 0
    if not 0 <= batch < len(index) or not 1 <= depth <= len(x) - batch:
        raise InvalidGraphError(f"its indices {list(index)} do not match {list(x)}")
    return _taking_all(call, "index", (*index[:-1], *x[batch + depth :]))


def _top(call: Call) -> list[Result]:
    """The largest elements and their indices."""
    shape, counts = list(_of(call, 0)), whole_numbers(call.constant(1), "k")
    axis = axis_of(call.node.integer("axis", -1), len(shape))
    if len(counts) != 1 or not 1 <= counts[0] <= shape[axis]:
        raise InvalidGraphError(f"its k is {list(counts)[:5]}, must be one number from 1 to {shape[axis]}")
    shape[axis] = counts[0]
    names = ("topk", "topk_places")[: call.node.n_taken]
    return [call.other(name, tuple(shape), call.traced()) for name in names]


def _one_hot(call: Call) -> TracedValue:
    shape, depth = _of(call, 0), whole_numbers(call.constant(1), "depth")
    axis = axis_of(call.node.integer("axis", -1), len(shape) + 1)
    if len(depth) != 1:
        raise InvalidGraphError(f"its depth {list(depth)[:5]} must be one number")
    return _taking_all(call, "one_hot", (*shape[:axis], depth[0], *shape[axis:]))


def _compress(call: Call) -> TracedValue:
    """The positions that a known condition selects."""
    x, condition = call.traced(), call.weight(1).numbers.reshape(-1)
    kept = int(np.count_nonzero(condition))
    if "axis" not in call.node.attributes:
        return call.other("index", (kept,), x) if kept else _taking_all(call, "index", (0,))
    axis = axis_of(call.node.integer("axis"), len(x.shape))
    return _taking_all(call, "index", (*x.shape[:axis], kept, *x.shape[axis + 1 :]))


def _rois(call: Call) -> TracedValue:
    """A map for each region of interest."""
    size = call.node.integer("output_height", 1), call.node.integer("output_width", 1)
    return _taking_all(call, "roi_align", (_of(call, 1)[0], _of(call, 0)[1], *size))


def _deformed(call: Call) -> TracedValue:
    """A convolution whose kernel offsets are an input."""
    x, weight, offset = _of(call, 0), _of(call, 1), _of(call, 2)
    shape = (x[0], weight[0], *offset[2:])
    return _taking_all(call, "deform_conv", shape, prod(shape) * prod(weight[1:]))


def _folded(call: Call) -> TracedValue:
    """Sum windows back into a map."""
    shape, block = (whole_numbers(call.constant(i), what) for i, what in ((1, "image_shape"), (2, "block_shape")))
    n, c, *_ = _of(call, 0)
    if not block or min(block) < 1 or c % prod(block):
        raise InvalidGraphError(f"its blocks {list(block)[:5]} do not divide {c} channels")
    return _taking_all(call, "fold", (n, c // prod(block), *shape))


def _mean(call: Call) -> Result | list[Result]:
    """The mean of several values: their sum times a constant."""
    if len(call.xs) == 1:
        return call.traced()
    total = ARITHMETIC["Sum"](call)
    return times(call, total, 1 / len(call.xs), total.shape) if isinstance(total, TracedValue) else total


def _centred(call: Call) -> Result | list[Result]:
    """Dimensions cut or padded equally on both sides, as a Pad with negative widths for cuts."""
    shape, wanted = call.traced().shape, whole_numbers(call.constant(1), "shape")
    named = call.node.integers("axes", tuple(range(len(shape))))
    axes = [axis_of(axis, len(shape)) for axis in named]
    if len(axes) != len(wanted):
        raise InvalidGraphError(f"its shape {list(wanted)[:20]} does not match its axes {axes}")
    pads = np.zeros((2, len(shape)), np.int64)
    for axis, n in zip(axes, wanted, strict=True):
        more = n - shape[axis]
        before = more // 2 if more > 0 else -(-more // 2)
        pads[:, axis] = before, more - before
    given = Constant((2 * len(shape),), pads.reshape(-1))
    return SHAPES["Pad"](replace(call, xs=(call.xs[0], given), node=replace(call.node, attributes={})))


OUTSIDE: dict[str, Handler] = {
    "GridSample": _grid_sample,
    "GatherElements": _like("gather", 1),
    "GatherND": _gather_nd,
    "ScatterElements": _like("scatter"),
    "Scatter": _like("scatter"),
    "ScatterND": _like("scatter"),
    "TopK": _top,
    "OneHot": _one_hot,
    "Compress": _compress,
    "RoiAlign": _rois,
    "DeformConv": _deformed,
    "Col2Im": _folded,
    "Mean": _mean,
    "CenterCropPad": _centred,
    "QuantizeLinear": _like("quantize"),
    "DequantizeLinear": _like("dequantize"),
    "ReverseSequence": _like("flip_sequence"),
    "CumProd": _like("cumprod"),
    "Shrink": _like("shrink"),
}
