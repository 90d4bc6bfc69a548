"""What lies beyond the labels is brought closer to them, and doubted more."""

from __future__ import annotations

import numpy as np
import pytest

from gennape.predictors.few_shot.extrapolation import LabelTrend, label_trend
from gennape.predictors.few_shot.gaussian_process import GPInputs, fit_process
from gennape.predictors.few_shot.structure import SIZES


def inputs(n, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (n,), (n, len(SIZES)), (n, 3), (n, 4), (n, 2)
    return GPInputs(*(rng.normal(size=shape) for shape in shapes))


def test_by_hand():
    trend = LabelTrend(level=1.0, slope=0.0, deviation=2.0)
    mean, spread = trend.tempered(inputs(4), np.array([1.0, 3.0, 9.0, -7.0]), np.array([0.3, 0.3, 1.0, 4.0]))
    # 9 lies 8 above the level and 6 beyond one deviation; 1^2 / 2^2 of that goes. -7 is too uncertain.
    assert mean == pytest.approx([1, 3, 7.5, -7])
    assert spread == pytest.approx([0.3, 0.3, np.hypot(1, 0.75), 4])


def test_the_order_at_equal_cost_and_deviation_stays():
    some = inputs(50)
    some.sizes[:, SIZES.index("FLOPs")] = 1.0
    values = np.sort(np.random.default_rng(1).normal(0, 5, 50))
    mean, _ = LabelTrend(0.0, 1.0, 1.0).tempered(some, values, np.full(50, 0.5))
    assert (np.diff(mean) > 0).all()


def test_the_trend_is_that_of_the_labels():
    known = inputs(30)
    flops = known.sizes[:, SIZES.index("FLOPs")]
    trend = label_trend(fit_process(known, 3 + 2 * flops))
    assert trend.slope == pytest.approx(2, abs=0.3)
    assert trend.level == pytest.approx(3, abs=0.3)


def test_labels_of_one_cost_have_no_slope():
    known = inputs(10)
    known.sizes[:] = 0.5
    assert label_trend(fit_process(known, np.linspace(0, 1, 10))).slope == pytest.approx(0)
