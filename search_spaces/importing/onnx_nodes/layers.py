"""Handlers of ONNX normalisations and activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.builder import Value
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx_nodes.arithmetic import pointwise, product, sum_of, times
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler, Result
from gennape.search_spaces.importing.onnx_nodes.dimensions import axis_of, reshaped, whole_numbers
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.links import scalar
from gennape.search_spaces.importing.onnx_nodes.windows import vector
from gennape.search_spaces.importing.tracing.alignment import mean_over, squared
from gennape.search_spaces.importing.tracing.traced_value import TracedValue, pixelwise, settle

# Normalisations ----------------------------------------------------------------------------------------------------


def _channels(call: Call) -> int:
    if len(call.traced().dims) < 2:
        raise InvalidGraphError(f"its input of shape {list(call.traced().shape)} has no channels")
    return call.traced().shape[1]


def _by_channel(call: Call) -> TracedValue:
    _channels(call)
    return pixelwise(call.b, call.traced(), 1)


def _learnt(*tensors: Constant | None) -> bool:
    return any(x is not None and x.params > 0 for x in tensors)


def _batchnorm(call: Call) -> TracedValue:
    # Before opset 14, further outputs mean training, even if they are unused.
    if call.node.integer("training_mode", 0) or (call.opset < 14 and len(call.node.outputs) > 1):
        raise InvalidGraphError("it normalises by batch statistics; export the model for inference")
    x = _by_channel(call)
    learnt = [vector(call, i, x.value.c, what) for i, what in enumerate(("scale", "shift", "mean", "variance"), 1)]
    made = call.b.batchnorm(x.value, call.node.real("epsilon", 1e-5), _learnt(*learnt[:2]))
    return TracedValue(made, x.dims)


def _several(call: Call, groups: int, learnt: bool, name: str) -> TracedValue:
    """A separate normalisation of each of several maps, as one of groups of all their channels."""
    x, (n, c, *_) = call.traced(), call.traced().shape
    if learnt:  # all maps share the scale of a channel
        return call.other(name, x.shape, x, params=2 * c)
    rest = tuple(range(2, len(x.dims)))
    x = call.arranged(0, ((0, 1), rest[:-1], rest[-1:]))
    return TracedValue(call.b.groupnorm(x.value, n * groups, call.node.real("epsilon", 1e-5), False), x.dims)


def _instancenorm(call: Call) -> TracedValue:
    c = _channels(call)
    learnt = _learnt(vector(call, 1, c, "scale"), vector(call, 2, c, "shift"))
    if call.traced().shape[0] > 1:
        return _several(call, c, learnt, "instance_norm")
    x = _by_channel(call)
    return TracedValue(call.b.groupnorm(x.value, c, call.node.real("epsilon", 1e-5), learnt), x.dims)


def _groupnorm(call: Call) -> TracedValue:
    c, groups = _channels(call), call.node.integer("num_groups")
    # Until opset 20 the scale was per group.
    size = c if call.opset >= 21 else groups
    learnt = _learnt(vector(call, 1, size, "scale"), vector(call, 2, size, "shift"))
    if learnt and size != c:
        return call.other("group_norm", call.traced().shape, call.traced(), params=2 * size)
    if call.traced().shape[0] > 1:
        return _several(call, groups, learnt, "group_norm")
    x = _by_channel(call)
    return TracedValue(call.b.groupnorm(x.value, groups, call.node.real("epsilon", 1e-5), learnt), x.dims)


def _fused_groupnorm(call: Call) -> TracedValue:
    """A pattern of :mod:`patterns`: an input, two shapes, and a scale and shift per channel."""
    shape, groups = call.traced().shape, call.node.integer("num_groups")
    grouping = reshaped(shape, whole_numbers(call.constant(1), "shape"))
    if (
        len(grouping) < 3
        or grouping[:2] != (1, groups)
        or reshaped(grouping, whole_numbers(call.constant(2), "shape")) != shape
    ):
        raise InvalidGraphError(f"it normalises {list(grouping)}, must be {groups} groups of channels")
    x, learnt = _by_channel(call), call.constant(3)
    if learnt is not None and math.prod(learnt.shape) != x.value.c:
        raise InvalidGraphError(f"its scale has shape {list(learnt.shape)}, must have {x.value.c} elements")
    made = call.b.groupnorm(x.value, groups, call.node.real("epsilon", 1e-5), learnt is not None)
    return TracedValue(made, x.dims)


def _layernorm(call: Call) -> TracedValue:
    if call.node.n_taken > 1:
        raise InvalidGraphError("its output mean or deviation is used, which is not supported")
    shape, eps = call.traced().shape, call.node.real("epsilon", 1e-5)
    first = axis_of(call.node.integer("axis", -1), len(shape))
    scale, shift = call.constant(1), call.constant(2)
    for tensor in (scale, shift):
        if tensor is not None and math.prod(tensor.shape) != math.prod(shape[first:]):
            raise InvalidGraphError(
                f"its scale {list(tensor.shape)} does not match the dimensions {list(shape[first:])}"
            )
    if len(shape) - first == 1:
        x, axis = pixelwise(call.b, call.traced(), first), 0
    elif math.prod(shape[:first]) == 1:
        x, axis = call.settled(), 3
    else:
        every = tuple(range(len(shape)))
        x, axis = call.arranged(0, (every[first:], every[:first], ())), 0
    return TracedValue(call.b.layernorm(x.value, eps, _learnt(scale), _learnt(shift), axis), x.dims)


def _rmsnorm(call: Call) -> TracedValue:
    """x / sqrt(mean(x²) + ε) over the last dimensions, times a learnt tensor."""
    x, weight = call.traced(), call.weight(1)
    first = axis_of(call.node.integer("axis", -1), len(x.shape))
    gone = set(range(first, len(x.shape)))
    mean = settle(call.b, mean_over(call.b, squared(call.b, x), gone, keep=True))
    total = call.b.shift(mean.value, (), call.node.real("epsilon", 1e-5))
    factor = TracedValue(call.b.power(total, -0.5), mean.dims)
    return product(call, product(call, x, factor, x.shape), weight, x.shape)


def _normalised(call: Call) -> TracedValue:
    """A pattern of :mod:`patterns`: standardise over some dimensions, then an optional scale and shift."""
    x, eps, shape = call.traced(), call.node.real("epsilon"), call.traced().shape
    gone = {axis_of(axis, len(shape)) for axis in call.node.integers("axes")}
    affine = [call.constant(i) for i in (1, 2)]
    told = [_spanned(tensor, len(shape)) for tensor in affine if tensor is not None]
    if len(gone) == 1:
        (dim,) = gone
        x = pixelwise(call.b, x, dim)
        inside = all(spanned == gone for spanned in told)
        made = call.b.layernorm(x.value, eps, *(inside and tensor is not None for tensor in affine))
        x = TracedValue(made, x.dims)
    else:
        inside = False
        mean = times(call, mean_over(call.b, x, gone, keep=True), -1.0, shape)
        x = sum_of(call, x, mean, shape)
        variance = settle(call.b, mean_over(call.b, squared(call.b, x), gone, keep=True))
        factor = call.b.power(call.b.shift(variance.value, (), eps), -0.5)
        x = product(call, x, TracedValue(factor, variance.dims), shape)
    if affine[0] is not None and not inside:
        x = product(call, x, affine[0], shape)
    return x if affine[1] is None or inside else sum_of(call, x, affine[1], shape)


def _spanned(tensor: Constant, rank: int) -> set[int]:
    """The dimensions of a value of ``rank`` that a tensor spans."""
    return {d + rank - len(tensor.shape) for d, n in enumerate(tensor.shape) if n > 1}


# Activations -------------------------------------------------------------------------------------------------------


def _each(operation: Callable[[Call, Value], Value]) -> Handler:
    return lambda call: call.map(lambda value: operation(call, value))


def _plain(op: Op) -> Handler:
    return _each(lambda call, value: call.b.elementwise(op, value))


#: Beyond the first, a bound has no effect; beyond the second, float32 rounds sums to the bound.
_NO_BOUND, _MAX_BOUND = 1e30, 2.0**20


def _clip(call: Call) -> TracedValue:
    bounds = [scalar(call.constant(i)) for i in (1, 2)]
    if any(bound is None and call.constant(i) is not None for i, bound in enumerate(bounds, 1)):
        raise InvalidGraphError("its bounds must be known scalars")
    return _bounded(call, *bounds)


def _bounded(call: Call, low: float | None, high: float | None) -> TracedValue:
    low, high = (None if bound is None or abs(bound) > _NO_BOUND else bound for bound in (low, high))
    if low == 0 and high in (None, 6):
        return call.map(call.b.relu6 if high == 6 else call.b.relu)
    if low is high is None:
        return call.traced()
    if any(bound is not None and abs(bound) > _MAX_BOUND for bound in (low, high)):
        return call.other("clamp", call.traced().shape, call.traced())
    return call.map(lambda value: call.b.clamp(value, low, high))


def _extreme(name: str) -> Handler:
    """Elementwise maximum or minimum; of one value and scalars, a clamp."""

    def handler(call: Call) -> Result | list[Result]:
        values = [x for x in call.xs if isinstance(x, TracedValue)]
        constants = [x for x in call.xs if isinstance(x, Constant)]
        bounds = [bound for bound in map(scalar, constants) if bound is not None]
        known = len(bounds) == len(constants) > 0 and len(values) == 1
        if not known or any(len(x.shape) > len(values[0].shape) for x in constants):
            return pointwise(name)(call)
        alone = replace(call, xs=(values[0],))
        return _bounded(alone, max(bounds), None) if name == "maximum" else _bounded(alone, None, min(bounds))

    return handler


def _prelu(call: Call) -> TracedValue:
    """One slope, or one per position of a dimension, is a layer; others become ReLUs and products."""
    x, slope = call.traced(), call.weight(1)
    shape, count = x.shape, math.prod(slope.shape)
    dims = [d + len(shape) - len(slope.shape) for d, n in enumerate(slope.shape) if n != 1]
    if any(not 0 <= d < len(shape) or shape[d] != slope.shape[d - len(shape)] for d in dims):
        raise InvalidGraphError(f"its slope {list(slope.shape)} does not match {list(shape)}")
    if len(dims) < 2:
        channels = dims[0] if dims else 1 if len(shape) > 1 else 0
        x = pixelwise(call.b, x, channels)
        return TracedValue(call.b.leakyrelu(x.value, 0.0, count), x.dims)
    above = call.map(call.b.relu)
    turned = settle(call.b, times(call, x, -1.0, shape))
    below = times(call, TracedValue(call.b.relu(turned.value), turned.dims), -1.0, shape)
    return sum_of(call, above, product(call, below, slope, shape), shape)


def _hardsigmoid(call: Call) -> TracedValue:
    alpha, beta = call.node.real("alpha", 0.2), call.node.real("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return call.map(call.b.hardsigmoid)
    return call.other("hard_sigmoid", call.traced().shape, call.traced())


def _gelu(call: Call) -> TracedValue:
    kind = call.node.text("approximate", "none")
    if kind not in ("none", "tanh"):
        raise InvalidGraphError(f"its approximate is {kind!r}, must be 'none' or 'tanh'")
    return call.map(lambda value: call.b.gelu(value, kind == "tanh"))


LAYERS: dict[str, Handler] = {
    "BatchNormalization": _batchnorm,
    "InstanceNormalization": _instancenorm,
    "GroupNormalization": _groupnorm,
    "LayerNormalization": _layernorm,
    "RMSNormalization": _rmsnorm,
    "Relu": _plain(Op.RELU),
    "Sigmoid": _plain(Op.SIGMOID),
    "Tanh": _plain(Op.TANH),
    "Clip": _clip,
    "Max": _extreme("maximum"),
    "Min": _extreme("minimum"),
    "LeakyRelu": _each(lambda call, value: call.b.leakyrelu(value, call.node.real("alpha", 0.01))),
    "PRelu": _prelu,
    "HardSigmoid": _hardsigmoid,
    "HardSwish": _each(lambda call, value: call.b.hardswish(value)),
    "Gelu": _gelu,
}
#: Fused operators of :mod:`patterns`.
FUSED_LAYERS: dict[str, Handler] = {
    "Swish": _plain(Op.SWISH),
    "Normalised": _normalised,
    "GroupNorm": _fused_groupnorm,
}
