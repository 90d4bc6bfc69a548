"""Handlers of views, joins, padding and means; views need no nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gennape.search_spaces.importing.tracing.alignment import mean_over, sum_over
from gennape.search_spaces.importing.tracing.joins import Held, joined
from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Handler, Number, called, table
from gennape.search_spaces.importing.tracing.traced_value import (
    REPEATED,
    Atom,
    Groups,
    Range,
    TracedValue,
    arrange,
    grouped,
    groups_of,
    moved,
    reshaped,
    settle,
    sliced,
)

#: Stands for infinite padding.
_LARGEST = torch.finfo(torch.float32).max


def _same(r: Recorder, out: Tensor, tensor: Tensor, *_: Any, **__: Any) -> None:
    """A call that changes no values: a copy, a cast, dropout."""
    r.bind(out, r.traced(tensor))


def _view(r: Recorder, out: Tensor, tensor: Tensor, *_: Any, **__: Any) -> None:
    """A view, whose shape is that of the result."""
    r.bind(out, reshaped(r.b, r.traced(tensor), tuple(out.shape)))


def _move(r: Recorder, out: Tensor, tensor: Tensor, *args: Any, **kwargs: Any) -> None:
    """A permutation; its order is found by applying it to a tensor whose sizes all differ."""
    probe = torch.empty(tuple(range(1, tensor.dim() + 1)), device="meta")
    function = r.func
    order = [size - 1 for size in function(probe, *args, **kwargs).shape]
    r.bind(out, moved(r.traced(tensor), order))


def _expand(r: Recorder, out: Tensor, tensor: Tensor, *_: Any, **__: Any) -> None:
    """Repeat dimensions of size 1, without a node: sums and products broadcast by themselves."""
    x = r.traced(tensor)
    added = out.dim() - len(x.dims)
    dims = [()] * added + list(x.dims)
    for dim, size in enumerate(out.shape):
        times = size // TracedValue(x.value, (dims[dim],)).shape[0]
        if times > 1:
            dims[dim] = (Atom(REPEATED, times, dim + 1), *dims[dim])
    r.bind(out, TracedValue(x.value, tuple(dims)))


# Joins and padding ---------------------------------------------------------------------------------------------------


def _concat(r: Recorder, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    tensors = [x for x in tensors if x.numel()]
    join(r, out, [r.traced(x) if r.is_traced(x) else None for x in tensors], dim % out.dim(), tensors)


def _stack(r: Recorder, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    dim %= out.dim()
    values = []
    for x in tensors:
        traced = r.traced(x) if r.is_traced(x) else None
        values.append(traced and TracedValue(traced.value, (*traced.dims[:dim], (), *traced.dims[dim:])))
    join(r, out, values, dim, tensors)


def join(r: Recorder, out: Tensor, values: list[TracedValue | None], dim: int, tensors: Sequence[Tensor]) -> None:
    """Bind ``out`` to the values concatenated along a dimension; None stands for a constant."""
    parts = [_held(r, x, dim) if value is None else value for x, value in zip(tensors, values, strict=True)]
    r.bind(out, joined(r.b, parts, dim, tuple(out.shape)))


def _held(r: Recorder, x: Tensor, dim: int) -> Held:
    """A constant as an operand of a concatenation."""
    whole, spent = r.learnt(x) == x.numel(), r.spend(x)
    return Held(x.shape[dim], None if whole else spent, r.fill(x), made=lambda node: r.note(node, x))


def _pad(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: Number | None = None,
) -> None:
    widths = {tensor.dim() - 1 - i // 2: (int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)}
    cuts = {
        dim: Range(max(0, -before), tensor.shape[dim] + min(0, before) + min(0, after))
        for dim, (before, after) in widths.items()
    }
    x = settle(r.b, sliced(r.b, r.traced(tensor), cuts))
    padded = sorted(dim for dim, (before, after) in widths.items() if before > 0 or after > 0)
    if not padded:
        r.bind(out, x)
        return
    groups = _alone(x, padded, first=0 if mode == "constant" else 1)
    if groups is None:
        r.other("pad", out, x)
        return
    before, after = [0, 0, 0], [0, 0, 0]
    for axis, dim in ((groups.index((dim,)), dim) for dim in padded):
        before[axis], after[axis] = max(0, widths[dim][0]), max(0, widths[dim][1])
    # A graph holds finite numbers; before a max pool the lowest one acts like minus infinity.
    fill = max(-_LARGEST, min(_LARGEST, float(value or 0.0))) if mode == "constant" else 0.0
    x = arrange(r.b, x, groups)
    made = r.b.pad(x.value, (before[0], before[1], before[2]), (after[0], after[1], after[2]), mode, fill)
    r.bind(out, grouped(made, tuple(out.shape), groups))


def _alone(x: TracedValue, dims: Sequence[int], first: int) -> Groups | None:
    """Groups in which each of ``dims`` is a whole axis, from ``first`` on, if possible the present ones; else None."""
    groups = list(groups_of(x))
    for dim in dims:
        if not any(dim in group for group in groups) and () in groups[first:]:
            groups[groups.index((), first)] = (dim,)
    if all((dim,) in groups[first:] for dim in dims):
        return (groups[0], groups[1], groups[2])
    every = tuple(range(len(x.dims)))
    if len(dims) == 1:
        (dim,) = dims
        return (every[:dim], (dim,), every[dim + 1 :])
    if len(dims) == 2:
        return (tuple(dim for dim in every if dim not in dims), (dims[0],), (dims[1],))
    others = any(x.shape[dim] > 1 for dim in every if dim not in dims)
    return None if first or others or len(dims) > 3 else ((dims[0],), (dims[1],), (dims[2],))


# Means ---------------------------------------------------------------------------------------------------------------


def _gone(tensor: Tensor, dim: Any) -> set[int]:
    """The dimensions that are reduced."""
    listed = range(tensor.dim()) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
    return {d % tensor.dim() for d in listed}


def _mean(r: Recorder, out: Tensor, tensor: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> None:
    r.bind(out, mean_over(r.b, r.traced(tensor), _gone(tensor, dim), keepdim))


def _sum(r: Recorder, out: Tensor, tensor: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> None:
    r.bind(out, sum_over(r.b, r.traced(tensor), _gone(tensor, dim), keepdim))


def _windows(r: Recorder, tensor: Tensor, dimension: int, size: int, step: int) -> Tensor:  # noqa: ARG001
    """Overlapping windows of a dimension, stacked in a new last dimension."""
    dim = dimension % tensor.dim()
    starts = range(0, tensor.shape[dim] - size + 1, step)
    return torch.stack([tensor.narrow(dim, start, size) for start in starts], dim).movedim(dim + 1, -1)


def _roll(r: Recorder, tensor: Tensor, shifts: Any, dims: Any = ()) -> Tensor:
    """Roll dimensions: the part behind a position, then the part before it."""
    if dims is None or dims == ():
        return _roll(r, tensor.flatten(), shifts, 0).view(tensor.shape)
    pairs = (
        [(shifts, dims)]
        if isinstance(shifts, int)
        else zip(shifts, (dims,) if isinstance(dims, int) else dims, strict=True)
    )
    for shift, dim in pairs:
        if place := -int(shift) % tensor.shape[dim]:
            behind, before = tensor.narrow(dim, place, tensor.shape[dim] - place), tensor.narrow(dim, 0, place)
            tensor = torch.cat([behind, before], dim)
    return tensor


# Casts and constants -------------------------------------------------------------------------------------------------


def _cast(r: Recorder, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ARG001
    """``x.to(...)`` on the same device: only the dtype changes."""
    for given in (*args, *kwargs.values()):
        if isinstance(given, torch.dtype):
            return x.type(given)
        if isinstance(given, Tensor):
            return x.type(given.dtype)
    return x


def _stay(r: Recorder, x: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: ARG001
    return x


def _constant(r: Recorder, out: Tensor, *_: Any, **__: Any) -> None:
    """A constant with the shape of a tensor that depends on the image."""
    r.fixed(out)


#: Replacements of calls.
SUBSTITUTES: dict[Any, Any] = {
    **dict.fromkeys(called("to"), _cast),
    **dict.fromkeys(called("cpu", "cuda", "pin_memory"), _stay),
    **dict.fromkeys(called("roll"), _roll),
    torch.Tensor.unfold: _windows,
}

_SAME = (
    *("alpha_dropout", "bfloat16", "clone", "contiguous", "detach", "detach_", "double", "dropout", "dropout1d"),
    *("dropout2d", "dropout3d", "feature_alpha_dropout", "feature_dropout", "float", "half", "positive", "alias"),
    *("requires_grad_", "type", "type_as", "dropout_", "alpha_dropout_"),
)
_VIEWS = (
    "flatten",
    "ravel",
    "reshape",
    "reshape_as",
    "squeeze",
    "unflatten",
    "unsqueeze",
    "view",
    "view_as",
    "squeeze_",
    "unsqueeze_",
    "_unsafe_view",
)
_MOVES = ("movedim", "moveaxis", "permute", "swapaxes", "swapdims", "t", "transpose", "adjoint", "transpose_", "t_")
_CONSTANTS = (
    *("empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros", "ones_like"),
    *("rand_like", "randn_like", "zeros_like"),
)

HANDLERS: dict[Any, Handler] = table(
    (called(*_SAME), _same),
    ([torch.Tensor.data.__get__], _same),  # type: ignore[attr-defined]
    (called(*_VIEWS), _view),
    (called(*_MOVES), _move),
    ([torch.Tensor.T.__get__, torch.Tensor.mT.__get__, torch.Tensor.H.__get__], _move),  # type: ignore[attr-defined]
    (called("expand", "expand_as", "broadcast_to", "repeat", "tile"), _expand),
    (called("cat", "concat", "concatenate"), _concat),
    (called("stack"), _stack),
    (called("pad"), _pad),
    (called("mean"), _mean),
    (called("sum"), _sum),
    (called(*_CONSTANTS), _constant),
)
