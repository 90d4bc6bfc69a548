"""The network of a front that a rule chooses: the highest accuracy within limits of measures."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gennape.errors import ConfigError
from gennape.search_spaces.files.nearby import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

#: Columns of a front that are no measure.
NO_MEASURES = ("index", "hash", "architecture")
_LIMIT = re.compile(r"\s*([^<>=\s]+)\s*(<=|>=)\s*(\S+)\s*")
_COMPARISONS = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound of a measure, written ``flops<=600e6``."""

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound:g}"

    def holds(self, point: Mapping[str, Any]) -> bool:
        """Whether a point of a front is within the limit; a point that lacks the measure is not."""
        value = point.get(self.name)
        return value is not None and bool(_COMPARISONS[self.sign](float(value), self.bound))


def parse_limit(text: str, measures: Collection[str]) -> Limit:
    """Read ``flops<=600e6``; raises :class:`ConfigError` for another form, an unknown measure and a bound that is no
    number."""
    found = _LIMIT.fullmatch(text)
    if found is None:
        raise ConfigError(f"a constraint is written like flops<=600e6 or accuracy>=75, got {text!r}")
    name, sign, number = found.groups()
    if name not in measures:
        known = ", ".join(measures)
        raise ConfigError(f"the front has no measure {name!r}; known are {known}{did_you_mean(name, measures)}")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ConfigError(f"the bound of a constraint is a number such as 600e6, got {number!r} in {text!r}")
    return Limit(name, sign, bound)


def measures_of(points: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The measures of a front in the order of its columns; the deviation of the accuracy is among them."""
    return tuple(name for name in (points[0] if points else {}) if name not in NO_MEASURES)


def best_point(points: Sequence[Mapping[str, Any]], limits: Iterable[Limit]) -> Mapping[str, Any]:
    """The point with the highest accuracy within all limits, the first of equal ones.

    Raises :class:`ConfigError`, which says what the front has, if none is within them.
    """
    chosen = tuple(limits)
    within = [point for point in points if all(limit.holds(point) for limit in chosen)]
    if within:
        return max(within, key=lambda point: float(point["accuracy"]))
    if not points:
        raise ConfigError("the front is empty; search with more evaluations")
    spans = {limit.name: [float(point[limit.name]) for point in points if point.get(limit.name) is not None]
             for limit in chosen}  # fmt: skip
    found = "; ".join(f"{name} from {min(values):g} to {max(values):g}" for name, values in spans.items() if values)
    asked = " and ".join(map(str, chosen))
    raise ConfigError(f"no network of the front has {asked}; the front has {found}. Widen a constraint")
