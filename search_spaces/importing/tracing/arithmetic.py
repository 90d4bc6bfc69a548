"""Handlers of sums and products."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from gennape.search_spaces.graphs.operations import Value
from gennape.search_spaces.importing.tracing.alignment import together, unrepeated
from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Handler, Number, called, table
from gennape.search_spaces.importing.tracing.tensors import Untraceable
from gennape.search_spaces.importing.tracing.traced_value import (
    TracedValue,
    numbers,
    settle,
)

#: Most elements of a tensor that a node holds: about ten times the largest mask seen in model zoos.
MAX_HELD = 2**24


def _add(r: Recorder, out: Tensor, tensor: Any, other: Any, *, alpha: Number = 1) -> None:
    _sum(r, out, tensor, other, 1.0, float(alpha))


def _sub(r: Recorder, out: Tensor, tensor: Any, other: Any, *, alpha: Number = 1) -> None:
    _sum(r, out, tensor, other, 1.0, -float(alpha))


def _rsub(r: Recorder, out: Tensor, tensor: Any, other: Any, *, alpha: Number = 1) -> None:
    _sum(r, out, tensor, other, -float(alpha), 1.0)


def _sum(r: Recorder, out: Tensor, x: Any, y: Any, a: float, b: float) -> None:
    """a · x + b · y."""
    if r.is_traced(x) and r.is_traced(y):
        merge(r, out, _times(r, x, a), _times(r, y, b), r.b.add)
        return
    if not r.is_traced(x):
        x, y, a, b = y, x, b, a
    number = _number(r, y)
    value = _times(r, x, a)
    if number is None:
        _with_constant(r, out, value, y, "add", r.b.shift)
    elif b * number == 0:
        r.bind(out, _spread(value, out))
    else:
        value = settle(r.b, value)
        r.bind(out, _spread(TracedValue(r.b.shift(value.value, (), b * number), value.dims), out))


def _times(r: Recorder, x: Any, factor: float) -> TracedValue:
    value = r.traced(x)
    if factor == 1:
        return value
    value = settle(r.b, value)
    made = r.b.zero(value.value) if factor == 0 else r.b.scale(value.value, (), factor)
    return TracedValue(made, value.dims)


def _spread(x: TracedValue, out: Tensor) -> TracedValue:
    """The value with leading dimensions of size 1, which broadcasting a one-element tensor may have added."""
    return TracedValue(x.value, ((),) * (out.dim() - len(x.dims)) + x.dims)


def _number(r: Recorder, x: Any) -> float | None:
    """The value of an operand that is a known finite scalar, else None."""
    number = r.number(x)
    return number if number is not None and math.isfinite(number) else None


def _mul(r: Recorder, out: Tensor, tensor: Any, other: Any) -> None:
    if r.is_traced(tensor) and r.is_traced(other):
        merge(r, out, r.traced(tensor), r.traced(other), r.b.mul)
        return
    x, y = (tensor, other) if r.is_traced(tensor) else (other, tensor)
    number = _number(r, y)
    if number is None:
        _with_constant(r, out, r.traced(x), y, "mul", r.b.scale)
    else:
        r.bind(out, _spread(_times(r, x, number), out))


def _div(r: Recorder, out: Tensor, tensor: Any, other: Any, *, rounding_mode: str | None = None) -> None:
    number = _number(r, other)
    if number and rounding_mode is None and r.is_traced(tensor):
        r.bind(out, _spread(_times(r, tensor, 1 / number), out))
        return
    if rounding_mode is not None:
        traced = [r.traced(x) for x in (tensor, other) if r.is_traced(x)]
        r.other("div", out, *traced, params=r.spend(*(x for x in (tensor, other) if not r.is_traced(x))))
    elif r.is_traced(other):
        _over(r, out, tensor, other)
    elif number is None and isinstance(other, Tensor):
        inverse = other.reciprocal()
        r.computed([other], [inverse])
        _with_constant(r, out, r.traced(tensor), inverse, "div", r.b.scale)
    else:
        raise Untraceable(f"it divides by {other!r}")


def _over(r: Recorder, out: Tensor, x: Any, y: Any) -> None:
    """x · y⁻¹."""
    below = settle(r.b, unrepeated(r.traced(y), r.traced(x)) if r.is_traced(x) else r.traced(y))
    inverse = TracedValue(r.b.power(below.value, -1.0), below.dims)
    if r.is_traced(x):
        merge(r, out, r.traced(x), inverse, r.b.mul)
        return
    number = _number(r, x)
    if number is None:
        _with_constant(r, out, inverse, x, "div", r.b.scale)
    else:
        made = r.b.scale(inverse.value, (), number) if number != 1 else inverse.value
        r.bind(out, _spread(TracedValue(made, inverse.dims), out))


def _rdiv(r: Recorder, out: Tensor, tensor: Tensor, other: Any) -> None:
    _over(r, out, other, tensor)


def _neg(r: Recorder, out: Tensor, tensor: Tensor) -> None:
    r.bind(out, _times(r, tensor, -1.0))


def _with_constant(
    r: Recorder, out: Tensor, x: TracedValue, constant: Any, name: str, learnt: Callable[..., Value]
) -> None:
    """A sum or product with a tensor that does not depend on the image."""
    if not isinstance(constant, Tensor):
        raise Untraceable(f"its operand {constant!r} is no finite number")
    x = settle(r.b, x)
    axes = _axes(x, constant)
    size = prod(x.value.shape[axis] for axis in axes)
    if numbers(x) == out.numel() and (axes or constant.numel() == 1) and size <= MAX_HELD:
        whole, spent = size == constant.numel() == r.learnt(constant), r.spend(constant)
        value = learnt(x.value, axes, params=spent if not whole else None if axes else 1)
        r.note(value, constant)
        r.bind(out, _spread(TracedValue(value, x.dims), out))
    else:
        r.other(name, out, x, params=r.spend(constant))


def _axes(x: TracedValue, constant: Tensor) -> tuple[int, ...]:
    """The axes that a constant spans; a scalar spans an axis of size 1, if there is one."""
    offset = len(x.dims) - constant.dim()
    spanned = {offset + dim for dim, size in enumerate(constant.shape) if size > 1}
    axes = {x.dims[dim][0].axis for dim in spanned if dim >= 0 and x.dims[dim]}
    return tuple(sorted(axes)) or tuple(axis for axis, size in enumerate(x.value.shape) if size == 1)[:1]


def merge(r: Recorder, out: Tensor, x: TracedValue, y: TracedValue, operation: Callable[[Value, Value], Value]) -> None:
    """A sum or product of two values, the smaller one broadcast."""
    first, second, base = together(r.b, x, y, tuple(out.shape))
    r.bind(out, _spread(TracedValue(operation(first, second), base.dims), out))


def _addcmul(r: Recorder, tensor: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:  # noqa: ARG001
    return tensor + (tensor1 * tensor2 if value == 1 else tensor1 * tensor2 * value)


#: Replacements of calls.
SUBSTITUTES: dict[Any, Any] = dict.fromkeys(called("addcmul", "addcmul_"), _addcmul)

HANDLERS: dict[Any, Handler] = table(
    (called("add", "add_", "__add__", "__radd__", "__iadd__"), _add),
    (called("sub", "sub_", "subtract", "subtract_", "__sub__", "__isub__"), _sub),
    (called("rsub", "__rsub__"), _rsub),
    (called("mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__"), _mul),
    (called("div", "div_", "divide", "divide_", "true_divide", "__truediv__", "__itruediv__", "__div__"), _div),
    (called("__rtruediv__", "__rdiv__"), _rdiv),
    (called("neg", "negative", "neg_", "__neg__"), _neg),
)
