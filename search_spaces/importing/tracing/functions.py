"""Handlers of activations and other elementwise functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gennape.search_spaces.graphs import operations as ops
from gennape.search_spaces.graphs.operations import Value
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Handler, Number, called, table
from gennape.search_spaces.importing.tracing.tensors import Untraceable
from gennape.search_spaces.importing.tracing.traced_value import (
    TracedValue,
    arrange,
    axis_of,
    pixelwise,
    settle,
)

#: Larger bounds cannot be expressed by shifts: float32 rounds the sum to the bound.
_LARGEST = 2.0**20


def _each(operation: Callable[[Recorder, Value], Value]) -> Handler:
    """The handler of an elementwise function."""

    def handler(r: Recorder, out: Tensor, tensor: Tensor, *_: Any, **__: Any) -> None:
        r.map(out, tensor, lambda value: operation(r, value))

    return handler


def _plain(op: Op) -> Handler:
    return _each(lambda r, value: r.b.elementwise(op, value))


def _gelu(r: Recorder, out: Tensor, tensor: Tensor, approximate: str = "none") -> None:
    r.map(out, tensor, lambda value: r.b.gelu(value, approximate == "tanh"))


def _leaky_relu(r: Recorder, out: Tensor, tensor: Tensor, negative_slope: Number = 0.01, inplace: bool = False) -> None:  # noqa: ARG001
    r.map(out, tensor, lambda value: r.b.leakyrelu(value, float(negative_slope)))


def _prelu(r: Recorder, out: Tensor, tensor: Tensor, weight: Tensor) -> None:
    x = pixelwise(r.b, r.traced(tensor), 1 if tensor.dim() > 1 else 0)
    count = weight.numel()
    part = ops.node(Op.LEAKYRELU, x.value.shape, x.value.shape, params=count)
    made = None if r.is_traced(weight) else r.layer(part, x.value, count, weight)
    if made is None:
        r.other("fixed_prelu", out, x, params=r.spend(weight))
        return
    r.bind(out, TracedValue(made, x.dims))


def _clamp(r: Recorder, out: Tensor, tensor: Tensor, *bounds: Any, **named: Any) -> None:
    low, high = (*bounds, None, None)[:2]
    _clip(r, out, tensor, r.number(named.get("min", low)), r.number(named.get("max", high)), "clamp")


def _hardtanh(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    min_val: Number = -1.0,
    max_val: Number = 1.0,
    inplace: bool = False,  # noqa: ARG001
) -> None:
    _clip(r, out, tensor, min_val, max_val, "hardtanh")


def _clip(r: Recorder, out: Tensor, x: Tensor, low: Number | None, high: Number | None, name: str) -> None:
    if low == 0 and high in (None, 6):
        r.map(out, x, r.b.relu if high is None else r.b.relu6)
    elif (low, high) == (None, None) or not all(bound is None or abs(bound) < _LARGEST for bound in (low, high)):
        r.other(name, out, r.traced(x))
    else:
        r.map(
            out, x, lambda value: r.b.clamp(value, *(None if bound is None else float(bound) for bound in (low, high)))
        )


def _clamp_min(r: Recorder, out: Tensor, tensor: Tensor, low: Any) -> None:
    _clip(r, out, tensor, r.number(low), None, "clamp_min")


def _clamp_max(r: Recorder, out: Tensor, tensor: Tensor, high: Any) -> None:
    _clip(r, out, tensor, None, r.number(high), "clamp_max")


def _maximum(r: Recorder, out: Any, *args: Any, **named: Any) -> None:
    _extreme(r, out, "maximum", args, named)


def _minimum(r: Recorder, out: Any, *args: Any, **named: Any) -> None:
    _extreme(r, out, "minimum", args, named)


def _extreme(r: Recorder, out: Any, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Elementwise maximum or minimum; with a number, a clamp."""
    pair = [*args, *named.values()]
    numbers = [None if r.is_traced(x) else r.number(x) for x in pair]
    at = next((i for i, number in enumerate(numbers) if number is not None), None)
    if at is None or len(pair) != 2 or not isinstance(out, Tensor) or pair[1 - at].shape != out.shape:
        _named(name)(r, out, *args, **named)
        return
    low, high = (numbers[at], None) if name == "maximum" else (None, numbers[at])
    _clip(r, out, pair[1 - at], low, high, name)


