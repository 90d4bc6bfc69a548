"""What a prediction says beside its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from gennape.predictors.predictor import Prediction

MEMBERSHIPS = np.ones((3, 1))


def test_the_lower_accuracy_is_a_quantile_of_a_normal_distribution() -> None:
    prediction = Prediction(np.array([70.0, 80.0, 90.0]), MEMBERSHIPS, np.array([0.5, 2.0, np.nan]))
    lower = prediction.lower(0.1587)
    assert lower[:2] == pytest.approx([69.5, 78.0], abs=1e-3)  # one deviation below
    assert np.isnan(lower[2])
    assert prediction.lower(0.5)[:2] == pytest.approx([70, 80])


def test_without_deviations_it_is_unknown() -> None:
    assert np.isnan(Prediction(np.array([70.0, 80.0, 90.0]), MEMBERSHIPS).lower()).all()
