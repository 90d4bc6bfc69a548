"""Constant folding by ONNX's reference implementation, for operators that only need a shape rule here.

Every shape is known before values are computed, which limits the size of constants.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx_nodes.dimensions import Shape, axis_of, given, need, whole_numbers
from gennape.search_spaces.importing.onnx_nodes.file import MAX_NUMBERS, Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode

#: The shape of a result, and a function for its values, called if all inputs are known.
Computed = tuple[Shape, Callable[[], Any]]
#: Most products that the reference sums, and most elements that it interpolates, as it is slow.
_MAX_PRODUCTS, _MAX_INTERPOLATED = 2**20, 1024
#: Operators that the reference supports only from some opset on, compatible with earlier ones.
_COMPUTED_FROM = {"DequantizeLinear": 19}
_Shapes = Callable[[OnnxNode, list[Constant | None]], "Shape | list[Shape]"]


def compute(node: OnnxNode, xs: list[Constant | None], opset: int) -> list[Any]:
    """The results of a standard ONNX operator on known values.

    Raises :class:`InvalidGraphError` for attributes that hold graphs or lists of text.
    """
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - slow and rarely needed

    names = [f"x{i}" if x is not None else "" for i, x in enumerate(xs)]
    results = [f"y{i}" for i in range(len(node.outputs))]
    proto = NodeProto(op_type=node.op, input=names, output=results)
    proto.attribute.extend(_attribute(name, value) for name, value in node.attributes.items())
    takes = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names if name]
    gives = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results]
    graph = helper.make_graph([proto], "constant", takes, gives)
    version = max(opset, _COMPUTED_FROM.get(node.op, opset))
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    feeds = {name: x.numbers for name, x in zip(names, xs, strict=True) if x is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference warns about its own code
        return list(ReferenceEvaluator(model).run(None, feeds))


def _attribute(name: str, value: Any) -> AttributeProto:
    if isinstance(value, Constant):
        return helper.make_attribute(name, numpy_helper.from_array(np.asarray(value.numbers)))
    if isinstance(value, dict):
        raise InvalidGraphError(f"its attribute {name!r} holds no number or text")
    if value == ():
        return helper.make_attribute(name, [], attr_type=AttributeProto.INTS)
    return helper.make_attribute(name, list(value) if isinstance(value, tuple) else value)


# Shapes --------------------------------------------------------------------------------------------------------------


def _kept(_node: OnnxNode, xs: list[Constant | None]) -> Shape:
    return need(xs).shape


def _broadcast(_node: OnnxNode, xs: list[Constant | None]) -> Shape:
    return np.broadcast_shapes(*(x.shape for x in xs if x is not None))


def _scattered(_node: OnnxNode, xs: list[Constant | None]) -> Shape:
    """The shape of the tensor that is written to; indices and updates must match."""
    x, index, update = (need(xs, i) for i in range(3))
    depth = index.shape[-1] if _node.op == "ScatterND" and index.shape else None
    wanted = index.shape if depth is None else (*index.shape[:-1], *x.shape[depth:])
    if update.shape != wanted:
        raise InvalidGraphError(
            f"its updates {list(update.shape)} do not match its indices {list(index.shape)} into {list(x.shape)}"
        )
    return x.shape


def _dropped(_node: OnnxNode, xs: list[Constant | None]) -> list[Shape]:
    training = given(xs, 2)
    if training is not None and (training.values is None or training.values.any()):
        raise InvalidGraphError("it drops values at random; export the model for inference")
    return [need(xs).shape] * 2


def _normalised(node: OnnxNode, xs: list[Constant | None]) -> list[Shape]:
    shape = need(xs).shape
    axis = axis_of(node.integer("axis", -1), len(shape))
    return [shape, *[(*shape[:axis], *[1] * (len(shape) - axis))] * 2]


def _picked(node: OnnxNode, xs: list[Constant | None]) -> Shape:
    axis_of(node.integer("axis", 0), len(need(xs).shape))
    return need(xs, 1).shape


def _arg(node: OnnxNode, xs: list[Constant | None]) -> Shape:
    shape = list(need(xs).shape)
    axis = axis_of(node.integer("axis", 0), len(shape))
    shape[axis] = 1
    return tuple(shape) if node.integer("keepdims", 1) else tuple(shape[:axis] + shape[axis + 1 :])


def _largest(node: OnnxNode, xs: list[Constant | None]) -> list[Shape]:
    shape, counts = list(need(xs).shape), whole_numbers(given(xs, 1), "k")
    axis = axis_of(node.integer("axis", -1), len(shape))
    if len(counts) != 1 or not 0 <= counts[0] <= shape[axis]:
        raise InvalidGraphError(f"its k is {list(counts)[:5]}, must be one number from 0 to {shape[axis]}")
    shape[axis] = counts[0]
    return [tuple(shape)] * 2


def _one_hot(node: OnnxNode, xs: list[Constant | None]) -> Shape:
    shape, depth = need(xs).shape, whole_numbers(given(xs, 1), "depth")
    if len(depth) != 1 or depth[0] < 1:
        raise InvalidGraphError(f"its depth {list(depth)[:5]} must be one positive number")
    axis = axis_of(node.integer("axis", -1), len(shape) + 1)
    return (*shape[:axis], depth[0], *shape[axis:])


def _padded(_node: OnnxNode, xs: list[Constant | None]) -> Shape:
    shape, pads = list(need(xs).shape), whole_numbers(given(xs, 1), "pads")
    named = range(len(shape)) if given(xs, 3) is None else whole_numbers(given(xs, 3), "axes")
    axes = [axis_of(axis, len(shape)) for axis in named]
    if len(pads) != 2 * len(axes):
        raise InvalidGraphError(f"its pads {list(pads)[:20]} do not match {shape}")
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        shape[axis] += before + after
    return tuple(shape)


def _resized(node: OnnxNode, xs: list[Constant | None]) -> Shape:
    shape, scales, sizes = list(need(xs).shape), given(xs, 2), given(xs, 3)
    axes = [axis_of(axis, len(shape)) for axis in node.integers("axes", tuple(range(len(shape))))]
    if sizes is not None and node.text("keep_aspect_ratio_policy", "stretch") == "stretch":
        made: tuple[int, ...] = whole_numbers(sizes, "sizes")
    elif scales is not None and scales.values is not None and len(scales.numbers) == len(axes):
        factors = scales.numbers.astype(np.float32)
        made = tuple(math.floor(np.float32(shape[a]) * f) for a, f in zip(axes, factors, strict=True))
    else:
        raise InvalidGraphError("its scales or sizes must be known; fold constants when exporting")
    if len(made) != len(axes):
        raise InvalidGraphError(f"its sizes {list(made)[:20]} do not match {shape}")
    for axis, n in zip(axes, made, strict=True):
        shape[axis] = n
    return tuple(shape)


def _blocks(node: OnnxNode, xs: list[Constant | None]) -> Shape:
    shape, block = need(xs).shape, node.integer("blocksize")
    if len(shape) != 4 or block < 1:
        raise InvalidGraphError(f"its blocksize {block} is invalid for {list(shape)}")
    n, c, h, w = shape
    area = block * block
    if node.op == "DepthToSpace":
        return n, c // area, h * block, w * block
    return n, c * area, h // block, w // block


def _equation(node: OnnxNode, xs: list[Constant | None]) -> tuple[Shape, int]:
    """The shape of an einsum, and its number of products."""
    terms, arrow, out = node.text("equation").replace(" ", "").partition("->")
    size: dict[str, int] = {}
    labels = terms.split(",")
    if not arrow or len(labels) != len(xs) or not "".join((*labels, out)).isalpha() or not set(out) <= set(terms):
        raise InvalidGraphError(f"its equation {terms[:80]!r} must have letters for all operands and the result")
    for i, term in enumerate(labels):
        for label, n in zip(term, need(xs, i).shape, strict=True):
            size[label] = max(n, size.get(label, 1))
    return tuple(size[label] for label in out), math.prod(size.values())


def _pooled(_node: OnnxNode, xs: list[Constant | None]) -> Shape:
    shape = need(xs).shape
    return (*shape[:2], *[1] * (len(shape) - 2))


_SHAPES: dict[str, _Shapes] = {
    **dict.fromkeys(("GreaterOrEqual", "LessOrEqual", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor"), _broadcast),
    **dict.fromkeys(("BitShift", "PRelu", "Mean", "Sum"), _broadcast),
    **dict.fromkeys(("Sigmoid", "Softmax", "Tanh", "Relu", "Softplus", "Erf", "Sin", "Cos", "CumSum"), _kept),
    **dict.fromkeys(("Round", "Sign", "IsNaN", "IsInf", "BitwiseNot", "Trilu", "LeakyRelu", "Elu", "Selu"), _kept),
    **dict.fromkeys(("Celu", "HardSigmoid", "HardSwish", "Mish", "Swish", "Gelu", "ThresholdedRelu"), _kept),
    **dict.fromkeys(("Softsign", "Shrink", "LogSoftmax", "Hardmax", "CumProd", "ReverseSequence"), _kept),
    **dict.fromkeys(("Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "EyeLike"), _kept),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "RMSNormalization", "LpNormalization"), _kept),
    **dict.fromkeys(("MeanVarianceNormalization", "LRN", "QuantizeLinear", "DequantizeLinear"), _kept),
    **dict.fromkeys(("ScatterND", "ScatterElements", "Scatter"), _scattered),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _pooled),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    "Dropout": _dropped,
    "LayerNormalization": _normalised,
    "GatherElements": _picked,
    "TopK": _largest,
    "OneHot": _one_hot,
    "Pad": _padded,
    "Resize": _resized,
}


def _rule(op: str, node: OnnxNode, xs: list[Constant | None], opset: int) -> Computed | list[Computed]:
    if op == "Einsum":
        shapes, work = _equation(node, xs)
    else:
        shapes, work = _SHAPES[op](node, xs), 0  # type: ignore[assignment]
    every = shapes if isinstance(shapes, list) else [shapes]
    size = max(math.prod(shape) for shape in every)
    limit = _MAX_INTERPOLATED if op == "Resize" else MAX_NUMBERS
    known = all(x is None or x.values is not None for x in xs)
    made: list[Any] = []

    def result(i: int) -> Any:
        if not known or size > limit or work > _MAX_PRODUCTS:
            return None
        if not made:
            made.extend(compute(node, xs, opset))
        if np.shape(made[i]) != every[i]:
            raise InvalidGraphError(f"its result has shape {list(np.shape(made[i]))}, expected {list(every[i])}")
        return made[i]

    results: list[Computed] = [(shape, partial(result, i)) for i, shape in enumerate(every)]
    return results[: max(1, node.n_taken)]


#: Rules by the name of the operator: (node, inputs, opset) -> shapes and values.
BY_REFERENCE: dict[str, Callable[[OnnxNode, list[Constant | None], int], Computed | list[Computed]]] = {
    op: partial(_rule, op) for op in (*_SHAPES, "Einsum")
}
