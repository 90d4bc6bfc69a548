"""Bounded increasing curves, which map the scores of different members to one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from gennape.errors import CheckpointError
from gennape.predictors.bounds import Finite

#: How far a curve can extrapolate beyond its ends, as a share of its height.
_EXTRAPOLATION = 0.25


@dataclass(frozen=True, slots=True)
class Curve:
    """Piecewise linear between knots; beyond them it starts at the mean slope and approaches a bound.

    ``x`` ascend, at least two; ``y`` ascend or are all equal. Beyond the last knot, with height h = y_last - y_first
    and width w = x_last - x_first, y = y_last + h / 4 x t / (1 + t), t = 4 (x - x_last) / w: a score far outside the
    knots cannot dominate, but the order of scores is kept. A curve of zero width is constant at its mean height.
    """

    x: tuple[Finite, ...]
    y: tuple[Finite, ...]

    def check(self) -> None:
        """Raise :class:`CheckpointError` where the knots are not as they should be."""
        (x, y), size = (np.array(self.x), np.array(self.y)), len(self.x)
        rounding = 1e-9 * (1 + np.abs([*x, *y]).max(initial=0))
        if size < 2 or size != len(y) or (np.diff(x) < -rounding).any() or (np.diff(y) < -rounding).any():
            raise CheckpointError(
                f"a curve of the members has {size} and {len(y)} knots that must be as many and ascend, at least two; "
                "copy the checkpoint again"
            )

    def __call__(self, x: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Heights at ``x``."""
        height, width = self.y[-1] - self.y[0], self.x[-1] - self.x[0]
        if width <= 0:
            return np.full(x.shape, float(np.mean(self.y)))
        above, below = (np.maximum(away, 0) / (_EXTRAPOLATION * width) for away in (x - self.x[-1], self.x[0] - x))
        beyond = above / (1 + above) - below / (1 + below)
        return np.interp(x, self.x, self.y) + _EXTRAPOLATION * height * beyond
