from __future__ import annotations

import numpy as np
import pytest
import torch

from gennape.errors import InvalidDataError
from gennape.predictors.encoder.in_distribution import InDistribution
from gennape.predictors.few_shot.scaling_law import _COLUMNS, _STRENGTH, ScalingLaw, fit_scaling_law
from gennape.predictors.few_shot.structure import STRUCTURE


def _structures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, len(STRUCTURE))) + 5


def test_accuracy_is_bounded_and_follows_the_score() -> None:
    law = ScalingLaw((1.0, -2.0, 0.0), 4.0, 0.5)
    row = np.zeros((3, len(STRUCTURE)))
    row[:, _COLUMNS[0]], row[:, _COLUMNS[1]] = [2.0, 2.0, 1e4], [0.5, 0.0, 0.0]
    assert law.score(row).tolist() == [1.0, 2.0, 1e4]
    np.testing.assert_allclose(law.accuracy(row), [100 - np.exp(3.5), 100 - np.exp(3.0), 100.0])
    row[:, _COLUMNS[0]] = -1e4
    assert law.accuracy(row).tolist() == [0, 0, 0]


def test_weights_lie_between_what_labels_tell_and_the_prior() -> None:
    """Of terms of deviation 1, normal scores (2 t0 - t2) / sqrt(5) are met in the measure of 1 to the strength."""
    x = _structures(2000)
    score = 2 * x[:, _COLUMNS[0]] - x[:, _COLUMNS[2]]
    law = fit_scaling_law(x, 100 - np.exp(3 - 0.2 * score))
    told = np.array([2, 0, -1]) / np.sqrt(5)
    expected = (told + _STRENGTH * np.array([1.0, 0, 0])) / (1 + _STRENGTH)
    np.testing.assert_allclose(law.weights, expected, atol=0.03)
    assert law.decay > 0


def test_without_a_trend_the_prior_is_left() -> None:
    x = _structures(4000)
    law = fit_scaling_law(x, np.random.default_rng(1).uniform(80, 95, 4000))
    np.testing.assert_allclose(law.weights, [_STRENGTH / (1 + _STRENGTH), 0, 0], atol=0.05)


@pytest.mark.parametrize("accuracy", [np.zeros(0), np.array([80.0, 90.0]), np.full(5, 80.0)])
def test_labels_that_tell_nothing_are_refused(accuracy: np.ndarray) -> None:
    with pytest.raises(InvalidDataError, match="three networks of different accuracy"):
        fit_scaling_law(_structures(len(accuracy)), accuracy)


def test_in_distribution_is_what_lies_as_the_training_does() -> None:
    """In a narrow cloud along one axis, one step across is stranger than three along."""
    rng = np.random.default_rng(0)
    seen = torch.from_numpy(rng.normal(size=(5000, 2)) * [3.0, 0.1]).float()
    score = InDistribution(2)
    assert score(seen).tolist() == [1.0] * 5000  # untrained
    score.fit(seen)
    weight = score(torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 1.0], [30.0, 0.0]]))
    assert weight.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert 0.985 < float((score(seen) == 1).float().mean()) < 0.995
    step = torch.tensor([[1.0, 0.0]])
    edge = score.radius / score.distance(score.mean + step)
    assert float(score(score.mean + 1.5 * edge * step)) == pytest.approx(0.5, abs=1e-4)
