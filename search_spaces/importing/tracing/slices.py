"""Handlers of slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Handler, called, table
from gennape.search_spaces.importing.tracing.traced_value import Range, TracedValue, sliced


def _parts(r: Recorder, out: Sequence[Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> None:
    """A tensor split along a dimension, at the sizes of the results."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % tensor.dim()
    start = 0
    for part in out:
        r.bind(part, sliced(r.b, r.traced(tensor), {dim: Range(start, part.shape[dim])}))
        start += part.shape[dim]


def _unbind(r: Recorder, out: Sequence[Tensor], tensor: Tensor, dim: int = 0) -> None:
    for position, part in enumerate(out):
        r.bind(part, _picked(r, r.traced(tensor), dim % tensor.dim(), position))


def _select(r: Recorder, out: Tensor, tensor: Tensor, dim: int, index: int) -> None:
    r.bind(out, _picked(r, r.traced(tensor), dim % tensor.dim(), index % tensor.shape[dim]))


def _picked(r: Recorder, x: TracedValue, dim: int, position: int) -> TracedValue:
    x = sliced(r.b, x, {dim: Range(position, 1)})
    return TracedValue(x.value, x.dims[:dim] + x.dims[dim + 1 :])


def _narrow(r: Recorder, out: Tensor, tensor: Tensor, dim: int, start: int, length: int) -> None:
    dim %= tensor.dim()
    r.bind(out, sliced(r.b, r.traced(tensor), {dim: Range(int(start) % max(1, tensor.shape[dim]), length)}))


def _index(r: Recorder, out: Tensor, tensor: Tensor, index: Any) -> None:
    """``x[...]`` with integers, slices, None and an ellipsis; with tensors it is an "other"."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(entry, Tensor | list | bool) for entry in entries):
        traced = [r.traced(entry) for entry in entries if r.is_traced(entry)]
        r.other("index", out, r.traced(tensor), *traced)
        return
    given = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if Ellipsis not in entries:
        entries.append(Ellipsis)
    at = entries.index(Ellipsis)
    entries[at : at + 1] = [slice(None)] * (tensor.dim() - given)
    kept: list[int | None] = []
    ranges = {}
    dim = 0
    for entry in entries:
        if entry is None:
            kept.append(None)
            continue
        ranges[dim] = _range(entry, tensor.shape[dim])
        if isinstance(entry, slice):
            kept.append(dim)
        dim += 1
    x = sliced(r.b, r.traced(tensor), ranges)
    r.bind(out, TracedValue(x.value, tuple(() if d is None else x.dims[d] for d in kept)))


def _range(entry: Any, size: int) -> Range:
    if isinstance(entry, slice):
        positions = range(size)[entry]
        return Range(positions.start, len(positions), positions.step)
    return Range(int(entry) % size, 1)


HANDLERS: dict[Any, Handler] = table(
    (called("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"), _parts),
    (called("unbind"), _unbind),
    (called("select"), _select),
    (called("narrow"), _narrow),
    (called("__getitem__"), _index),
)
