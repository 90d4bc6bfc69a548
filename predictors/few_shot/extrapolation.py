"""Regression to the mean for networks that are predicted better than any label suggests at their cost.

A search looks for the networks with the largest predictions, and so for the largest errors (the optimiser's curse,
Smith and Winkler, 2006). Fronts lie two and more deviations above what labelled networks of their FLOPs have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from gennape.predictors.few_shot.gaussian_process import GaussianProcess, GPInputs
from gennape.predictors.few_shot.structure import SIZES

_FLOPS = SIZES.index("FLOPs")
#: From how many deviations of the labels on, and how much of what is taken off counts as uncertain.
_BEYOND, _DOUBT = 1.0, 0.5
#: How uncertain a prediction may be, in deviations of the labels: from 1 on the labels are of other kinds of networks,
#: and tell nothing of what is too good; up to 1 less this number all is taken off.
_FADE = 0.3


@dataclass(frozen=True, slots=True)
class LabelTrend:
    """What a process says of the labelled networks by their FLOPs: a line, and the deviation around it."""

    level: float
    slope: float
    deviation: float

    def tempered(
        self, inputs: GPInputs, mean: Float64[np.ndarray, " g"], spread: Float64[np.ndarray, " g"]
    ) -> tuple[Float64[np.ndarray, " g"], Float64[np.ndarray, " g"]]:
        """Mean and deviation [g] of networks, with less of what lies beyond the labels, and more doubt about it.

        Of what lies beyond one deviation, the share is taken off that the variance of the prediction has in that of the
        labels, as if errors and accuracies beyond the labels were independent. Nothing changes within, nor where a
        prediction is as uncertain as the labels are spread: then they are labels of other kinds of networks.
        """
        above = mean - self.level - self.slope * inputs.sizes[:, _FLOPS]
        beyond = np.maximum(np.abs(above) - _BEYOND * self.deviation, 0)
        ratio = spread / max(self.deviation, 1e-12)
        taken = np.clip((1 - ratio) / _FADE, 0, 1) * ratio**2 * beyond
        return mean - np.sign(above) * taken, np.hypot(spread, _DOUBT * taken)


def label_trend(process: GaussianProcess) -> LabelTrend:
    """The trend of a fitted process's labels; flat where all have the same FLOPs."""
    labelled = process.labelled()
    fitted, x = process.predict(labelled)[0], labelled.sizes[:, _FLOPS]
    centred = x - x.mean()
    slope = float(centred @ fitted / max(float(centred @ centred), 1e-12))
    level = float(fitted.mean() - slope * x.mean())
    return LabelTrend(level, slope, float((fitted - level - slope * x).std()))
