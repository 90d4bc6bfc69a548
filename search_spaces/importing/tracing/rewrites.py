"""Replacements of calls by simpler ones: casts, norms, repetition, and writing into part of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Number, called
from gennape.search_spaces.importing.tracing.tensors import version_of


def _type_as(r: Recorder, x: Tensor, other: Tensor) -> Tensor:  # noqa: ARG001
    """Only the dtype changes."""
    return x.type(other.dtype)


def _norm(
    r: Recorder,  # noqa: ARG001
    x: Tensor,
    ord: Any = None,  # noqa: A002 - PyTorch's name
    dim: Any = None,
    keepdim: bool = False,
    **_: Any,
) -> Tensor:
    """A vector norm: along dimensions, or of all elements."""
    if isinstance(dim, tuple | list) and len(dim) == 2 and ord not in (None, "fro"):
        raise NotImplementedError(f"a matrix norm of order {ord}")
    return torch.linalg.vector_norm(x, 2 if ord in (None, "fro") else ord, dim, keepdim)


def _repeat_interleave(
    r: Recorder,  # noqa: ARG001
    x: Tensor,
    repeats: Any,
    dim: int | None = None,
    **_: Any,
) -> Tensor:
    """Repeat each position of a dimension."""
    if isinstance(repeats, Tensor):
        if repeats.numel() != 1 or repeats.is_meta:
            raise NotImplementedError("repeats given as a tensor; give a number")
        repeats = int(repeats)
    if dim is None:
        x, dim = x.flatten(), 0
    dim %= x.dim()
    sizes = [*x.shape[: dim + 1], repeats, *x.shape[dim + 1 :]]
    return x.unsqueeze(dim + 1).expand(sizes).flatten(dim, dim + 1)


def _copy(r: Recorder, x: Tensor, source: Any, non_blocking: bool = False) -> Tensor:  # noqa: ARG001
    """Overwrite the whole tensor."""
    _set_item(r, x, Ellipsis, source)
    return x


def _conv3d(
    r: Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """A kernel of size 1 along one dimension is a 2D convolution of every slice, with a shared filter."""
    if x.dim() == 4:
        return _conv3d(r, x[None], weight, bias, stride, padding, dilation, groups)[0]
    strides, dilations = _three(stride), _three(dilation)
    paddings = (padding,) * 3 if isinstance(padding, str) else _three(padding)
    flat = [i for i in range(3) if weight.shape[2 + i] == strides[i] == 1 and paddings[i] in (0, "same", "valid")]
    if not flat:
        raise NotImplementedError("a kernel that spans three dimensions")
    across = min(flat, key=lambda i: x.shape[2 + i])
    plane = [i for i in range(3) if i != across]
    slices = x.movedim(2 + across, 1)
    step, spread = [strides[i] for i in plane], [dilations[i] for i in plane]
    around: Any = padding if isinstance(padding, str) else [paddings[i] for i in plane]
    flat_weight = weight.squeeze(2 + across)
    every = F.conv2d(slices.flatten(0, 1), flat_weight, bias, step, around, spread, groups)
    return every.view(*slices.shape[:2], *every.shape[1:]).movedim(1, 2 + across)


def _three(value: Any) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value) * (3 // len(value))


# Writing into a part of a tensor -------------------------------------------------------------------------------------


def _set_item(r: Recorder, x: Tensor, index: Any, value: Any) -> None:
    """``x[index] = value``: concatenate the new part with the parts of the tensor around it."""
    if not r.is_traced(x) and not r.is_traced(value):
        with torch._C.DisableTorchFunction():
            x[index] = value
            r.fixed(x)
        return
    with torch._C.DisableTorchFunction():
        if r.is_traced(x) and isinstance(value, Tensor) and _was_changed_there(x, index, value, r.version(x)):
            r.bind(x, r.traced(x))
    cuts, gone = _region(x, index)
    shape = [cuts[d][1] if d in cuts else x.shape[d] for d in range(x.dim())]
    part = _part(x, value, shape, gone)
    whole = _pasted(r, x, sorted(cuts.items()), part)
    if not r.is_traced(whole):
        raise NotImplementedError("writing into part of a tensor")
    traced = r.traced(whole)
    with torch._C.DisableTorchFunction():
        x[index] = value
        r.wrote(x)  # earlier views of the tensor are now stale
        r.bind(x, traced)


def _was_changed_there(x: Tensor, index: Any, value: Tensor, version: int) -> bool:
    """Whether ``value`` is ``x[index]`` itself, changed in place as in ``x[index] *= 2``, and nothing else changed."""
    part = x[index]
    return (
        version_of(x) == version + 1
        and part.shape == value.shape
        and part.stride() == value.stride()
        and part.storage_offset() == value.storage_offset()
        and part.untyped_storage()._cdata == value.untyped_storage()._cdata
    )


def _region(x: Tensor, index: Any) -> tuple[dict[int, tuple[int, int]], list[int]]:
    """(first position, length) of the part by dimension, and the dimensions that the index removes."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if any(not isinstance(entry, int | slice) and entry is not Ellipsis for entry in entries):
        raise NotImplementedError("writing to an index of tensors or new dimensions")
    at = entries.index(Ellipsis) if Ellipsis in entries else len(entries)
    entries[at : at + 1] = [slice(None)] * (x.dim() - len(entries) + (Ellipsis in entries))
    cuts: dict[int, tuple[int, int]] = {}
    gone = []
    for dim, entry in enumerate(entries):
        places = range(x.shape[dim])[entry if isinstance(entry, slice) else slice(entry, (entry + 1) or None)]
        if not isinstance(entry, slice):
            gone.append(dim)
        if places.step != 1 or not places:
            raise NotImplementedError("writing to a slice with a step, or to an empty one")
        if len(places) < x.shape[dim]:
            cuts[dim] = (places.start, len(places))
    return cuts, gone


