"""The regression target: accuracy relative to FLOPs, standardised (GENNAPE, Eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from gennape.predictors.bounds import Finite, Scale


@dataclass(frozen=True, slots=True)
class FlopsTarget:
    """y = (accuracy / (log10(GFLOPs + 1) + 1) - mean) / deviation, with the statistics of the training family."""

    mean: Finite
    deviation: Scale

    def transform(
        self, accuracy: Float64[np.ndarray, " g"], flops: Int64[np.ndarray, " g"]
    ) -> Float64[np.ndarray, " g"]:
        """Accuracies in percent to targets."""
        return (accuracy / flops_scale(flops) - self.mean) / self.deviation

    def unit(self, flops: Int64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
        """Percent of accuracy per unit of target, network by network."""
        return self.deviation * flops_scale(flops)

    def invert(self, target: Float64[np.ndarray, " g"], flops: Int64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
        """Targets to accuracies in percent."""
        return (target * self.deviation + self.mean) * flops_scale(flops)


def fit_target(accuracy: Float64[np.ndarray, " g"], flops: Int64[np.ndarray, " g"]) -> FlopsTarget:
    """The transform whose targets have mean 0 and deviation 1 on these networks."""
    ratio = accuracy / flops_scale(flops)
    return FlopsTarget(float(ratio.mean()), float(max(ratio.std(), 1e-12)))


def flops_scale(flops: Int64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
    """log10(GFLOPs + 1) + 1: what an accuracy is divided by."""
    return np.log10(flops / 1e9 + 1) + 1
