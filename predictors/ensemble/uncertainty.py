"""Uncertainty of an ensemble, from the disagreement of its members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float64
from pydantic import Field

from gennape.predictors.bounds import Scale

_MIN_DEVIATION = 1e-3  # percent, or whatever the labels are in: no prediction is surer than this


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """deviation = factor x sqrt(spread^2 + floor^2), the spread being the weighted standard deviation of the members.

    The floor is the root mean square of the spread where the factor was learnt: members may agree by chance.
    """

    factor: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    floor: Scale

    def __call__(self, spread: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
        """Standard deviations of the error, in the labels' unit."""
        return np.maximum(self.factor * np.sqrt(spread**2 + self.floor**2), _MIN_DEVIATION)


def learn_uncertainty(spread: Float64[np.ndarray, " g"], error: Float64[np.ndarray, " g"]) -> Uncertainty:
    """The factor of greatest likelihood, if errors are normal, of networks that no member learnt from."""
    floor = max(float(np.sqrt((spread**2).mean())), _MIN_DEVIATION)
    return Uncertainty(float(np.sqrt((error**2 / (spread**2 + floor**2)).mean())), floor)


def weighted_spread(
    predictions: Float64[np.ndarray, "m g"], weights: Float64[np.ndarray, " m"]
) -> Float64[np.ndarray, " g"]:
    """Weighted standard deviation over members, whose ``weights`` sum to 1."""
    return np.sqrt(weights @ (predictions - weights @ predictions) ** 2)
