"""Limits of a search: what is allowed of a measure, how far a network is beyond it, and what searchers are told."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import ConfigError
from gennape.platform.search.objectives import LATENCY, NAMES, minimised
from gennape.search_spaces.files.nearby import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float64

    from gennape.platform.search.evaluations import Evaluations
    from gennape.platform.search.objectives import Objective

_WRITTEN = re.compile(r"([A-Za-z][\w.-]*)\s*(<=|>=)\s*([+-]?[\d._]+(?:[eE][+-]?\d+)?)")
#: What searchers are told of a network beyond the limits is at least this, which no objective reaches.
PENALTY = 1e30
_MAX_VIOLATION = 1e30  # so that products of three objectives stay finite
#: Smallest and largest value that a measure can have at all; no limit for measures of the user's own.
RANGES = {
    "accuracy": (0.0, 100.0),
    **dict.fromkeys(("flops", "macs", "params", "memory"), (0.0, math.inf)),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A measure, ``<=`` or ``>=``, and a bound in the measure's unit, written ``flops<=600e6``."""

    name: str
    sign: str
    bound: float

    def __str__(self) -> str:
        whole = self.bound.is_integer() and abs(self.bound) < 2**53
        return f"{self.name}{self.sign}{int(self.bound) if whole else self.bound!r}"

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return value <= self.bound if self.sign == "<=" else value >= self.bound

    def violation(self, values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """How far values are beyond the bound, as a fraction of it; 0 within, NaN for NaN."""
        beyond = values - self.bound if self.sign == "<=" else self.bound - values
        with np.errstate(over="ignore"):
            part = np.maximum(beyond, 0) / (abs(self.bound) or 1)
        capped: Float64[np.ndarray, " n"] = np.minimum(part, _MAX_VIOLATION)
        return capped


def parse_limits(texts: Iterable[str], known: Sequence[str] | None = None) -> tuple[Limit, ...]:
    """Read ``("flops<=600e6", "accuracy>=75")``; ``known`` are the measures that may be limited, None for any.

    Raises :class:`ConfigError` for what cannot be read, for an unknown measure, and for limits that no network can keep
    whatever the search space.
    """
    limits = tuple(dict.fromkeys(_parse(text, known) for text in texts))
    _refuse_impossible(limits)
    return limits


def _parse(text: str, known: Sequence[str] | None) -> Limit:
    found = _WRITTEN.fullmatch(text.strip())
    try:
        bound = float(found[3]) if found else math.nan
    except ValueError:
        bound = math.nan
    if found is None or not math.isfinite(bound):
        raise ConfigError(
            f"cannot read the limit {text!r}; write a measure, <= or >=, and a number, for example 'flops<=600e6' (in "
            "quotes, for the shell)"
        )
    if known is not None and found[1] not in known:
        raise ConfigError(
            f"unknown measure {found[1]!r} in the limit {text!r}; known are {', '.join(known)}"
            f"{did_you_mean(found[1], known)}"
        )
    return Limit(found[1], found[2], bound)


def _refuse_impossible(limits: Sequence[Limit]) -> None:
    for name in dict.fromkeys(limit.name for limit in limits):
        least, most = RANGES.get(name, (0.0 if name.startswith(LATENCY) else -math.inf, math.inf))
        mine = [limit for limit in limits if limit.name == name]
        for limit in mine:
            if limit.bound < least if limit.sign == "<=" else limit.bound > most:
                allowed = f"from {least:g} to {most:g}" if math.isfinite(most) else f"at least {least:g}"
                raise ConfigError(f"no network can keep {limit}: {name} is always {allowed}; change the limit")
        low = max((limit for limit in mine if limit.sign == ">="), key=lambda limit: limit.bound, default=None)
        high = min((limit for limit in mine if limit.sign == "<="), key=lambda limit: limit.bound, default=None)
        if low is not None and high is not None and low.bound > high.bound:
            raise ConfigError(f"no network can keep both {low} and {high}; change one of these limits")


def violation(
    values: Float64[np.ndarray, "n k"], limits: Sequence[Limit], names: Sequence[str] = NAMES
) -> Float64[np.ndarray, " n"]:
    """The total relative violation of the limits by each row of measures; 0 for a row within all of them."""
    total = np.zeros(len(values))
    for limit in limits:
        total += limit.violation(values[:, names.index(limit.name)])
    return total


def points_to_tell(
    values: Float64[np.ndarray, "n k"],
    objectives: Sequence[Objective],
    limits: Sequence[Limit],
    names: Sequence[str] = NAMES,
) -> Float64[np.ndarray, "n m"]:
    """What a searcher is told: the objectives, minimised, or a penalty in each of them for rows beyond the limits.

    A search by dominance then is one by constrained dominance (Deb et al., 2002): every network within the limits
    dominates every other one, and of two beyond them the one with the smaller violation dominates. No searcher has to
    know limits.
    """
    points = minimised(values, objectives, names)
    beyond = violation(values, limits, names)
    return np.where(beyond[:, None] > 0, PENALTY * (1 + beyond[:, None]), points)


def nearest(evaluations: Evaluations, limits: Sequence[Limit]) -> str:
    """In words, that no network is within the limits, and how far the nearest is from them."""
    rows = np.flatnonzero(evaluations.finite)
    said = f"none of {len(evaluations):,} networks is within {', '.join(map(str, limits))}"
    if not len(rows):
        return said
    row = rows[evaluations.violation[rows].argmin()]
    names = dict.fromkeys(limit.name for limit in limits)
    measured = ", ".join(f"{name} {evaluations.column(name)[row]:.10g}" for name in names)
    return f"{said}; the nearest is {100 * evaluations.violation[row]:.3g} % beyond, with {measured}"
