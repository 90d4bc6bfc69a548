from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gennape.predictors.ensemble.calibration import Curve
from gennape.predictors.ensemble.least_squares import line

_NUMBERS = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))


def test_between_and_beyond_the_knots_by_hand() -> None:
    curve = Curve((0.0, 1.0, 4.0), (10.0, 20.0, 26.0))
    # Between: 10 + 10/2; 20 + 2 x 2. Width 4, height 16: one unit beyond the end t is 1, half of 16/4.
    found = curve(np.array([0.5, 3.0, 5.0, -1.0, 7.0]))
    np.testing.assert_allclose(found, [15, 24, 28, 8, 26 + 4 * 3 / 4])
    assert curve(np.array([1e12, -1e12])) == pytest.approx([30, 6])


def test_a_curve_of_no_width_is_level() -> None:
    np.testing.assert_array_equal(Curve((3.0, 3.0), (1.0, 2.0))(np.array([[2.0, 3.0, 1e9]])), [[1.5, 1.5, 1.5]])


@given(st.lists(_NUMBERS, min_size=2, max_size=6, unique=True), st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=9))
def test_rises_within_its_bounds_whatever_is_asked(knots: list[float], asked: list[float]) -> None:
    x = tuple(sorted(knots))
    y = tuple(float(i) for i in range(len(x)))
    found = Curve(x, y)(np.sort(asked))
    assert (np.diff(found) >= 0).all()
    assert found.min() >= -y[-1] / 4
    assert found.max() <= y[-1] * 5 / 4


def test_line_of_least_squares() -> None:
    # Means 1 and 4; slope (1 x 3 + 1 x 1) / 2.
    assert line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 6.0, 5.0])) == pytest.approx((2.0, 2.0))
    assert line(np.full(3, 1e9), np.array([1.0, 2.0, 6.0])) == (0.0, 3.0)
