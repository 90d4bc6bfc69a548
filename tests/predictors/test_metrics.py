from __future__ import annotations

import numpy as np
import pytest

from gennape.predictors.metrics import mae, srcc


def test_srcc_by_hand() -> None:
    # Ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8
    assert srcc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0, 40.0, 30.0])) == pytest.approx(0.8)


def test_a_constant_ranks_nothing() -> None:
    assert srcc(np.array([1.0, 2.0]), np.array([3.0, 3.0])) == 0.0


def test_mae_by_hand() -> None:
    assert mae(np.array([90.0, 92.0]), np.array([91.0, 89.0])) == 2.0
