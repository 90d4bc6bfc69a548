"""Lines of least squares: what puts any score on the scale of accuracies."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

_ALIKE = 1e-9  # scores within this share of their size are the same


def line(x: Float64[np.ndarray, " g"], y: Float64[np.ndarray, " g"]) -> tuple[float, float]:
    """Slope and intercept of least squares of ``y`` on ``x``; level where nothing in ``x`` differs."""
    level, x_level = float(y.mean()), float(x.mean())
    away = x - x_level
    if np.abs(away).max() <= _ALIKE * (1 + abs(x_level)):
        return 0.0, level
    slope = float(away @ (y - level) / (away @ away))
    return slope, level - slope * x_level