def _pow(r: Recorder, out: Tensor, tensor: Any, exponent: Any) -> None:
    number = r.number(exponent)
    if number is None or not r.is_traced(tensor):
        _named("pow")(r, out, tensor, exponent)
    else:
        r.map(out, tensor, lambda value: value if number == 1 else r.b.power(value, number))


def _power(exponent: float) -> Handler:
    return _each(lambda r, value: r.b.power(value, exponent))


def _softmax(r: Recorder, out: Tensor, tensor: Tensor, dim: int | None = None, *_: Any, **__: Any) -> None:
    if dim is None:
        raise Untraceable("its argument dim is missing")
    softmax_along(r, out, r.traced(tensor), dim % max(1, tensor.dim()))


def softmax_along(r: Recorder, out: Tensor, x: TracedValue, dim: int) -> None:
    """Bind ``out`` to the softmax of ``x`` along a dimension, which becomes an axis of its own."""
    x = settle(r.b, x)
    axis = axis_of(x, dim)
    if axis is None:
        every = tuple(range(len(x.dims)))
        x, axis = arrange(r.b, x, (every[:dim], (dim,), every[dim + 1 :])), 1
    r.bind(out, TracedValue(r.b.softmax(x.value, axis), x.dims))


# Functions without a code --------------------------------------------------------------------------------------------

#: Elementwise functions of one or several tensors without a code in the vocabulary.
POINTWISE = (
    *("abs", "acos", "asin", "atan", "atan2", "bitwise_not", "celu", "ceil", "clamp_max", "clamp_min", "cos", "cosh"),
    *("elu", "eq", "erf", "exp", "exp2", "expm1", "floor", "floor_divide", "frac", "ge", "gt", "hardshrink"),
    *("isfinite", "isinf", "isnan", "le", "lerp", "log", "log10", "log1p", "log2", "logical_and", "logical_not"),
    *("logical_or", "logsigmoid", "lt", "masked_fill", "mish", "ne", "nan_to_num", "pow"),
    *("reciprocal", "remainder", "round", "rrelu", "rsqrt", "selu", "sign", "sin", "sinh", "softplus", "softshrink"),
    *("softsign", "sqrt", "square", "tan", "tanhshrink", "threshold", "trunc", "where", "xlogy", "fmod"),
)
#: Functions that gather, move or normalise elements, without a code in the vocabulary.
GATHERING = (
    *("amax", "amin", "argmax", "argmin", "cosine_similarity", "cumsum", "flip", "fold", "index_select", "log_softmax"),
    *("logsumexp", "lp_pool1d", "lp_pool2d", "normalize", "norm", "pdist", "prod", "rot90", "std"),
    *("take_along_dim", "gather", "tril", "triu", "unfold", "var", "grid_sample", "local_response_norm", "softmin"),
    *("linalg_vector_norm", "var_mean", "std_mean", "topk", "sort"),
    *("max", "min", "median", "mode", "all", "any", "count_nonzero", "im2col", "cdist"),
)


def _named(name: str) -> Handler:
    """The handler of an "other" node: its inputs are the tensors that depend on the image, its parameters the rest."""

    def handler(r: Recorder, out: Any, *args: Any, **kwargs: Any) -> None:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        traced = [r.traced(x) for x in tensors if r.is_traced(x)]
        params = r.spend(*(x for x in tensors if not r.is_traced(x)))
        for result in (out,) if isinstance(out, Tensor) else out:
            r.other(name, result, *traced, params=params)
            params = 0

    return handler


