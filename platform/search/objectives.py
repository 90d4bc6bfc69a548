"""Objectives of a search: a measure of networks, and the direction that is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import ConfigError
from gennape.search_spaces.files.nearby import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64

#: The measures that every run records, in the order of their columns.
NAMES = ("accuracy", "flops", "macs", "params")
#: And those that a run records where they are an objective, limited, or asked for.
FURTHER = ("memory",)
#: What the names of latencies begin with.
LATENCY = "latency."
DIRECTIONS = ("max", "min")


@dataclass(frozen=True, slots=True)
class Objective:
    """A measure and the better direction, written ``accuracy:max``."""

    name: str
    direction: str

    def __str__(self) -> str:
        return f"{self.name}:{self.direction}"


def parse_objectives(text: str, known: Sequence[str] | None = (*NAMES, *FURTHER)) -> tuple[Objective, ...]:
    """Read ``accuracy:max,flops:min``; ``known`` are the measures that may be optimised, None for any.

    Raises :class:`ConfigError`, which lists the known names, for an unknown name or direction, a malformed part, or a
    measure that occurs twice.
    """
    objectives = tuple(_parse(part.strip(), known) for part in text.split(","))
    names = [o.name for o in objectives]
    if len(set(names)) < len(names):
        raise ConfigError(f"each measure may be an objective once, got {text!r}")
    return objectives


def _parse(part: str, known: Sequence[str] | None) -> Objective:
    name, colon, direction = part.partition(":")
    if known is not None and name not in known:
        raise ConfigError(
            f"unknown objective {name!r}; known are {', '.join(known)} (write e.g. accuracy:max,flops:min)"
            f"{did_you_mean(name, known)}"
        )
    if not colon or direction not in DIRECTIONS:
        raise ConfigError(f"objective {part!r} needs a direction, {name}:max or {name}:min")
    return Objective(name, direction)


def minimised(
    values: Float64[np.ndarray, "g k"], objectives: Sequence[Objective], names: Sequence[str] = NAMES
) -> Float64[np.ndarray, "g m"]:
    """The objectives' columns of measures called ``names``, negated where larger is better.

    Only this function changes signs.
    """
    signs = np.array([-1.0 if o.direction == "max" else 1.0 for o in objectives])
    points: Float64[np.ndarray, "g m"] = values[:, [names.index(o.name) for o in objectives]] * signs
    return points
