"""Constant folding: shapes of nodes that do not depend on the image, and their values if few and known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx_nodes.dimensions import (
    axes_of,
    axis_of,
    flattened,
    given,
    need,
    permutation,
    reshaped,
    slices,
    squeezed,
    unsqueezed,
    whole_numbers,
)
from gennape.search_spaces.importing.onnx_nodes.file import MAX_DIM, MAX_NUMBERS, Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode
from gennape.search_spaces.importing.onnx_nodes.reference import BY_REFERENCE
from gennape.search_spaces.importing.onnx_nodes.sources import OF_SHAPES, sources_of
from gennape.search_spaces.importing.onnx_nodes.weights import WEIGHTS, Computed

Shape = tuple[int, ...]
#: Errors of the rules and of ONNX's reference for invalid inputs.
_UNFIT = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError, AssertionError)


def evaluate(node: OnnxNode, xs: list[Constant | None], opset: int) -> list[Constant]:
    """The results of a node with only constant inputs.

    Raises :class:`InvalidGraphError` if the operator is unknown or its inputs are invalid.
    """
    try:
        with np.errstate(all="ignore"):
            rule = _EVALUATED.get(node.op)
            made = rule(node, xs) if rule else BY_REFERENCE[node.op](node, xs, opset)
            results = made if isinstance(made, list) else [made]
            if len(results) < node.n_taken:
                raise InvalidGraphError(f"its constant output {node.n_taken} is used, only {len(results)} are known")
            return [_constant_of(node, xs, i, *result) for i, result in enumerate(results)]
    except _UNFIT as error:
        raise InvalidGraphError(f"its constant inputs are invalid ({error})") from error


def _constant_of(
    node: OnnxNode, xs: list[Constant | None], i: int, shape: Shape, compute: Callable[[], Any]
) -> Constant:
    if min(shape, default=1) < 0 or max(shape, default=1) > MAX_DIM:
        raise InvalidGraphError(f"its constant result would have the shape {list(shape)}")
    unknown = node.op not in OF_SHAPES and any(x is not None and x.values is None for x in xs)
    values = None if math.prod(shape) > MAX_NUMBERS or unknown else compute()
    numbers = None if values is None else np.asarray(values).reshape(shape)
    return Constant(shape, numbers, sources_of(node, xs, i, shape))


def is_evaluated(op: str) -> bool:
    """Whether :func:`evaluate` supports the operator."""
    return op in _EVALUATED or op in BY_REFERENCE


def _elementwise(function: Callable[..., Any]) -> Callable[[OnnxNode, list[Constant | None]], Computed]:
    def rule(_node: OnnxNode, xs: list[Constant | None]) -> Computed:
        present = [x for x in xs if x is not None]
        shape = np.broadcast_shapes(*(x.shape for x in present))
        return shape, lambda: function(*(x.numbers for x in present))

    return rule


def _moved(
    shape_of: Callable[[OnnxNode, list[Constant | None]], Shape],
) -> Callable[[OnnxNode, list[Constant | None]], Computed]:
    """The rule of a view: a new shape for the same values."""

    def rule(node: OnnxNode, xs: list[Constant | None]) -> Computed:
        x, shape = need(xs), shape_of(node, xs)
        return shape, lambda: np.reshape(x.numbers, shape)

    return rule


def _reshape(node: OnnxNode, xs: list[Constant | None]) -> Shape:
    return reshaped(need(xs).shape, whole_numbers(given(xs, 1), "shape"), bool(node.integer("allowzero", 0)))


def _transpose(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    x = need(xs)
    order = permutation(node, len(x.shape))
    return tuple(x.shape[i] for i in order), lambda: np.transpose(x.numbers, order)


def _gather(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    x, index = need(xs), need(xs, 1)
    axis = axis_of(node.integer("axis", 0), len(x.shape))
    shape = x.shape[:axis] + index.shape + x.shape[axis + 1 :]
    return shape, lambda: np.take(x.numbers, index.numbers, axis)


def _slice(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    x = need(xs)
    kept = slices(node, xs, x.shape)
    shape = tuple(len(range(s.start, s.stop, s.step)) for s in kept)
    return shape, lambda: x.numbers[tuple(slice(s.start, s.stop if s.stop >= 0 else None, s.step) for s in kept)]


def _concat(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    parts = [need(xs, i) for i in range(len(xs))]
    axis = axis_of(node.integer("axis"), len(parts[0].shape))
    shape = list(parts[0].shape)
    if any((*x.shape[:axis], *x.shape[axis + 1 :]) != (*shape[:axis], *shape[axis + 1 :]) for x in parts):
        raise InvalidGraphError(f"its inputs {[list(x.shape) for x in parts][:5]} do not match along axis {axis}")
    shape[axis] = sum(x.shape[axis] for x in parts)
    return tuple(shape), lambda: np.concatenate([x.numbers for x in parts], axis)


def _expand(_node: OnnxNode, xs: list[Constant | None]) -> Computed:
    x = need(xs)
    shape = np.broadcast_shapes(x.shape, whole_numbers(given(xs, 1), "shape"))
    return shape, lambda: np.broadcast_to(x.numbers, shape)


def _constant_of_shape(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    shape, value = whole_numbers(given(xs, 0), "shape"), node.attributes.get("value")
    fill = value.values if isinstance(value, Constant) and value.values is not None else np.zeros(1, np.float32)
    return shape, lambda: np.full(shape, fill.reshape(-1)[0], fill.dtype)


def _constant(node: OnnxNode, _xs: list[Constant | None]) -> Computed:
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    names = list(node.attributes)
    value: Any = node.attributes.get(names[0] if len(names) == 1 else "")
    if names[:1] == ["value"] and isinstance(value, Constant):
        held = value
        return held.shape, lambda: held.values
    if value is None or names[0] not in kinds:
        raise InvalidGraphError(f"its value must be one tensor or numbers, got attributes {names[:5]}")
    return np.shape(value), lambda: np.array(value, kinds[names[0]])


def _known(numbers: Any) -> Computed:
    """Integers that depend on shapes alone."""
    made = np.array(numbers, np.int64)
    return made.shape, lambda: made


def _tile(_node: OnnxNode, xs: list[Constant | None]) -> Computed:
    x, repeats = need(xs), whole_numbers(given(xs, 1), "repeats")
    shape = tuple(n * times for n, times in zip(x.shape, repeats, strict=True))
    return shape, lambda: np.tile(x.numbers, repeats)


def _clip(_node: OnnxNode, xs: list[Constant | None]) -> Computed:
    x, low, high = need(xs), given(xs, 1), given(xs, 2)

    def compute() -> Any:
        raised = x.numbers if low is None else np.maximum(x.numbers, low.numbers)
        return raised if high is None else np.minimum(raised, high.numbers)

    return x.shape, compute


def _range(_node: OnnxNode, xs: list[Constant | None]) -> Computed:
    start, stop, step = (need(xs, i).numbers.item() for i in range(3))
    count = max(0, math.ceil((stop - start) / step))
    return (count,), lambda: start + step * np.arange(count)


def _reduce(function: Callable[..., Any]) -> Callable[[OnnxNode, list[Constant | None]], Computed]:
    def rule(node: OnnxNode, xs: list[Constant | None]) -> Computed:
        x = need(xs)
        listed = axes_of(node, xs, None)
        if not listed:
            listed = () if node.integer("noop_with_empty_axes", 0) else tuple(range(len(x.shape)))
        gone = tuple(axis_of(axis, len(x.shape)) for axis in listed)
        keep = bool(node.integer("keepdims", 1))
        shape = tuple(1 if i in gone else n for i, n in enumerate(x.shape) if keep or i not in gone)
        return shape, lambda: function(x.numbers, axis=gone, keepdims=keep)

    return rule


def _cast(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    x = need(xs)
    kind = node.integer("to")
    try:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
    except KeyError as error:
        raise InvalidGraphError(f"its attribute 'to' is {kind}, which is no dtype") from error

    def compute() -> Any:
        made = x.numbers.astype(dtype)
        return (
            made if dtype.kind in "biuf" else made.astype(np.float32)
        )  # NumPy cannot calculate with types of few bits

    return x.shape, compute


def _non_zero(_node: OnnxNode, xs: list[Constant | None]) -> Computed:
    """Positions of nonzero elements; the shape depends on the values."""
    places = np.array(np.nonzero(need(xs).numbers), np.int64)
    return places.shape, lambda: places


def _compress(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    x, axis = need(xs), node.attributes.get("axis")
    kept = np.compress(need(xs, 1).numbers.reshape(-1), x.numbers, axis)
    return kept.shape, lambda: kept


def _divide(a: Any, b: Any) -> Any:
    """Division; for integers, rounded towards zero."""
    return np.trunc(a / b).astype(a.dtype) if np.asarray(a).dtype.kind in "iu" else a / b


_EVALUATED: dict[str, Callable[[OnnxNode, list[Constant | None]], Computed | list[Computed]]] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": lambda node, xs: _known(need(xs).shape[node.integer("start", 0) : node.attributes.get("end")]),
    "Size": lambda _node, xs: _known(math.prod(need(xs).shape)),
    "Identity": _moved(lambda _node, xs: need(xs).shape),
    "Cast": _cast,
    "Reshape": _moved(_reshape),
    "Unsqueeze": _moved(lambda node, xs: unsqueezed(need(xs).shape, axes_of(node, xs, ()) or ())),
    "Squeeze": _moved(lambda node, xs: squeezed(need(xs).shape, axes_of(node, xs, None))),
    "Flatten": _moved(lambda node, xs: flattened(need(xs).shape, node.integer("axis", 1))),
    "Transpose": _transpose,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Expand": _expand,
    "Range": _range,
    "Tile": _tile,
    **WEIGHTS,
    "Clip": _clip,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMean": _reduce(np.mean),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceL1": _reduce(lambda x, **options: np.sum(np.abs(x), **options)),
    "ReduceL2": _reduce(lambda x, **options: np.sqrt(np.sum(np.square(x), **options))),
    "ReduceSumSquare": _reduce(lambda x, **options: np.sum(np.square(x), **options)),
    "ReduceLogSum": _reduce(lambda x, **options: np.log(np.sum(x, **options))),
    "ReduceLogSumExp": _reduce(lambda x, **options: np.log(np.sum(np.exp(x), **options))),
    "NonZero": _non_zero,
    "Compress": _compress,
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divide),
    "Mod": _elementwise(np.mod),
    "Pow": _elementwise(np.power),
    "Min": _elementwise(lambda *xs: np.min(np.broadcast_arrays(*xs), 0)),
    "Max": _elementwise(lambda *xs: np.max(np.broadcast_arrays(*xs), 0)),
    "Sqrt": _elementwise(np.sqrt),
    "Exp": _elementwise(np.exp),
    "Log": _elementwise(np.log),
    "Neg": _elementwise(np.negative),
    "Abs": _elementwise(np.abs),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Reciprocal": _elementwise(np.reciprocal),
    "Not": _elementwise(np.logical_not),
    "And": _elementwise(np.logical_and),
    "Or": _elementwise(np.logical_or),
    "Equal": _elementwise(np.equal),
    "Less": _elementwise(np.less),
    "Greater": _elementwise(np.greater),
    "Where": _elementwise(np.where),
}