def _glu(r: Recorder, tensor: Tensor, dim: int = -1) -> Tensor:  # noqa: ARG001
    kept, gate = tensor.chunk(2, dim)
    return kept * gate.sigmoid()


def _channel_shuffle(r: Recorder, tensor: Tensor, groups: int) -> Tensor:  # noqa: ARG001
    parts = tensor.view(tensor.shape[0], groups, -1, *tensor.shape[2:])
    return parts.transpose(1, 2).flatten(1, 2)


def _norm(r: Recorder, tensor: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    """The L2 norm; other norms are reported as problems."""
    if p not in (2, "fro", None):
        r.problem(f"a norm of order {p!r} is not supported")
    dims = tuple(range(tensor.dim())) if dim is None else dim
    return tensor.square().sum(dims, keepdim).sqrt()


def _vector_norm(r: Recorder, tensor: Tensor, *given: Any, **named: Any) -> Tensor:
    order, dim, keepdim = (*given, *(named.get(key, value) for key, value in _VECTOR_NORM[len(given) :]))[:3]
    return _norm(r, tensor, order, dim, keepdim)


#: Arguments of ``vector_norm`` after the first, with their defaults.
_VECTOR_NORM = (("ord", 2), ("dim", None), ("keepdim", False))


def _normalize(
    r: Recorder,
    tensor: Tensor,
    p: Any = 2.0,
    dim: Any = 1,
    eps: float = 1e-12,
    out: None = None,  # noqa: ARG001
) -> Tensor:
    return tensor / _norm(r, tensor, p, dim, True).clamp_min(eps)


def _rms_norm(
    r: Recorder,  # noqa: ARG001
    tensor: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    least = torch.finfo(tensor.dtype).eps if eps is None else eps
    normal = tensor * (tensor.square().mean(dims, keepdim=True) + least).rsqrt()
    return normal if weight is None else normal * weight


#: Replacements of calls.
SUBSTITUTES: dict[Any, Any] = {
    **dict.fromkeys(called("norm"), _norm),
    **dict.fromkeys([torch.linalg.vector_norm, *called("linalg_vector_norm")], _vector_norm),
    **dict.fromkeys(called("normalize"), _normalize),
    **dict.fromkeys(called("rms_norm"), _rms_norm),
    **dict.fromkeys(called("glu"), _glu),
    **dict.fromkeys(called("channel_shuffle", "native_channel_shuffle"), _channel_shuffle),
}

HANDLERS: dict[Any, Handler] = {
    **{
        function: _named(name)
        for name in (*POINTWISE, *GATHERING)
        for function in called(name, f"{name}_", f"__{name}__")
    },
    **table(
        (called("relu", "relu_"), _plain(Op.RELU)),
        (called("relu6"), _plain(Op.RELU6)),
        (called("sigmoid", "sigmoid_", "expit"), _plain(Op.SIGMOID)),
        (called("tanh", "tanh_"), _plain(Op.TANH)),
        (called("silu"), _plain(Op.SWISH)),
        (called("hardsigmoid"), _plain(Op.HARDSIGMOID)),
        (called("hardswish"), _each(lambda r, value: r.b.hardswish(value))),
        (called("gelu"), _gelu),
        (called("leaky_relu", "leaky_relu_"), _leaky_relu),
        (called("prelu"), _prelu),
        (called("clamp", "clamp_", "clip", "clip_"), _clamp),
        (called("hardtanh", "hardtanh_"), _hardtanh),
        (called("clamp_min", "clamp_min_"), _clamp_min),
        (called("clamp_max", "clamp_max_"), _clamp_max),
        (called("maximum"), _maximum),
        (called("minimum"), _minimum),
        (called("pow", "pow_", "__pow__", "__ipow__"), _pow),
        (called("square", "square_"), _power(2.0)),
        (called("sqrt", "sqrt_"), _power(0.5)),
        (called("rsqrt", "rsqrt_"), _power(-0.5)),
        (called("reciprocal", "reciprocal_"), _power(-1.0)),
        (called("softmax"), _softmax),
    ),
}
