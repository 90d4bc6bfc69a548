"""What every predictor offers: graphs in, accuracies and memberships out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.stats import norm

from gennape.errors import InvalidDataError
from gennape.search_spaces.graphs.graph import PackedGraphs


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row per graph: ``accuracy`` [g] in percent; ``memberships`` [g, c] in the fuzzy clusters, summing to 1;
    ``deviation`` [g] in percent, how uncertain the accuracy is, NaN where unknown, or None where a predictor does not
    tell; ``calibration`` [g], which calibration of the predictor an accuracy is on the scale of, -1 for none, or None
    where it has none; ``heads`` [g] each, what heads that share the encoder predict, such as latencies, by their
    names."""

    accuracy: Float64[np.ndarray, " g"]
    memberships: Float64[np.ndarray, "g c"]
    deviation: Float64[np.ndarray, " g"] | None = None
    heads: Mapping[str, Float64[np.ndarray, " g"]] | None = None
    calibration: Int64[np.ndarray, " g"] | None = None

    def lower(self, quantile: float = 0.16) -> Float64[np.ndarray, " g"]:
        """The accuracies [g] that are reached with probability ``1 - quantile``, by normal errors; NaN where the
        deviation is unknown."""
        if self.deviation is None:
            return np.full(len(self.accuracy), np.nan)
        return self.accuracy + float(norm.ppf(quantile)) * self.deviation


class Predictor(ABC):
    """Predicts the accuracy of networks from their computation graphs alone."""

    #: SHA-256 of the weights and settings: names the predictor in every result.
    sha256: str

    @abstractmethod
    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Predict accuracies. The row of a graph does not depend on the other graphs in the set.

        Args:
            graphs: The networks, g of them.

        Returns:
            One row per graph.

        Raises:
            InvalidGraphError: A graph holds no nodes.
        """

    def rank(self, graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
        """Indices of the graphs, the best first; equal predictions keep their order."""
        return np.argsort(-self.predict(graphs).accuracy, kind="stable")


class TunablePredictor(Predictor):
    """A predictor that learns from a few labels, and tells where networks lie."""

    @abstractmethod
    def fit(self, graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"]) -> TunablePredictor:
        """Fine-tune this predictor on labelled networks of a search space.

        Earlier calls are forgotten, and no labels restore the zero-shot predictor. Equal labels give equal predictions,
        bit for bit. ``copy.copy`` beforehand keeps the untuned predictor.

        Args:
            graphs: The labelled networks, g of them.
            accuracy: float64 [g], in percent.

        Returns:
            This predictor.

        Raises:
            InvalidDataError: Labels do not match the graphs or are not finite.
        """

    @abstractmethod
    def embed(self, graphs: PackedGraphs) -> Float64[np.ndarray, "g d"]:
        """Embeddings: networks that are alike lie close together."""


def check_labels(graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"]) -> None:
    """Raise :class:`InvalidDataError` unless there is one label per graph, in percent."""
    if len(accuracy) != len(graphs):
        raise InvalidDataError(f"{len(accuracy)} labels for {len(graphs)} networks; give one accuracy per network")
    bad = ~np.isfinite(accuracy)
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        raise InvalidDataError(f"label {where} is {accuracy[where]}; leave out networks without an accuracy")
    outside = (accuracy < 0) | (accuracy > 100)
    if outside.any():
        where = int(np.flatnonzero(outside)[0])
        raise InvalidDataError(f"label {where} is {accuracy[where]:.6g}; accuracies are in percent, 0 to 100")
