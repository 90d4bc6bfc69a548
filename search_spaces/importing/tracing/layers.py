"""Handlers of convolutions and normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from gennape.search_spaces.graphs import operations as ops
from gennape.search_spaces.graphs.operations import Fragment, Pair, Value
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Handler, Number, called, table
from gennape.search_spaces.importing.tracing.tensors import Untraceable
from gennape.search_spaces.importing.tracing.traced_value import Groups, TracedValue, grouped, pixelwise

# Convolutions and matrices -------------------------------------------------------------------------------------------


def _spatial(value: Any, dims: int) -> tuple[int, int]:
    """Height and width of a size given for one or two dimensions, as a number or a sequence."""
    if isinstance(value, int):
        return (value, value) if dims == 2 else (value, 1)
    value = tuple(value) * (dims // len(tuple(value)))
    return (value[0], value[1]) if dims == 2 else (value[0], 1)


def _image_groups(x: Tensor, dims: int) -> Groups:
    """The axes of [batch, c, h, w] or [batch, c, n], with or without the batch."""
    first = x.dim() - dims - 1
    if first < 0 or (first == 1 and x.shape[0] != 1):
        raise Untraceable(f"its input has shape {tuple(x.shape)}, must be one image")
    return ((first,), (first + 1,), (first + 2,) if dims == 2 else ())


def _fixed(r: Recorder, out: Tensor, name: str, x: TracedValue, weight: Tensor, bias: Tensor | None) -> None:
    """A convolution whose filter is not fully learnt, or depends on the image."""
    more = [r.traced(t) for t in (weight, bias) if t is not None and r.is_traced(t)]
    macs = out.numel() * weight[0].numel()
    r.other(name, out, x, *more, macs=macs, params=r.spend(*(t for t in (weight, bias) if not r.is_traced(t))))


def _conv(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> None:
    dims = weight.dim() - 2
    if tensor.dim() == dims + 2 and tensor.shape[0] != 1:
        _conv_of_windows(r, out, tensor, weight, bias, stride, padding, groups)
        return
    axes = _image_groups(tensor, dims)
    x = r.arranged(tensor, axes)
    kernel, strides, dilations = (
        _spatial(tuple(weight.shape[2:]), dims),
        _spatial(stride, dims),
        _spatial(dilation, dims),
    )
    if dims == 1:
        strides, dilations = (strides[0], 1), (dilations[0], 1)
    if r.is_traced(weight) or r.is_traced(bias):
        _fixed(r, out, "dynamic_conv", x, weight, bias)
        return
    value, padded = _padding(r, x.value, padding, kernel, dilations, dims)
    part = ops.conv(value.shape, weight.shape[0], kernel, strides, padded, dilations, groups, bias is not None)
    made = r.layer(part, value, weight.numel() + (0 if bias is None else bias.numel()), weight, bias)
    if made is None:
        _fixed(r, out, "fixed_conv", x, weight, bias)
        return
    r.bind(out, grouped(made, tuple(out.shape), axes))


def _conv_of_windows(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    groups: int,
) -> None:
    """A convolution of windows of one image, which form the batch; a pointwise one is an ordinary layer."""
    if r.is_traced(weight) or r.is_traced(bias):
        raise Untraceable("it convolves windows of the image with weights that depend on the image")
    pointwise = weight[0, 0].numel() == 1 and {*_both(stride)} == {1} and {*_both(padding)} <= {0, "valid", "same"}
    if not pointwise:
        macs = out.numel() * weight[0].numel()
        r.other("window_conv", out, r.traced(tensor), macs=macs, params=r.spend(weight, bias))
        return
    x = pixelwise(r.b, r.traced(tensor), 1)
    part = ops.conv(x.value.shape, weight.shape[0], (1, 1), (1, 1), (0, 0), (1, 1), groups, bias is not None)
    made = r.layer(part, x.value, weight.numel() + (0 if bias is None else bias.numel()), weight, bias)
    if made is None:
        _fixed(r, out, "fixed_conv", x, weight, bias)
        return
    channels = grouped(made, (made.c,), ((0,), (), ())).dims[0]
    r.bind(out, TracedValue(made, (x.dims[0], channels, *x.dims[2:])))


def _both(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _padding(
    r: Recorder, value: Value, padding: Any, kernel: tuple[int, int], dilation: tuple[int, int], dims: int
) -> tuple[Value, tuple[int, int]]:
    """The padded value, and the padding left to the convolution; "same" may need more at the end than at the start."""
    if padding == "valid":
        return value, (0, 0)
    if padding != "same":
        h, w = _spatial(padding, dims)
        return value, (h, w if dims == 2 else 0)
    total = [dilation[i] * (kernel[i] - 1) for i in range(2)]
    if total[0] % 2 == total[1] % 2 == 0:
        return value, (total[0] // 2, total[1] // 2)
    before = (0, total[0] // 2, total[1] // 2)
    return r.b.pad(value, before, (0, total[0] - before[1], total[1] - before[2])), (0, 0)


def _conv_transpose(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> None:
    axes = _image_groups(tensor, 2)
    x = r.arranged(tensor, axes)
    if r.is_traced(weight) or r.is_traced(bias):
        raise Untraceable("its weights depend on the image")
    pairs: list[Pair] = [_spatial(v, 2) for v in (tuple(weight.shape[2:]), stride, padding, output_padding, dilation)]
    part = ops.conv_transpose(x.value.shape, out.shape[axes[0][0]], *pairs, groups, bias is not None)
    made = r.layer(part, x.value, weight.numel() + (0 if bias is None else bias.numel()), weight, bias)
    if made is None:
        macs = prod(tensor.shape) * weight[0].numel()
        r.other("fixed_conv_transpose", out, x, macs=macs, params=r.spend(weight, bias))
        return
    r.bind(out, grouped(made, tuple(out.shape), axes))


# Normalisations ------------------------------------------------------------------------------------------------------


def _bind_norm(
    r: Recorder,
    out: Tensor,
    fixed: str,
    x: TracedValue,
    part: Fragment,
    learnt: int,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Value | None:
    """Bind a normalisation's layer; if it learns fewer than ``learnt`` numbers, bind an operation ``fixed`` instead."""
    made = r.layer(part, x.value, learnt, weight, bias)
    if made is None:
        r.other(fixed, out, x, params=r.spend(weight, bias))
    else:
        r.bind(out, TracedValue(made, x.dims))
    return made


