"""Objectives of a search: a measure of graphs and their predictions, and the direction that is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import ConfigError
from gennape.search_spaces.graphs import cost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float64

    from gennape.predictors.predictor import Prediction
    from gennape.search_spaces.graphs.graph import PackedGraphs


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity of every evaluated network: name, unit, and a function that returns one value per graph."""

    name: str
    unit: str
    take: Callable[[PackedGraphs, Prediction], np.ndarray]


#: Every measure. Each evaluation stores all of them, whichever are optimised. Add a new one here.
MEASURES = (
    Measure("accuracy", "percent", lambda _, prediction: prediction.accuracy),
    Measure("flops", "operations", lambda graphs, _: cost.flops(graphs)),
    Measure("macs", "multiply-accumulates", lambda graphs, _: cost.macs(graphs)),
    Measure("params", "parameters", lambda graphs, _: cost.params(graphs)),
)
NAMES = tuple(m.name for m in MEASURES)
DIRECTIONS = ("max", "min")


@dataclass(frozen=True, slots=True)
class Objective:
    """A measure and the better direction, written ``accuracy:max``."""

    name: str
    direction: str

    def __str__(self) -> str:
        return f"{self.name}:{self.direction}"

    @property
    def column(self) -> int:
        """Column of the measure in what :func:`measure` returns."""
        return NAMES.index(self.name)


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Read ``accuracy:max,flops:min``.

    Raises :class:`ConfigError`, which lists the known names, for an unknown name or direction, a malformed part, or a
    measure that occurs twice.
    """
    objectives = tuple(_parse(part.strip()) for part in text.split(","))
    names = [o.name for o in objectives]
    if len(set(names)) < len(names):
        raise ConfigError(f"each measure may be an objective once, got {text!r}")
    return objectives


def _parse(part: str) -> Objective:
    name, colon, direction = part.partition(":")
    if name not in NAMES:
        raise ConfigError(
            f"unknown objective {name!r}; known are {', '.join(NAMES)} (write e.g. accuracy:max,flops:min)"
        )
    if not colon or direction not in DIRECTIONS:
        raise ConfigError(f"objective {part!r} needs a direction, {name}:max or {name}:min")
    return Objective(name, direction)


def measure(graphs: PackedGraphs, prediction: Prediction) -> Float64[np.ndarray, "g k"]:
    """Every measure of every graph in its natural unit, columns in the order of :data:`NAMES`."""
    return np.stack([np.asarray(m.take(graphs, prediction), np.float64) for m in MEASURES], axis=1)


def minimised(values: Float64[np.ndarray, "g k"], objectives: Sequence[Objective]) -> Float64[np.ndarray, "g m"]:
    """The objectives' columns of :func:`measure`, negated where larger is better. Only this function changes signs."""
    signs = np.array([-1.0 if o.direction == "max" else 1.0 for o in objectives])
    points: Float64[np.ndarray, "g m"] = values[:, [o.column for o in objectives]] * signs
    return points
