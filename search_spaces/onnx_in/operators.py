"""Every operator of ONNX that a computation graph can tell, by name."""

from __future__ import annotations

import math

from gennape.errors import InvalidGraphError
from gennape.search_spaces.onnx_in.arithmetic import ARITHMETIC, pointwise
from gennape.search_spaces.onnx_in.call import Call, Handler
from gennape.search_spaces.onnx_in.dimensions import axis_of, whole_numbers
from gennape.search_spaces.onnx_in.layers import FUSED_LAYERS, LAYERS
from gennape.search_spaces.onnx_in.matrices import FUSED_MATRICES, MATRICES
from gennape.search_spaces.onnx_in.pools import POOLS
from gennape.search_spaces.onnx_in.reductions import REDUCTIONS
from gennape.search_spaces.onnx_in.shapes import FUSED_SHAPES, SHAPES
from gennape.search_spaces.onnx_in.windows import WINDOWS
from gennape.search_spaces.tracing import traced_value as tv
from gennape.search_spaces.tracing.traced_value import Groups, TracedValue, grouped

_MAP: Groups = ((1,), (2,), (3,))


def _map(call: Call) -> TracedValue:
    """The input as a map of channels, height and width."""
    shape = call.traced().shape
    if len(shape) != 4 or shape[0] != 1:
        raise InvalidGraphError(f"it takes {list(shape)}, must take one map [1, c, h, w]")
    return call.arranged(0, _MAP)