def _batch_norm(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: Number = 0.1,  # noqa: ARG001
    eps: Number = 1e-5,
    cudnn_enabled: bool = True,  # noqa: ARG001 - of torch.batch_norm
) -> None:
    if training or running_mean is None:
        raise Untraceable("it normalises by batch statistics; give it running statistics (track_running_stats=True)")
    x = pixelwise(r.b, r.traced(tensor), 1)
    affine = weight is not None
    part = ops.node(Op.BATCHNORM, x.value.shape, x.value.shape, scalar=eps, kind=int(not affine))
    made = _bind_norm(r, out, "fixed_batch_norm", x, part, 2 * x.value.c if affine else 0, weight, bias)
    if made is not None:
        r.note(made, weight, bias, running_mean, running_var)


def _layer_norm(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: Number = 1e-5,
    cudnn_enable: bool = True,  # noqa: ARG001
) -> None:
    count, rank = len(normalized_shape), tensor.dim()
    x = r.traced(tensor)
    whole = count > 1 and all(not atoms for atoms in x.dims[: rank - count])
    if whole:
        x = r.settled(tensor)
    elif count == 1:
        x = pixelwise(r.b, x, rank - 1)
    else:
        x = r.arranged(tensor, (tuple(range(rank - count, rank)), tuple(range(rank - count)), ()))
    size = prod(x.value.shape) if whole else x.value.c
    learnt = size * ((weight is not None) + (bias is not None))
    flags = (int(bias is not None), 0, 0)
    part = ops.node(
        Op.LAYERNORM, x.value.shape, x.value.shape, flags=flags, scalar=eps, axis=3 if whole else 0, params=learnt
    )
    _bind_norm(r, out, "fixed_layer_norm", x, part, learnt, weight, bias)


def _group_norm(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: Number = 1e-5,
    cudnn_enabled: bool = True,  # noqa: ARG001
) -> None:
    x = pixelwise(r.b, r.traced(tensor), 1)
    learnt = 0 if weight is None else 2 * x.value.c
    flags, shape = (int(learnt > 0), 0, 0), x.value.shape
    part = ops.node(Op.GROUPNORM, shape, shape, groups=num_groups, flags=flags, scalar=eps, params=learnt)
    _bind_norm(r, out, "fixed_group_norm", x, part, learnt, weight, bias)


def _instance_norm(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: Number = 0.1,
    eps: Number = 1e-5,
    cudnn_enabled: bool = True,  # noqa: ARG001
) -> None:
    if use_input_stats:
        _group_norm(r, out, tensor, tensor.shape[1], weight, bias, eps)
    else:
        _batch_norm(r, out, tensor, running_mean, running_var, weight, bias, False, momentum, eps)


HANDLERS: dict[Any, Handler] = table(
    (called("conv1d", "conv2d"), _conv),
    (called("conv_transpose2d"), _conv_transpose),
    (called("batch_norm"), _batch_norm),
    (called("layer_norm"), _layer_norm),
    (called("group_norm"), _group_norm),
    (called("instance_norm"), _instance_norm),
)
