from __future__ import annotations

import numpy as np

from gennape.predictors.target import FlopsTarget, fit_target


def test_by_hand() -> None:
    # 9 GFLOPs: log10(9 + 1) + 1 = 2; (90 / 2 - 40) / 2 = 2.5
    target = FlopsTarget(mean=40.0, deviation=2.0)
    flops = np.array([9_000_000_000])
    assert target.transform(np.array([90.0]), flops).tolist() == [2.5]
    assert target.invert(np.array([2.5]), flops).tolist() == [90.0]
    assert target.unit(flops).tolist() == [4.0]


def test_standardises_and_inverts() -> None:
    rng = np.random.default_rng(0)
    accuracy, flops = rng.uniform(80, 95, 50), rng.integers(10**8, 10**10, 50)
    target = fit_target(accuracy, flops)
    y = target.transform(accuracy, flops)
    np.testing.assert_allclose([y.mean(), y.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(target.invert(y, flops), accuracy)
