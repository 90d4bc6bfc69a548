"""Handlers of all supported ONNX operators, by name."""

from __future__ import annotations

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx_nodes.arithmetic import ARITHMETIC, divided, pointwise
from gennape.search_spaces.importing.onnx_nodes.attention import ATTENTION
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler
from gennape.search_spaces.importing.onnx_nodes.dimensions import axis_of
from gennape.search_spaces.importing.onnx_nodes.layers import FUSED_LAYERS, LAYERS
from gennape.search_spaces.importing.onnx_nodes.matrices import FUSED_MATRICES, MATRICES
from gennape.search_spaces.importing.onnx_nodes.outside import OUTSIDE
from gennape.search_spaces.importing.onnx_nodes.pools import POOLS
from gennape.search_spaces.importing.onnx_nodes.reductions import REDUCTIONS
from gennape.search_spaces.importing.onnx_nodes.resizing import RESIZING
from gennape.search_spaces.importing.onnx_nodes.shapes import FUSED_SHAPES, SHAPES
from gennape.search_spaces.importing.onnx_nodes.windows import WINDOWS
from gennape.search_spaces.importing.tracing import traced_value as tv
from gennape.search_spaces.importing.tracing.alignment import squared, sum_over
from gennape.search_spaces.importing.tracing.traced_value import Groups, TracedValue, grouped

_MAP: Groups = ((1,), (2,), (3,))
#: Added to a sum of squares to avoid division by zero; too small to change other sums.
_MIN_SQUARE = 1e-24


def _map(call: Call) -> TracedValue:
    """The input as a map of channels, height and width."""
    shape = call.traced().shape
    if len(shape) != 4 or shape[0] != 1:
        raise InvalidGraphError(f"its input has shape {list(shape)}, must be one map [1, c, h, w]")
    return call.arranged(0, _MAP)


def _depth_to_space(call: Call) -> TracedValue:
    x, block, mode = _map(call), call.node.integer("blocksize"), call.node.text("mode", "DCR")
    _, c, h, w = x.shape
    if block < 1 or c % block**2 or mode not in ("CRD", "DCR"):
        raise InvalidGraphError(f"its blocksize {block} or mode {mode[:20]!r} is invalid for {c} channels")
    if mode == "CRD":
        return grouped(call.b.depth_to_space(x.value, block), (1, c // block**2, h * block, w * block), _MAP)
    # Blocks are the outermost part of the channels here, and the innermost in PyTorch and in graphs.
    split = tv.reshaped(call.b, x, (1, block**2, c // block**2, h, w))
    x = tv.arrange(call.b, tv.reshaped(call.b, tv.moved(split, (0, 2, 1, 3, 4)), x.shape), _MAP)
    return grouped(call.b.depth_to_space(x.value, block), (1, c // block**2, h * block, w * block), _MAP)


def _space_to_depth(call: Call) -> TracedValue:
    """Blocks become the outermost part of the channels, unlike in PyTorch and in graphs."""
    x, block, mode = _map(call), call.node.integer("blocksize"), call.node.text("mode", "DCR")
    _, c, h, w = x.shape
    if block < 1 or h % block or w % block or mode not in ("CRD", "DCR"):
        raise InvalidGraphError(f"its blocksize {block} does not divide {h}x{w}, or its mode {mode[:20]!r} is unknown")
    shape = (1, c * block**2, h // block, w // block)
    made = grouped(call.b.space_to_depth(x.value, block), shape, _MAP)
    if mode == "CRD":
        return made
    split = tv.reshaped(call.b, made, (1, c, block**2, *shape[2:]))
    return tv.reshaped(call.b, tv.moved(split, (0, 2, 1, 3, 4)), shape)


#: Elementwise operators, and their names as "other" nodes.
_POINTWISE = {
    **{
        name.capitalize(): name for name in ("abs", "acos", "asin", "atan", "ceil", "celu", "cos", "cosh", "elu", "erf")
    },
    **{name.capitalize(): name for name in ("exp", "floor", "log", "mish", "round", "selu")},
    **{name.capitalize(): name for name in ("sign", "sin", "sinh", "softplus", "softsign", "tan", "where")},
    **{"ThresholdedRelu": "threshold", "Not": "logical_not", "And": "logical_and", "Or": "logical_or", "Equal": "eq"},
    **{"Less": "lt", "Greater": "gt", "LessOrEqual": "le", "GreaterOrEqual": "ge", "Mod": "remainder"},
    **{"IsNaN": "isnan", "IsInf": "isinf", "Xor": "logical_xor"},
    **{name: name.lower() for name in ("Asinh", "Acosh", "Atanh")},
    **{"BitShift": "bitwise_shift", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or"},
    **{"BitwiseXor": "bitwise_xor", "BitwiseNot": "bitwise_not"},
}


def _lp_normalization(call: Call) -> TracedValue:
    """The input divided by its L2 norm along an axis; zeros stay zeros."""
    x = call.traced()
    if call.node.integer("p", 2) != 2:
        return call.other("normalize", x.shape, x)
    along = axis_of(call.node.integer("axis", -1), len(x.shape))
    total = tv.settle(call.b, sum_over(call.b, squared(call.b, x), {along}, True))
    root = call.b.power(call.b.shift(total.value, (), _MIN_SQUARE), 0.5)
    return divided(call, x, TracedValue(root, total.dims), x.shape)


def _keeping(name: str) -> Handler:
    """The handler of an "other" node with the shape of its input."""
    return lambda call: call.other(name, call.traced().shape, call.traced())


#: Handlers by the name of the operator.
OPERATORS: dict[str, Handler] = {
    **WINDOWS,
    **POOLS,
    **LAYERS,
    **ARITHMETIC,
    **MATRICES,
    **SHAPES,
    **REDUCTIONS,
    **RESIZING,
    **OUTSIDE,
    **ATTENTION,
    **{op: pointwise(name) for op, name in _POINTWISE.items()},
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "LogSoftmax": _keeping("log_softmax"),
    "LRN": _keeping("local_response_norm"),
    "LpNormalization": _lp_normalization,
    "MeanVarianceNormalization": _keeping("normalize"),
    "CumSum": _keeping("cumsum"),
    "Hardmax": _keeping("hardmax"),
    "Trilu": _keeping("tril"),
}
#: Handlers of the fused operators of :mod:`patterns`.
FUSED_OPERATORS: dict[str, Handler] = {**FUSED_LAYERS, **FUSED_MATRICES, **FUSED_SHAPES}
