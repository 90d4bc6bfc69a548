"""Verification metrics: how well predictions agree with the accuracies of trained networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.stats import t as student

from gennape.predictors.metrics import kendall_tau, srcc, top_k_regret


@dataclass(frozen=True, slots=True)
class TrainedAccuracies:
    """Accuracies of trained networks, percent: means over trainings, how many trainings, and their spread.

    ``deviation`` is of one training, pooled over all networks that were trained more than once (which assumes that
    networks of one study are equally noisy); nan where none was, and ``freedom`` is then 0.
    """

    mean: Float64[np.ndarray, " n"]
    trainings: Int64[np.ndarray, " n"]
    deviation: float
    freedom: int

    def margin(self, i: int, j: int, confidence: float = 0.95) -> float:
        """Half the width of the interval around the difference of two means, percent; nan where noise is unknown."""
        if self.freedom == 0:
            return float("nan")
        error = self.deviation * np.sqrt(1 / self.trainings[i] + 1 / self.trainings[j])
        return float(student.ppf((1 + confidence) / 2, self.freedom) * error)


def trained_accuracies(network: Int64[np.ndarray, " t"], accuracy: Float64[np.ndarray, " t"]) -> TrainedAccuracies:
    """Mean accuracies and noise, from trainings of networks 0 .. n-1, at least one of each."""
    trainings = np.bincount(network)
    mean = np.bincount(network, accuracy) / trainings
    freedom = len(network) - len(trainings)
    squares = float(((accuracy - mean[network]) ** 2).sum())
    return TrainedAccuracies(mean, trainings, float(np.sqrt(squares / freedom)) if freedom else float("nan"), freedom)


def verification_metrics(found: TrainedAccuracies, predicted: Float64[np.ndarray, " n"]) -> dict[str, float]:
    """Agreement of the predicted order: Kendall's tau and SRCC of all networks, and the regret of the predicted best.

    ``regret`` [percent]: best mean accuracy minus that of the network predicted best. ``noise``: deviation of one
    training [percent]. ``pairs_apart``: how many pairs differ by more than their 95 % margin; ``tau_apart``: tau over
    these alone, equal predictions counting 0, nan without any.
    """
    figures = {
        "kendall_tau": kendall_tau(found.mean, predicted, 0.0),
        "srcc": srcc(found.mean, predicted),
        "regret": top_k_regret(found.mean, predicted, 1),
        "noise": found.deviation,
    }
    first, second = np.triu_indices(len(found.mean), 1)
    margins = np.array([found.margin(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True)])
    apart = found.mean[first] - found.mean[second]
    distinct = np.abs(apart) > margins
    agreed = np.sign(apart[distinct]) * np.sign(predicted[first] - predicted[second])[distinct]
    return figures | {
        "pairs_apart": float(distinct.sum()),
        "tau_apart": float(agreed.mean()) if len(agreed) else float("nan"),
    }


def dominates(
    found: TrainedAccuracies, flops: Int64[np.ndarray, " n"], baseline: int
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Masks of networks with at most the baseline's FLOPs and a higher accuracy: in the mean, and beyond its margin."""
    cheaper = flops <= flops[baseline]
    gain = found.mean - found.mean[baseline]
    margins = np.array([found.margin(i, baseline) for i in range(len(gain))])
    return cheaper & (gain > 0), cheaper & (gain > margins)
