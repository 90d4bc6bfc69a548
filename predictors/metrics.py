"""How well predictions rank and match labels, as the papers measure it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy.stats import spearmanr


def srcc(accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation, ties at their average rank; 0 where either side is constant."""
    if len(accuracy) < 2 or np.ptp(accuracy) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(spearmanr(accuracy, predicted).statistic)


def mae(accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> float:
    """Mean absolute error, in the unit of the accuracies (percent)."""
    return float(np.abs(accuracy - predicted).mean())
