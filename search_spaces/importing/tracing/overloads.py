"""Map operators of ``torch.ops.aten``, of which exported programs consist, to PyTorch functions.

Most have a function of the same name and arguments. The others are defined here: their arguments have another order,
or one operator does the work of two functions.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from gennape.search_spaces.importing.tracing.tables import called

_END = 2**63 - 1


def equivalent(func: Any, known: Container[Any]) -> Callable[..., Any] | None:
    """The function that is equivalent to an ATen operator: one defined here, or one of ``known``; else None."""
    if not isinstance(func, OpOverload | OpOverloadPacket):
        return None
    namespace, _, name = (
        func._schema.name if isinstance(func, OpOverload) else str(func).replace(".", "::")
    ).partition("::")
    if namespace != "aten":
        return None
    if name in WRITTEN:
        return WRITTEN[name]
    return next((function for function in called(name) if function in known), None)


# Normalisations and convolutions -------------------------------------------------------------------------------------


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Tensor:
    return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def _batch_norm_for_inference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, None, None]:
    return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps), None, None


def _native_batch_norm(*args: Any) -> tuple[Tensor, None, None]:
    return _batch_norm(*args), None, None


def _native_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, None, None]:
    return F.layer_norm(x, list(shape), weight, bias, eps), None, None


def _native_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, _n: int, _c: int, _pixels: int, groups: int, eps: float
) -> tuple[Tensor, None, None]:
    return F.group_norm(x, groups, weight, bias, eps), None, None


def _instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Tensor:
    return F.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *_: Any,
) -> Tensor:
    dims = weight.dim() - 2
    if transposed:
        turned = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        return turned(x, weight, bias, stride, padding, output_padding, groups, dilation)
    plain: Any = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return plain(x, weight, bias, stride, padding, dilation, groups)


# Sizes and pools -----------------------------------------------------------------------------------------------------


def _upsample(mode: str) -> Callable[..., Tensor]:
    """``upsample_...``: its overload ``vec`` takes a list of factors, the other one a factor per dimension."""

    def smooth(x: Tensor, size: Any, align_corners: bool, *factors: Any) -> Tensor:
        return F.interpolate(x, size, _factors(size, factors), mode=mode, align_corners=align_corners)

    def plain(x: Tensor, size: Any, *factors: Any) -> Tensor:
        return F.interpolate(x, size, _factors(size, factors), mode=mode)

    return plain if mode.startswith("nearest") else smooth


def _factors(size: Any, given: tuple[Any, ...]) -> list[float] | None:
    if size is not None or not given:
        return None
    return list(given[0]) if isinstance(given[0], list | tuple) else list(given)


def _pooled_with_indices(pool: Callable[..., Tensor], *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    return pool(*args, **kwargs), None


def _padded(mode: str) -> Callable[..., Tensor]:
    return lambda x, pad: F.pad(x, list(pad), mode=mode)


# Slices and views ----------------------------------------------------------------------------------------------------


def _slice(x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    every: tuple[Any, ...] = (slice(None),) * (dim % x.dim())
    cut = slice(start or None, None if end == _END else end, step)
    return x[(*every, cut)]


def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _to_copy(x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return x.clone() if dtype is None else x.type(dtype)


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    dtype = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype | Tensor)), None)
    return x if dtype is None else x.type(dtype.dtype if isinstance(dtype, Tensor) else dtype)


def _clone(x: Tensor, **_: Any) -> Tensor:
    return x.clone()


def _softmax(x: Tensor, dim: int, *_: Any) -> Tensor:
    return x.softmax(dim)


def _elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    if input_scale != 1:
        raise NotImplementedError("elu with an input_scale")
    return F.elu(x, alpha) if scale == 1 else F.elu(x, alpha) * scale


def _einsum(equation: str, operands: Sequence[Tensor], **_: Any) -> Tensor:
    return torch.einsum(equation, list(operands))


def _attention(parts: int, *args: Any, **kwargs: Any) -> Any:
    """Attention for one kind of device; it also returns values for the backward pass, here None."""
    names = ("query", "key", "value", "dropout_p", "is_causal")
    given: dict[str, Any] = {**dict(zip(names, args[: len(names)], strict=False)), **kwargs}
    kept = {name: given[name] for name in (*names, "attn_mask", "scale") if name in given}
    return (F.scaled_dot_product_attention(**kept), *[None] * (parts - 1))


def _inplace(function: Callable[..., Any]) -> Callable[..., Any]:
    return partial(function, inplace=True)


#: Operators without a function of the same name and arguments.
WRITTEN: dict[str, Callable[..., Any]] = {
    "batch_norm": _batch_norm,
    "native_batch_norm": _native_batch_norm,
    "_native_batch_norm_legit": _native_batch_norm,
    "cudnn_batch_norm": _native_batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm_for_inference,
    "native_layer_norm": _native_layer_norm,
    "native_group_norm": _native_group_norm,
    "instance_norm": _instance_norm,
    "convolution": _convolution,
    "_convolution": _convolution,
    "upsample_nearest1d": _upsample("nearest"),
    "upsample_nearest2d": _upsample("nearest"),
    "_upsample_nearest_exact2d": _upsample("nearest-exact"),
    "upsample_linear1d": _upsample("linear"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "upsample_bicubic2d": _upsample("bicubic"),
    "max_pool2d_with_indices": partial(_pooled_with_indices, F.max_pool2d),
    "adaptive_max_pool2d": partial(_pooled_with_indices, F.adaptive_max_pool2d),
    "_adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "reflection_pad1d": _padded("reflect"),
    "reflection_pad2d": _padded("reflect"),
    "replication_pad1d": _padded("replicate"),
    "replication_pad2d": _padded("replicate"),
    "constant_pad_nd": lambda x, pad, value=0: F.pad(x, list(pad), value=value),
    "slice": _slice,
    "index": _index,
    "_to_copy": _to_copy,
    "to": _to,
    "clone": _clone,
    "contiguous": _clone,
    "lift_fresh": lambda x: x,
    "lift_fresh_copy": lambda x: x,
    "alias": lambda x: x,
    "detach_copy": lambda x: x,
    "_unsafe_view": lambda x, size: x.view(size),
    "view_copy": lambda x, size: x.view(size),
    "_softmax": _softmax,
    "linalg_vector_norm": torch.linalg.vector_norm,
    "log_sigmoid": F.logsigmoid,
    "mT": lambda x: x.transpose(-2, -1),
    "im2col": F.unfold,
    "_log_softmax": lambda x, dim, *_: F.log_softmax(x, dim),
    "elu": _elu,
    "einsum": _einsum,
    "_scaled_dot_product_flash_attention_for_cpu": partial(_attention, 2),
    "_scaled_dot_product_flash_attention": partial(_attention, 9),
    "_scaled_dot_product_efficient_attention": partial(_attention, 4),
    "silu_": _inplace(F.silu),
    "hardswish_": _inplace(F.hardswish),
    "hardsigmoid_": _inplace(F.hardsigmoid),
    "hardtanh_": _inplace(F.hardtanh),
    "relu6_": _inplace(F.relu6),
    "elu_": _inplace(F.elu),
    "mish_": _inplace(F.mish),
}

#: Functions of ``torch`` with ATen's order of arguments, unlike those of the same names in ``torch.nn.functional``.
SUBSTITUTES: dict[Any, Callable[..., Any]] = {
    torch.batch_norm: lambda _, *args: _batch_norm(*args),
    torch.instance_norm: lambda _, *args: _instance_norm(*args),
}
