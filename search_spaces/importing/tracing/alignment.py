"""Arrange the axes of values for operations with several operands or over some dimensions."""

from __future__ import annotations

from math import prod

from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.importing.tracing.traced_value import (
    REPEATED,
    Atom,
    Groups,
    TracedValue,
    arrange,
    default_groups,
    groups_of,
    numbers,
    settle,
)


def unrepeated(x: TracedValue, other: TracedValue) -> TracedValue:
    """Drop repetitions that the sum or product with ``other`` broadcasts anyway."""
    if not x.repeats:
        return x
    offset = len(other.dims) - len(x.dims)
    dims = [
        () if atoms and all(atom.axis < 0 for atom in atoms) and offset + d >= 0 and other.dims[offset + d] else atoms
        for d, atoms in enumerate(x.dims)
    ]
    return TracedValue(x.value, tuple(dims))


def aligned(b: GraphBuilder, x: TracedValue, base: TracedValue, groups: Groups) -> TracedValue:
    """The value with its axes laid out as in ``base``; dimensions are counted from the last."""
    offset = len(base.dims) - len(x.dims)
    c, h, w = (tuple(d - offset for d in group if d >= offset) for group in groups)
    return arrange(b, x, (c, h, w))


def as_pixels(b: GraphBuilder, x: TracedValue, gone: set[int]) -> TracedValue:
    """The value with the dimensions ``gone``, and no others, as its height and width."""
    groups = groups_of(x)
    whole = all(set(group) <= gone or not set(group) & gone for group in groups)
    if whole and not set(groups[0]) & {d for d in gone if x.dims[d]}:
        return x
    wide = tuple(d for d in sorted(gone) if x.dims[d])
    groups = (tuple(d for d, atoms in enumerate(x.dims) if atoms and d not in gone), wide[:-1], wide[-1:])
    return arrange(b, x, groups)


def mean_over(b: GraphBuilder, x: TracedValue, gone: set[int], keep: bool) -> TracedValue:
    """The mean over the dimensions ``gone``, which ``keep`` leaves with size 1."""
    shape = x.shape
    x = as_pixels(b, settle(b, x), gone)
    value = x.value
    taken = {x.dims[dim][0].axis for dim in gone if x.dims[dim]}
    spread = {axis for axis in (1, 2) if value.shape[axis] > 1}
    if spread <= taken and (taken or (len(shape) == 4 and gone == {2, 3})):
        value = b.mean(value)
    elif taken:  # along height or width alone
        window = (value.h if 1 in taken else 1, value.w if 2 in taken else 1)
        value = b.avgpool(value, window, window)
    return TracedValue(
        value, tuple(() if d in gone else atoms for d, atoms in enumerate(x.dims) if keep or d not in gone)
    )


def sum_over(b: GraphBuilder, x: TracedValue, gone: set[int], keep: bool) -> TracedValue:
    """The sum over the dimensions ``gone``: their mean times the number of elements."""
    mean = mean_over(b, x, gone, keep)
    count = prod(x.shape[dim] for dim in gone)
    return TracedValue(b.scale(mean.value, (), float(count)) if count > 1 else mean.value, mean.dims)


def causal_softmax(b: GraphBuilder, x: TracedValue) -> TracedValue:
    """Causal softmax: each position of the last but one dimension sees positions of the last up to its own."""
    every = tuple(range(len(x.dims)))
    x = arrange(b, x, (every[:-2], every[-2:-1], every[-1:]))
    return TracedValue(b.softmax(x.value, 2, causal=True), x.dims)


def squared(b: GraphBuilder, x: TracedValue) -> TracedValue:
    """The elementwise square."""
    x = settle(b, x)
    return TracedValue(b.power(x.value, 2.0), x.dims)


def root_of_squares(b: GraphBuilder, x: TracedValue, gone: set[int], keep: bool) -> TracedValue:
    """The L2 norm over the dimensions ``gone``."""
    total = settle(b, sum_over(b, squared(b, x), gone, keep))
    return TracedValue(b.power(total.value, 0.5), total.dims)


def together(
    b: GraphBuilder, x: TracedValue, y: TracedValue, shape: tuple[int, ...]
) -> tuple[Value, Value, TracedValue]:
    """The operands of a sum or product of ``shape``, and the first one as a tensor of that shape.

    The second has the axes of the first, or size 1 where it is broadcast.
    """
    x, y = unrepeated(x, y), unrepeated(y, x)
    full = [value for value in (x, y) if numbers(value) == prod(shape)]
    if not full:
        return together(b, _written_out(b, x, shape), y, shape)
    base = settle(b, next((value for value in full if value.direct), full[0]))
    groups = groups_of(base)
    first, second = (aligned(b, value, base, groups) for value in (x, y))
    if numbers(first) != prod(shape):
        first, second = second, first
    if _spreads(first.value, second.value):
        return first.value, second.value, base
    # The second is broadcast over part of an axis: axes are split where broadcasting begins or ends.
    base, small = (x, y) if numbers(x) == prod(shape) else (y, x)
    cut = _cut(base, small)
    if cut is None:
        return together(b, base, _written_out(b, small, shape), shape)
    base = arrange(b, base, cut)
    return base.value, aligned(b, small, base, cut).value, base


def _spreads(x: Value, y: Value) -> bool:
    return all(n in (size, 1) for size, n in zip(x.shape, y.shape, strict=True))


def _cut(base: TracedValue, small: TracedValue) -> Groups | None:
    """Axes of successive dimensions that ``small`` is broadcast along, or is not; None if there are more than 3."""
    offset, runs = len(base.dims) - len(small.dims), list[list[int]]()
    wide = [bool(atoms) and d >= offset and bool(small.dims[d - offset]) for d, atoms in enumerate(base.dims)]
    last: bool | None = None
    for d, atoms in enumerate(base.dims):
        if not atoms:
            continue
        if wide[d] != last:
            runs.append([])
        runs[-1].append(d)
        last = wide[d]
    if len(runs) > 3:
        return None
    c, h, w = (tuple(run) for run in (*runs, [], [], [])[:3])
    return c, h, w


def _written_out(b: GraphBuilder, x: TracedValue, shape: tuple[int, ...]) -> TracedValue:
    """The value broadcast to ``shape``."""
    dims = [()] * (len(shape) - len(x.dims)) + list(x.dims)
    made = [
        atoms or ((Atom(REPEATED, size, d + 1),) if size > 1 else ())
        for d, (atoms, size) in enumerate(zip(dims, shape, strict=True))
    ]
    return arrange(b, TracedValue(x.value, tuple(made)), default_groups(shape))
