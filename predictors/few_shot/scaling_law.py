"""The scaling law: how accuracy grows with a network's size, for search spaces without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # which imports scipy.stats when labels are fitted
from jaxtyping import Float64

from gennape.errors import InvalidDataError
from gennape.predictors.bounds import Finite, Scale
from gennape.predictors.few_shot.structure import STRUCTURE

#: Inputs of the law: size, the share of pools on a random walk, and the layers on the shortest path.
TERMS = ("size", "pools on a path", "shortest path in spatial layers")
_COLUMNS = [STRUCTURE.index(term) for term in TERMS]
#: Prior weights of the terms: one deviation of accuracy's rank per unit of size, nothing else.
_PRIOR_WEIGHTS = np.array([1.0, 0.0, 0.0])
#: Strength of that prior, as a share of the labels.
_STRENGTH = 0.4


@dataclass(frozen=True, slots=True)
class ScalingLaw:
    """accuracy = 100 - exp(level - decay x score) percent, score being the sum of ``weights`` x :data:`TERMS`.

    Errors of networks fall as powers of their size (Hestness et al., 2017). One family shows how fast, and what its
    layers add at equal size; the effect of resolution cannot be fitted on a family of one resolution: see
    ``structure``.
    """

    weights: tuple[Finite, Finite, Finite]
    level: Finite
    decay: Scale

    def score(self, structure: Float64[np.ndarray, "g s"]) -> Float64[np.ndarray, " g"]:
        """The unbounded score that networks are ranked by."""
        return structure[:, _COLUMNS] @ np.array(self.weights)

    def accuracy(self, structure: Float64[np.ndarray, "g s"]) -> Float64[np.ndarray, " g"]:
        """Percent, in the family and task that the law was fitted to; between 0 and 100."""
        return np.clip(100 - np.exp(np.minimum(self.level - self.decay * self.score(structure), 5)), 0, 100)


def fit_scaling_law(structure: Float64[np.ndarray, "g s"], accuracy: Float64[np.ndarray, " g"]) -> ScalingLaw:
    """The law of a labelled family.

    The weights come from a ridge regression of accuracy's normal scores, shrunk towards :data:`_PRIOR_WEIGHTS`, on
    standardised terms. It fits ranks, because a few failed trainings would otherwise dominate. Raises
    :class:`InvalidDataError` for fewer than three labels or labels that are all the same.
    """
    if len(accuracy) < 3 or np.ptp(accuracy) == 0:
        raise InvalidDataError(
            f"a scaling law needs three networks of different accuracy, got {len(accuracy)} networks"
        )
    terms = structure[:, _COLUMNS]
    deviation = np.maximum(terms.std(0), 1e-9)
    x = (terms - terms.mean(0)) / deviation
    y = scipy.stats.norm.ppf((scipy.stats.rankdata(accuracy) - 0.5) / len(accuracy))
    prior = _PRIOR_WEIGHTS * deviation
    gram = x.T @ x / len(x) + _STRENGTH * np.eye(len(TERMS))
    weights = (prior + np.linalg.solve(gram, x.T @ (y - x @ prior) / len(x))) / deviation
    slope, level = np.polyfit(terms @ weights, np.log(np.maximum(100 - accuracy, 0.1)), 1)
    first, second, third = (float(weight) for weight in weights)
    return ScalingLaw((first, second, third), float(level), float(max(-slope, 1e-6)))