def _part(x: Tensor, value: Any, shape: list[int], gone: Sequence[int]) -> Tensor:
    """The new value, in the shape of the part."""
    if not isinstance(value, Tensor):
        return x.new_full(shape, value)
    value = value.type(x.dtype)
    if value.dim() > len(shape) - len(gone):
        value = value.reshape(value.shape[value.dim() - len(shape) + len(gone) :])
    kept = len(shape) - len(gone)
    value = value.reshape([1] * (kept - value.dim()) + list(value.shape))
    for dim in gone:
        value = value.unsqueeze(dim)
    return value.expand(shape)


def _pasted(r: Recorder, x: Tensor, cuts: list[tuple[int, tuple[int, int]]], part: Tensor) -> Tensor:
    """``x`` with a part replaced, one dimension at a time."""
    if not cuts:
        return part
    (dim, (first, length)), *rest = cuts
    last = first + length
    pieces = [_rest(r, x, dim, 0, first)] if first else []
    pieces.append(_pasted(r, _rest(r, x, dim, first, length), rest, part))
    if last < x.shape[dim]:
        pieces.append(_rest(r, x, dim, last, x.shape[dim] - last))
    return torch.cat(pieces, dim)


def _baddbmm(
    r: Recorder,  # noqa: ARG001
    x: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: Number = 1,
    alpha: Number = 1,
) -> Tensor:
    product = batch1 @ batch2 * alpha
    return product if beta == 0 else product + x * beta


def _rest(r: Recorder, x: Tensor, dim: int, first: int, length: int) -> Tensor:
    """A range of a dimension; a filled tensor is created again, so that its value stays known."""
    fill = r.fill(x)
    if fill is None:
        return x.narrow(dim, first, length)
    return x.new_full([length if d == dim else size for d, size in enumerate(x.shape)], fill)


SUBSTITUTES: dict[Any, Any] = {
    **dict.fromkeys(called("type_as"), _type_as),
    torch.linalg.norm: _norm,
    **dict.fromkeys(called("repeat_interleave"), _repeat_interleave),
    **dict.fromkeys(called("copy_"), _copy),
    **dict.fromkeys(called("__setitem__"), _set_item),
    **dict.fromkeys(called("baddbmm"), _baddbmm),
    **dict.fromkeys(called("conv3d"), _conv3d),
}
