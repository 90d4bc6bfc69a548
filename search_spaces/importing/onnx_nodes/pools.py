"""Handlers of ONNX pools, whose padding and rounding are more general than those of a graph.

A graph's pool follows PyTorch: equal padding before and after the map, at most half a window, and one rounding rule for
both axes. Other pools are expressed by padding the map first, or by computing more windows and cutting them off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.builder import Value
from gennape.search_spaces.graphs.operations import window_count
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler
from gennape.search_spaces.importing.onnx_nodes.windows import image_of, pads_of, window_of
from gennape.search_spaces.importing.tracing.traced_value import TracedValue, grouped

#: The lowest float32, used as padding of a max pool.
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True)
class _PoolAxis:
    """Height or width: its size, its window, and the padding before and after it."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    def windows(self, rounds_up: bool) -> int:
        """Number of windows by ONNX's rules."""
        span = self.size + self.before + self.after - self.dilation * (self.kernel - 1) - 1
        count = (-(-span // self.stride) if rounds_up else span // self.stride) + 1
        # A window that would start in the padding at the end is dropped.
        return count - 1 if rounds_up and (count - 1) * self.stride >= self.size + self.before else count

    def made(self, padding: int, rounds_up: bool) -> int:
        """Number of windows by a graph's rules, with equal padding on both sides."""
        return window_count(self.size, self.kernel, self.stride, padding, 1, rounds_up)

    def cut(self, wanted: int, rounds_up: bool) -> tuple[int, int] | None:
        """A padding that yields the wanted windows among others, and how many others come first; else None."""
        for padding in range(self.before, self.kernel // 2 + 1, self.stride):
            first = (padding - self.before) // self.stride
            if self.made(padding, rounds_up) >= first + wanted:
                return padding, first
        return None


def _pool(call: Call) -> TracedValue:
    """A max, average or Lp pool with any padding and rounding."""
    if call.node.n_taken > 1:
        raise InvalidGraphError("its second output, the indices of the maxima, is used but not supported")
    x, groups = image_of(call, each=True)
    window = window_of(call, call.node.integers("kernel_shape"), groups)
    before, after = pads_of(call, x.value, groups, window)
    axes = tuple(_PoolAxis(*axis) for axis in zip(x.value.shape[1:], *window, before, after, strict=True))
    rounds_up = bool(call.node.integer("ceil_mode", 0))
    wanted = (axes[0].windows(rounds_up), axes[1].windows(rounds_up))
    if min(wanted) < 1:
        raise InvalidGraphError(f"its windows {window[0]} do not fit into its input {list(x.shape)}")
    made = _made(call, x.value, axes, wanted, rounds_up)
    shape = (*x.shape[:2], *wanted[: len(x.dims) - 2])
    if made is None:
        kind = {"MaxPool": "max_pool", "LpPool": "lp_pool"}.get(call.node.op, "avg_pool")
        name = kind if window[2] == (1, 1) else f"dilated_{kind}"
        call.others.add(name)
        made = call.b.other(name, (x.value.c, *wanted), x.value)
    return grouped(made, shape, groups)


def _made(
    call: Call, value: Value, axes: tuple[_PoolAxis, ...], wanted: tuple[int, int], rounds_up: bool
) -> Value | None:
    """The nodes of a pool; None if it cannot be expressed."""
    if call.node.op == "LpPool" or any(axis.dilation > 1 and axis.kernel > 1 for axis in axes):
        return None
    maximum, counts = call.node.op == "MaxPool", bool(call.node.integer("count_include_pad", 0))
    equal = all(axis.before == axis.after and 2 * axis.before <= axis.kernel for axis in axes)
    if counts and not maximum and any(axis.before or axis.after for axis in axes):
        if equal and _counts(axes, rounds_up) == wanted:
            return _pooled(call, value, axes, _near(axes), rounds_up, counts=True)
        return _cut(call, _padded(call, value, axes, 0.0), _bare(axes), wanted, rounds_up)
    for rule in (rounds_up, not rounds_up):
        if all(2 * axis.before <= axis.kernel for axis in axes) and _counts(axes, rule) == wanted:
            return _pooled(call, value, axes, _near(axes), rule)
    made = _trimmed(call, value, axes, wanted) or _cut(call, value, axes, wanted, rounds_up)
    if made is None and maximum:
        made = _cut(call, _padded(call, value, axes, LOWEST), _bare(axes), wanted, rounds_up)
    return made


def _near(axes: tuple[_PoolAxis, ...]) -> tuple[int, int]:
    """The padding before the map."""
    return axes[0].before, axes[1].before


def _counts(axes: tuple[_PoolAxis, ...], rounds_up: bool) -> tuple[int, ...]:
    return tuple(axis.made(axis.before, rounds_up) for axis in axes)


def _pooled(
    call: Call,
    value: Value,
    axes: tuple[_PoolAxis, ...],
    padding: tuple[int, int],
    rounds_up: bool,
    counts: bool = False,
) -> Value:
    kernel, stride = (axes[0].kernel, axes[1].kernel), (axes[0].stride, axes[1].stride)
    if call.node.op == "MaxPool":
        return call.b.maxpool(value, kernel, stride, padding, rounds_up)
    return call.b.avgpool(value, kernel, stride, padding, rounds_up, counts)


def _padded(call: Call, value: Value, axes: tuple[_PoolAxis, ...], fill: float) -> Value:
    before, after = (0, *_near(axes)), (0, axes[0].after, axes[1].after)
    return call.b.pad(value, before, after, value=fill)


def _bare(axes: tuple[_PoolAxis, ...]) -> tuple[_PoolAxis, ...]:
    """The axes of a map that already includes the padding."""
    return tuple(_PoolAxis(a.size + a.before + a.after, a.kernel, a.stride, a.dilation, 0, 0) for a in axes)


def _trimmed(call: Call, value: Value, axes: tuple[_PoolAxis, ...], wanted: tuple[int, int]) -> Value | None:
    """For axes with different rounding: cut off rows and columns outside all windows, so that rounding up adds none."""
    if any(2 * axis.before > axis.kernel for axis in axes):
        return None
    kept = [
        a.size if a.made(a.before, True) == m else min(a.size, (m - 1) * a.stride + a.kernel - a.before)
        for m, a in zip(wanted, axes, strict=True)
    ]
    if min(kept) < 1:
        return None
    rest = tuple(_PoolAxis(n, a.kernel, a.stride, 1, a.before, a.after) for n, a in zip(kept, axes, strict=True))
    if _counts(rest, True) != wanted:
        return None
    return _pooled(call, call.b.slice(value, value.c, h=kept[0], w=kept[1]), axes, _near(axes), True)


def _cut(
    call: Call, value: Value, axes: tuple[_PoolAxis, ...], wanted: tuple[int, int], rounds_up: bool
) -> Value | None:
    """Pad more before the map, and cut off the additional windows."""
    for rule in (rounds_up, not rounds_up):
        found = [axis.cut(m, rule) for axis, m in zip(axes, wanted, strict=True)]
        if found[0] and found[1]:
            (top, row), (left, column) = found[0], found[1]
            made = _pooled(call, value, axes, (top, left), rule)
            return call.b.slice(made, made.c, row, column, h=wanted[0], w=wanted[1])
    return None


POOLS: dict[str, Handler] = {"MaxPool": _pool, "AveragePool": _pool, "LpPool": _pool}