def _depth_to_space(call: Call) -> TracedValue:
    x, block, mode = _map(call), call.node.integer("blocksize"), call.node.text("mode", "DCR")
    _, c, h, w = x.shape
    if block < 1 or c % block**2 or mode not in ("CRD", "DCR"):
        raise InvalidGraphError(f"its blocksize {block} or mode {mode[:20]!r} is not one of {c} channels")
    if mode == "CRD":
        return grouped(call.b.depth_to_space(x.value, block), (1, c // block**2, h * block, w * block), _MAP)
    split = tv.reshaped(call.b, x, (1, block, block, c // block**2, h, w))
    return tv.reshaped(call.b, tv.moved(split, (0, 3, 4, 1, 5, 2)), (1, c // block**2, h * block, w * block))


def _space_to_depth(call: Call) -> TracedValue:
    """Blocks become the outermost part of the channels, where those of PyTorch and of graphs are the innermost."""
    x, block = _map(call), call.node.integer("blocksize")
    _, c, h, w = x.shape
    if block < 1 or h % block or w % block:
        raise InvalidGraphError(f"its blocksize {block} does not divide {h}x{w}")
    split = tv.reshaped(call.b, x, (1, c, h // block, block, w // block, block))
    return tv.reshaped(call.b, tv.moved(split, (0, 3, 5, 1, 2, 4)), (1, c * block**2, h // block, w // block))


#: Interpolation by mode, how pixels are placed, and how places are rounded.
_RESIZE_MODES = {
    ("nearest", "asymmetric", "floor"): "nearest",
    ("nearest", "half_pixel", "round_prefer_ceil"): "nearest-exact",
    ("linear", "half_pixel", ""): "bilinear",
    ("linear", "pytorch_half_pixel", ""): "bilinear",
    ("linear", "align_corners", ""): "bilinear-aligned",
    ("cubic", "half_pixel", ""): "bicubic",
    ("cubic", "pytorch_half_pixel", ""): "bicubic",
    ("cubic", "align_corners", ""): "bicubic-aligned",
}


def _resize(call: Call) -> TracedValue:
    x = _map(call)
    size, exact = _size(call, x.shape)
    if size[:2] != x.shape[:2] or min(size) < 1:
        raise InvalidGraphError(f"it makes {list(size)} of {list(x.shape)}, must change height and width alone")
    mode, place = call.node.text("mode", "nearest"), call.node.text("coordinate_transformation_mode", "half_pixel")
    rounding = call.node.text("nearest_mode", "round_prefer_floor") if mode == "nearest" else ""
    cubic = mode != "cubic" or math.isclose(call.node.real("cubic_coeff_a", -0.75), -0.75)
    plain = cubic and not call.node.integer("antialias", 0) and not call.node.integer("exclude_outside", 0)
    name = _RESIZE_MODES.get((mode, place, rounding))
    if mode == "nearest" and place == "half_pixel" and exact and size[2] % x.shape[2] == size[3] % x.shape[3] == 0:
        name = "nearest"  # whole multiples repeat pixels, however places are rounded
    if size == x.shape and exact:
        return x
    if name is None or not plain or not (exact or place == "align_corners"):
        call.others.add("interpolate")
        return grouped(call.b.other("interpolate", tv.sizes(size, _MAP), x.value), size, _MAP)
    return grouped(call.b.resize(x.value, size[2], size[3], name), size, _MAP)


def _size(call: Call, shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """The shape that a Resize makes, and whether its factors are the ratios of the sizes."""
    if call.node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise InvalidGraphError("it keeps the aspect ratio, which is not known; give it sizes")
    rank = len(shape)
    axes = tuple(axis_of(axis, rank) for axis in call.node.integers("axes", tuple(range(rank))))
    scales, sizes = call.constant(2), call.constant(3)
    out = list(shape)
    if sizes is not None:
        given: tuple[float, ...] = whole_numbers(sizes, "sizes")
    elif scales is not None and scales.values is not None and scales.values.dtype.kind == "f":
        given = tuple(scales.values.reshape(-1).tolist())
    else:
        raise InvalidGraphError("its scales or sizes must be known; fold constants when exporting")
    if len(given) != len(axes) or any(not 0 < n < 2**31 for n in given):
        raise InvalidGraphError(f"its scales or sizes {list(given)[:20]} are not those of {list(shape)}")
    for axis, n in zip(axes, given, strict=True):
        out[axis] = int(n) if sizes is not None else math.floor(shape[axis] * n)
    exact = sizes is not None or all(out[axis] == shape[axis] * n for axis, n in zip(axes, given, strict=True))
    return tuple(out), exact


#: Operators that act on numbers of the same place, and what they are called as "others".
_POINTWISE = {
    **{
        name.capitalize(): name for name in ("abs", "acos", "asin", "atan", "ceil", "celu", "cos", "cosh", "elu", "erf")
    },
    **{name.capitalize(): name for name in ("exp", "floor", "log", "mish", "pow", "reciprocal", "round", "selu")},
    **{name.capitalize(): name for name in ("sign", "sin", "sinh", "softplus", "softsign", "sqrt", "tan", "where")},
    **{"ThresholdedRelu": "threshold", "Not": "logical_not", "And": "logical_and", "Or": "logical_or", "Equal": "eq"},
    **{"Less": "lt", "Greater": "gt", "LessOrEqual": "le", "GreaterOrEqual": "ge", "Mod": "remainder"},
    **{"Max": "maximum", "Min": "minimum", "IsNaN": "isnan", "IsInf": "isinf", "Xor": "logical_xor"},
}


def _keeping(name: str) -> Handler:
    """An operator of another kind whose result has the shape of its input."""
    return lambda call: call.other(name, call.traced().shape, call.traced())


#: What makes the nodes of an operator, by its name.
OPERATORS: dict[str, Handler] = {
    **WINDOWS,
    **POOLS,
    **LAYERS,
    **ARITHMETIC,
    **MATRICES,
    **SHAPES,
    **REDUCTIONS,
    **{op: pointwise(name) for op, name in _POINTWISE.items()},
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Resize": _resize,
    "LogSoftmax": _keeping("log_softmax"),
    "LRN": _keeping("local_response_norm"),
    "LpNormalization": _keeping("normalize"),
    "MeanVarianceNormalization": _keeping("normalize"),
    "CumSum": _keeping("cumsum"),
    "Hardmax": _keeping("hardmax"),
    "Trilu": _keeping("tril"),
}
#: The same for operators that :mod:`patterns` makes.
FUSED_OPERATORS: dict[str, Handler] = {**FUSED_LAYERS, **FUSED_MATRICES, **FUSED_SHAPES}
