"""The network of a front that a rule chooses: the highest accuracy within limits of measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gennape.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gennape.platform.search.limits import Limit

#: Columns of a front that are no measure.
NO_MEASURES = ("index", "hash", "architecture")


def measures_of(points: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The measures of a front in the order of its columns; the deviation of the accuracy is among them."""
    return tuple(name for name in (points[0] if points else {}) if name not in NO_MEASURES)


def best_point(points: Sequence[Mapping[str, Any]], limits: Iterable[Limit]) -> Mapping[str, Any]:
    """The point with the highest accuracy within all limits, the first of equal ones.

    Raises :class:`ConfigError`, which says what the front has, if none is within them.
    """
    chosen = tuple(limits)
    within = [point for point in points if all(_holds(limit, point) for limit in chosen)]
    if within:
        return max(within, key=lambda point: float(point["accuracy"]))
    if not points:
        raise ConfigError("the front is empty: no network is within the limits of the search; change its constraints")
    spans = {limit.name: [float(point[limit.name]) for point in points if point.get(limit.name) is not None]
             for limit in chosen}  # fmt: skip
    found = "; ".join(f"{name} from {min(values):g} to {max(values):g}" for name, values in spans.items() if values)
    asked = " and ".join(map(str, chosen))
    raise ConfigError(f"no network of the front has {asked}; the front has {found}. Widen a constraint")


def _holds(limit: Limit, point: Mapping[str, Any]) -> bool:
    """Whether a point of a front is within a limit; a point that lacks the measure is not."""
    value = point.get(limit.name)
    return value is not None and limit.holds(float(value))
