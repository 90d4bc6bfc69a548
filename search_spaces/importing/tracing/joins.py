"""Concatenate values and constants along a dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.importing.tracing.traced_value import TracedValue, arrange, grouped, settle, with_axis


class Held(NamedTuple):
    """A constant operand: ``size`` positions along the dimension, ``params`` as in :meth:`GraphBuilder.extend`.

    ``fill`` is the value of all its elements, if they are equal. ``made`` is called with the node of the constant.
    """

    size: int
    params: int | None
    fill: float | None = None
    made: Callable[[Value], None] = lambda _: None


def joined(b: GraphBuilder, parts: Sequence[TracedValue | Held], dim: int, shape: tuple[int, ...]) -> TracedValue:
    """Concatenate ``parts`` along ``dim`` to a tensor of ``shape``.

    Constants before the first value extend the result; every other one extends the value before it.
    """
    traced = [x for x in parts if isinstance(x, TracedValue)]
    if len(parts) == 1:
        return traced[0]
    base = next((x for x in traced if x.direct), None) or settle(b, traced[0])
    groups, axis = with_axis(base, dim)
    values: list[Value] = []
    leading: list[Held] = []
    for part in parts:
        if isinstance(part, TracedValue):
            values.append(arrange(b, part, groups).value)
        elif values:
            values[-1] = _extended(b, values[-1], part, axis, before=False)
        else:
            leading.append(part)
    value = b.concat(*values, axis=axis)
    for part in reversed(leading):
        value = _extended(b, value, part, axis, before=True)
    return grouped(value, shape, groups)


def _extended(b: GraphBuilder, x: Value, part: Held, axis: int, before: bool) -> Value:
    sizes = tuple(part.size * (i == axis) for i in range(3))
    amount = (sizes[0], sizes[1], sizes[2])
    if part.fill is not None:
        return b.pad(x, amount if before else (0, 0, 0), (0, 0, 0) if before else amount, value=part.fill)
    made = b.extend(x, part.size, axis, before, part.params)
    part.made(made)
    return made
