"""Answers of a served ensemble: predictions, which are computed in batches of requests, and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import GennapeError, ServiceError
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import PackedGraphs, concatenate, pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gennape.predictors.predictor import Predictor


class OverloadedError(ServiceError):
    """The service is at capacity. The same request may be sent again after ``retry_after_s`` seconds."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s)  # both, so that the error can be pickled
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class OutOfTimeError(ServiceError):
    """The answer did not arrive in time; the computation is abandoned."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A prediction, the SHA-256 of its checkpoint, and the number of graphs that were computed in the same batch."""

    prediction: Prediction
    sha256: str
    together: int


def answer_sets(predictor: Predictor, sets: Sequence[PackedGraphs]) -> list[Answer | GennapeError]:
    """Predict several sets in one batch. If the predictor refuses it, predict them one by one to find out which."""
    try:
        whole = predictor.predict(concatenate(sets))
    except GennapeError as error:
        return [error] if len(sets) == 1 else [answer_sets(predictor, [one])[0] for one in sets]
    together = len(whole.accuracy)
    ends = np.cumsum([len(one) for one in sets])[:-1]
    none = [None] * len(sets)
    deviations = none if whole.deviation is None else np.split(whole.deviation, ends)
    parted = {name: np.split(column, ends) for name, column in (whole.heads or {}).items()}
    heads = [{name: parts[i] for name, parts in parted.items()} or None for i in range(len(sets))]
    rows = zip(np.split(whole.accuracy, ends), np.split(whole.memberships, ends), deviations, heads, strict=True)
    return [Answer(Prediction(*row), predictor.sha256, together) for row in rows]


def joined(answers: Sequence[Answer]) -> Prediction:
    """Concatenate predictions. There are no deviations if any part has none."""
    predictions = [answer.prediction for answer in answers]
    deviations = [one.deviation for one in predictions if one.deviation is not None]
    return Prediction(
        np.concatenate([one.accuracy for one in predictions]),
        np.concatenate([one.memberships for one in predictions]),
        np.concatenate(deviations) if len(deviations) == len(predictions) else None,
        {name: np.concatenate([(one.heads or {})[name] for one in predictions]) for name in predictions[0].heads or {}}
        or None,
    )


def probe_graphs() -> PackedGraphs:
    """The small network for health checks."""
    b = GraphBuilder()
    x = b.relu(b.batchnorm(b.conv(b.input(3, 32, 32), 16, 3)))
    b.output(b.linear(b.mean(x), 10))
    return pack([b.build()])
