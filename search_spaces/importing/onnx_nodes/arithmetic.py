"""Handlers of ONNX sums and products, with the rules of :mod:`tracing.arithmetic`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.builder import Value
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler, Input, Result
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.links import scalar
from gennape.search_spaces.importing.onnx_nodes.number_types import RANGES
from gennape.search_spaces.importing.tracing.alignment import together, unrepeated
from gennape.search_spaces.importing.tracing.arithmetic import MAX_HELD
from gennape.search_spaces.importing.tracing.traced_value import TracedValue, numbers, settle

Shape = tuple[int, ...]


def broadcast(call: Call) -> Shape:
    """The broadcast shape of the inputs."""
    shapes = [x.shape for x in call.xs if x is not None]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise InvalidGraphError(f"its inputs {[list(shape) for shape in shapes][:5]} cannot be broadcast") from error


def pointwise(name: str) -> Handler:
    """The handler of an elementwise operation without a code in the vocabulary."""

    def handler(call: Call) -> TracedValue:
        traced = [x for x in call.xs if isinstance(x, TracedValue)]
        learnt = sum(x.params for x in call.xs if isinstance(x, Constant) and x.params > 1)
        return call.other(name, broadcast(call), *traced, params=learnt)

    return handler


# Sums and products -------------------------------------------------------------------------------------------------


def two(call: Call) -> tuple[Input, Input]:
    """The inputs of a binary operator."""
    if len(call.xs) != 2 or None in call.xs:
        raise InvalidGraphError(f"it has {len(call)} inputs, must have 2")
    return call.xs[0], call.xs[1]


def _number(x: Input) -> float | None:
    """The value of a scalar constant, else None."""
    number = scalar(x) if isinstance(x, Constant) else None
    if number is not None and not math.isfinite(number):
        raise InvalidGraphError(f"its operand is the constant {number}, must be finite")
    return number


def _unbounded(name: str, handler: Callable[[Call], TracedValue]) -> Handler:
    """A handler for types that do not overflow; for short integer types, an operation outside the vocabulary."""

    def either(call: Call) -> Result | list[Result]:
        if call.type() in RANGES and RANGES[call.type()][1] < 2**31 - 1:
            return pointwise(name)(call)
        return handler(call)

    return either


def _add(call: Call) -> TracedValue:
    return sum_of(call, *two(call), broadcast(call))


def _sub(call: Call) -> TracedValue:
    return sum_of(call, *two(call), broadcast(call), -1.0)


def sum_of(call: Call, x: Input, y: Input, shape: Shape, b: float = 1.0, a: float = 1.0) -> TracedValue:
    """a · x + b · y, where one operand may be a constant."""
    if isinstance(x, TracedValue) and isinstance(y, TracedValue):
        return _merge(call, shape, times(call, x, a, x.shape), times(call, y, b, y.shape), call.b.add)
    if not isinstance(x, TracedValue):
        x, y, a, b = y, x, b, a
    if not isinstance(x, TracedValue):
        raise InvalidGraphError("none of its inputs depends on the image")
    value, number = times(call, x, a, x.shape), _number(y)
    if number is None:
        return _with_constant(call, shape, value, y, "add", call.b.shift)
    if number == 0:
        return _spread(value, shape)
    value = settle(call.b, value)
    return _spread(TracedValue(call.b.shift(value.value, (), b * number), value.dims), shape)


def times(call: Call, x: TracedValue, factor: float, shape: Shape) -> TracedValue:
    """The value times a constant, with leading dimensions of size 1 up to the rank of ``shape``."""
    if factor != 1:
        x = settle(call.b, x)
        made = call.b.zero(x.value) if factor == 0 else call.b.scale(x.value, (), factor)
        call.scaled[made.node] = (x.value, factor)
        x = TracedValue(made, x.dims)
    return _spread(x, shape)


def _spread(x: TracedValue, shape: Shape) -> TracedValue:
    """The value with leading dimensions of size 1, which broadcasting a constant may have added."""
    return TracedValue(x.value, ((),) * (len(shape) - len(x.dims)) + x.dims)


def _mul(call: Call) -> TracedValue:
    x, y = two(call)
    return product(call, x, y, broadcast(call))


def product(call: Call, x: Input, y: Input, shape: Shape) -> TracedValue:
    """x · y, where one operand may be a constant."""
    if isinstance(x, TracedValue) and isinstance(y, TracedValue):
        return _merge(call, shape, x, y, call.b.mul)
    x, y = (x, y) if isinstance(x, TracedValue) else (y, x)
    if not isinstance(x, TracedValue):
        raise InvalidGraphError("none of its inputs depends on the image")
    number = _number(y)
    if number is None:
        return _with_constant(call, shape, x, y, "mul", call.b.scale)
    return times(call, x, number, shape)


def _div(call: Call) -> TracedValue:
    x, y = two(call)
    if call.type() in RANGES:  # integer division rounds towards zero
        return pointwise("floor_divide")(call)  # type: ignore[return-value]
    number = _number(y)
    if number and isinstance(x, TracedValue):
        return times(call, x, 1 / number, broadcast(call))
    if isinstance(y, TracedValue):
        return divided(call, x, y, broadcast(call))
    if isinstance(y, Constant) and number != 0:
        return _with_constant(call, broadcast(call), x, y, "div", call.b.scale)
    raise InvalidGraphError("it divides by zero")


def divided(call: Call, x: Input, y: TracedValue, shape: Shape) -> TracedValue:
    """x · y⁻¹."""
    below = settle(call.b, unrepeated(y, x) if isinstance(x, TracedValue) else y)
    inverse = TracedValue(call.b.power(below.value, -1.0), below.dims)
    if isinstance(x, TracedValue):
        return _merge(call, shape, x, inverse, call.b.mul)
    number = _number(x)
    if number is None:
        return _with_constant(call, shape, inverse, x, "div", call.b.scale)
    return times(call, inverse, number, shape)


def _pow(call: Call) -> TracedValue:
    x, y = two(call)
    exponent = _number(y)
    if exponent is None or not isinstance(x, TracedValue) or call.type() in RANGES:
        return pointwise("pow")(call)  # type: ignore[return-value]
    return x if exponent == 1 else _power(exponent)(call)


def _power(exponent: float) -> Callable[[Call], TracedValue]:
    return lambda call: call.map(lambda value: call.b.power(value, exponent))


def _neg(call: Call) -> TracedValue:
    return times(call, call.traced(), -1.0, call.traced().shape)


def _with_constant(
    call: Call, shape: Shape, x: Input, constant: Input, name: str, learnt: Callable[..., Value]
) -> TracedValue:
    """A sum or product with a tensor of the file."""
    if not isinstance(x, TracedValue) or not isinstance(constant, Constant):
        raise InvalidGraphError("one of its inputs must depend on the image")
    if constant.values is None and prod(constant.shape) == 1:
        raise InvalidGraphError("its scalar operand is not in the file; store it in the file")
    x = settle(call.b, x)
    offset, spans = len(x.dims) - len(constant.shape), set()
    for dim, size in enumerate(constant.shape):
        if size > 1 and offset + dim >= 0 and x.dims[offset + dim]:
            spans.add(x.dims[offset + dim][0].axis)
    axes = tuple(sorted(spans))
    size = prod(x.value.shape[axis] for axis in axes)
    if numbers(x) == prod(shape) and axes and size <= MAX_HELD:
        whole = size == prod(constant.shape) == constant.params
        made = learnt(x.value, axes, params=None if whole else constant.params)
        return _spread(TracedValue(made, x.dims), shape)
    return call.other(name, shape, x, params=constant.params)


def _merge(
    call: Call, shape: Shape, x: TracedValue, y: TracedValue, operation: Callable[[Value, Value], Value]
) -> TracedValue:
    """A sum or product of two values, the smaller one broadcast."""
    first, second, base = together(call.b, x, y, shape)
    return _spread(TracedValue(operation(first, second), base.dims), shape)


def _fold(handler: Callable[[Call], TracedValue]) -> Callable[[Call], TracedValue]:
    """Apply a binary operation to any number of inputs, from the left."""

    def folded(call: Call) -> TracedValue:
        if len(call.xs) < 2:
            return call.traced()
        total = call.xs[0]
        for x in call.xs[1:]:
            total = handler(replace(call, xs=(total, x)))
        if not isinstance(total, TracedValue):
            raise InvalidGraphError("none of its inputs depends on the image")
        return total

    return folded


ARITHMETIC: dict[str, Handler] = {
    "Add": _unbounded("add", _add),
    "Sub": _unbounded("sub", _sub),
    "Mul": _unbounded("mul", _mul),
    "Div": _div,
    "Neg": _unbounded("neg", _neg),
    "Pow": _pow,
    "Sqrt": _power(0.5),
    "Reciprocal": _power(-1.0),
    "Sum": _unbounded("add", _fold(_add)),
}
