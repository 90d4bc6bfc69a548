"""Bring values into the arrangement that an operation of several of them, or over some dimensions, needs."""

from __future__ import annotations

from gennape.search_spaces.builder import GraphBuilder
from gennape.search_spaces.tracing.traced_value import Groups, TracedValue, arrange, groups_of, plan


def unrepeated(x: TracedValue, other: TracedValue) -> TracedValue:
    """Repetition is left to the sum or product, where the other operand has the size."""
    if not x.repeats:
        return x
    offset = len(other.dims) - len(x.dims)
    dims = [
        () if any(atom.axis < 0 for atom in atoms) and offset + d >= 0 and other.dims[offset + d] else atoms
        for d, atoms in enumerate(x.dims)
    ]
    return TracedValue(x.value, tuple(dims))


def aligned(b: GraphBuilder, x: TracedValue, base: TracedValue, groups: Groups) -> TracedValue:
    """A value with its axes where those of ``base`` are; dimensions are counted from the last."""
    offset = len(base.dims) - len(x.dims)
    c, h, w = (tuple(d - offset for d in group if d >= offset) for group in groups)
    return arrange(b, x, (c, h, w))


def as_pixels(b: GraphBuilder, x: TracedValue, gone: set[int]) -> TracedValue | None:
    """The value with some dimensions as all of its height or width; None where axes cannot be moved so."""
    groups = groups_of(x)
    whole = all(set(group) <= gone or not set(group) & gone for group in groups)
    if whole and not set(groups[0]) & {d for d in gone if x.dims[d]}:
        return x
    wide = tuple(d for d in sorted(gone) if x.dims[d])
    groups = (tuple(d for d, atoms in enumerate(x.dims) if atoms and d not in gone), wide[:-1], wide[-1:])
    return arrange(b, x, groups) if plan(x, groups) else None
