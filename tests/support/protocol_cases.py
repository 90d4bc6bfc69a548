"""Rows and methods whose figures are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from gennape.predictors.evaluation.protocol import (
    ALL,
    BenchmarkRows,
    Method,
)
from gennape.predictors.predictor import Prediction, Predictor, TunablePredictor
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.graph import PackedGraphs


def rows_of(accuracy: list[float], **changes: Any) -> BenchmarkRows:
    """Rows of as many different NAS-Bench-201 networks."""
    n = len(accuracy)
    genomes = np.array([[1 + (i >> b & 1) for b in range(6)] for i in range(n)])
    values = np.array(accuracy, np.float64)
    settings: dict[str, Any] = {"columns": {}, "subsets": {ALL: np.ones(n, bool)}, **changes}
    identity = [f"network {i}" for i in range(n)]
    return BenchmarkRows(
        "nb201", "nb201.csv.gz", "nb201", identity, family("nb201").graphs(genomes), values, **settings
    )


def method(name: str, scores: Any, **settings: Any) -> Method:
    return Method(name, lambda target, rng: np.asarray(scores(target, rng), np.float64), **settings)


ORACLE = method("oracle", lambda target, _: target.accuracy[target.test], calibrated=True)
TEN = [90.0, 91.0, 92.0, 93.0, 94.0, 80.0, 81.0, 82.0, 83.0, 84.0]


class ConstantPredictor(Predictor):
    """Predicts one accuracy: that it was made with."""

    sha256 = "0" * 64
    value = 50.0

    def predict(self, graphs: PackedGraphs) -> Prediction:
        return Prediction(np.full(len(graphs), self.value), np.ones((len(graphs), 1)))


class Mean(ConstantPredictor, TunablePredictor):
    """Predicts the mean accuracy of what it was fitted on."""

    def fit(self, graphs: PackedGraphs, accuracy: np.ndarray) -> Mean:
        assert len(graphs) == len(accuracy)
        self.value = float(accuracy.mean())
        return self

    def embed(self, graphs: PackedGraphs) -> np.ndarray:
        return np.zeros((len(graphs), 1))
