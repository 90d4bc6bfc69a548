"""What every predictor offers: graphs in, accuracies and memberships out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from gennape.search_spaces.graph import PackedGraphs


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row per graph: ``accuracy`` [g] in percent; ``memberships`` [g, c] in the fuzzy clusters, summing to 1."""

    accuracy: Float64[np.ndarray, " g"]
    memberships: Float64[np.ndarray, "g c"]


class Predictor(ABC):
    """Predicts the accuracy of networks from their computation graphs alone."""

    #: SHA-256 of the weights and settings: names the predictor in every result.
    sha256: str

    @abstractmethod
    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Predict; a graph's row does not depend on which other graphs are in the set.

        Raises :class:`gennape.errors.InvalidGraphError` when a graph holds no nodes.
        """
