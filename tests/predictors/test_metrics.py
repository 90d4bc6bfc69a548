from __future__ import annotations

import math
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.integrate import quad
from scipy.stats import lognorm, norm

from gennape.predictors.metrics import (
    coverage,
    crps,
    figures,
    kendall_tau,
    log_normal_crps,
    log_spread,
    mae,
    mape,
    ndcg,
    srcc,
    top_k_overlap,
    top_k_regret,
    uncertainty_figures,
)

# Accuracies and predictions on a coarse grid, so that ties of either side, and of both, are common.
_PERCENT = st.integers(0, 40).map(lambda i: 90 + i * 0.005)
_ROWS = st.integers(2, 30).flatmap(lambda n: st.tuples(*(arrays.arrays(np.float64, n, elements=_PERCENT),) * 2))


def test_srcc_by_hand() -> None:
    # Ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8
    assert srcc(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0, 40.0, 30.0])) == pytest.approx(0.8)


def test_a_constant_ranks_nothing() -> None:
    assert srcc(np.array([1.0, 2.0]), np.array([3.0, 3.0])) == 0.0


def test_mae_by_hand() -> None:
    assert mae(np.array([90.0, 92.0]), np.array([91.0, 89.0])) == 2.0


def test_kendall_tau_by_hand() -> None:
    accuracy = np.array([93.0, 92.0, 91.0, 90.995])
    predicted = np.array([5.0, 7.0, 5.0, 6.0])
    # The last two differ by less than 0.01 percent. Of the other pairs 0-1 and 0-3 are wrong, 0-2 ties and counts.
    assert kendall_tau(accuracy, predicted) == pytest.approx((3 - 2) / 5)
    assert kendall_tau(accuracy, predicted, 0.001) == pytest.approx((3 - 3) / 6)
    assert kendall_tau(accuracy, predicted, 1.002) == pytest.approx((2 - 1) / 3)  # pairs 0-2, 0-3, 1-3


def test_kendall_tau_counts_a_difference_of_just_the_least() -> None:
    assert kendall_tau(np.array([90.0, 90.01]), np.array([1.0, 2.0])) == 1.0
    assert kendall_tau(np.array([90.0, 90.0099]), np.array([1.0, 2.0])) == 0.0  # no pair to count


def test_kendall_tau_without_filter_counts_equal_accuracies_in_the_order_of_rows() -> None:
    assert kendall_tau(np.array([90.0, 90.0]), np.array([1.0, 2.0]), 0.0) == -1.0
    assert kendall_tau(np.array([90.0, 90.0]), np.array([2.0, 1.0]), 0.0) == 1.0


def _published(accuracy: list[int], predicted: list[int], least: int) -> float:
    """The definition of the papers, pair by pair, on whole numbers of 1e-4 percent."""
    rows = sorted(zip(accuracy, predicted, strict=True), key=lambda row: -row[0])
    signs = [1 if p >= q else -1 for (a, p), (b, q) in combinations(rows, 2) if least == 0 or a - b >= least]
    return sum(signs) / len(signs) if signs and len(set(predicted)) > 1 else 0.0


@given(_ROWS, st.sampled_from([0, 50, 100, 1000]))
def test_kendall_tau_is_the_published_one(rows: tuple[np.ndarray, np.ndarray], least: int) -> None:
    accuracy, predicted = ([round(value * 1e4) for value in side] for side in rows)
    assert kendall_tau(*rows, least / 1e4) == pytest.approx(_published(accuracy, predicted, least))


def test_kendall_tau_of_many_rows_needs_little_memory() -> None:
    rng = np.random.default_rng(0)
    accuracy = rng.normal(90, 3, 10_000)
    kendall_tau(accuracy[:9], accuracy[:9])
    tracemalloc.start()
    assert kendall_tau(accuracy, accuracy) == 1.0
    assert kendall_tau(accuracy, -accuracy) == -1.0
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40e6  # all pairs at once would be 100 MB of bytes


def test_ndcg_by_hand() -> None:
    accuracy = np.array([90.0, 95.0, 100.0])  # relevance 0, 10, 20
    discount = [1, 1 / math.log2(3), 1 / 2]
    best = 20 * discount[0] + 10 * discount[1]
    assert ndcg(accuracy, np.array([1.0, 3.0, 2.0]), 0) == pytest.approx((10 * discount[0] + 20 * discount[1]) / best)
    assert ndcg(accuracy, np.array([1.0, 3.0, 2.0]), 1) == pytest.approx(10 / 20)
    # The first two places are shared by relevances 0 and 20.
    shared = (10 * (discount[0] + discount[1]) + 10 * discount[2]) / best
    assert ndcg(accuracy, np.array([2.0, 1.0, 2.0]), 0) == pytest.approx(shared)
    assert ndcg(accuracy, accuracy, 2) == pytest.approx(1.0)


def test_mape_by_hand() -> None:
    assert mape(np.array([100.0, 50.0]), np.array([90.0, 60.0])) == pytest.approx(15.0)
    assert mape(np.array([0.0, 50.0]), np.array([0.0, 60.0])) == pytest.approx(10.0)
    assert mape(np.array([0.0, 50.0]), np.array([1.0, 60.0])) == math.inf


def test_top_k_by_hand() -> None:
    accuracy = np.array([90.0, 91.0, 92.0, 93.0, 94.0])
    predicted = np.array([5.0, 1.0, 4.0, 3.0, 2.0])
    assert top_k_overlap(accuracy, predicted, 3) == pytest.approx(2 / 3)  # 90, 92, 93 against 92, 93, 94
    assert [top_k_regret(accuracy, predicted, k) for k in (1, 2, 3, 4, 9)] == [4.0, 2.0, 1.0, 0.0, 0.0]
    assert top_k_overlap(accuracy, predicted, 9) == 1.0


def test_a_constant_prediction_finds_the_worst() -> None:
    accuracy = np.array([95.0, 94.0, 93.0, 92.0])  # sorted as some published files are
    assert top_k_overlap(accuracy, np.zeros(4), 2) == 0.0
    assert top_k_regret(accuracy, np.zeros(4), 2) == 2.0
    assert kendall_tau(accuracy, np.zeros(4)) == 0.0


@given(_ROWS, st.randoms(use_true_random=False))
def test_no_figure_depends_on_the_order_of_rows(rows: tuple[np.ndarray, np.ndarray], random: object) -> None:
    order = list(range(len(rows[0])))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert figures(rows[0][order], rows[1][order]) == pytest.approx(figures(*rows))


def test_scores_of_another_scale_count_by_their_order_alone() -> None:
    accuracy = np.array([90.0, 91.0, 92.0, 93.0])
    score = np.array([1e-9, 3e-9, 2e-9, 4e-9])  # all alike when rounded to 1e-4
    found = figures(accuracy, score, percent=False)
    expected = figures(accuracy, np.array([90.0, 92.0, 91.0, 93.0]))
    assert {*expected} - {*found} == {"mae", "mape"}
    assert found == {name: expected[name] for name in found}
    assert found["kendall_tau"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_are_answered(rows: int) -> None:
    found = figures(np.full(rows, 90.0), np.full(rows, 91.0))
    assert found["rows"] == rows
    for name in ("srcc", "kendall_tau", "ndcg_10"):
        assert found[name] == 0.0 if rows else math.isnan(found[name])
    assert found["mae"] == 1.0 if rows else math.isnan(found["mae"])
    assert found["regret_1"] == 0.0 if rows else math.isnan(found["regret_1"])


def test_constant_labels_are_answered() -> None:
    found = figures(np.full(3, 90.0), np.array([1.0, 2.0, 3.0]))
    assert (found["srcc"], found["kendall_tau"], found["ndcg_10"], found["regret_1"]) == (0.0, 0.0, 0.0, 0.0)


def test_what_is_no_number_is_not_hidden() -> None:
    good, bad = np.array([90.0, 91.0, 92.0]), np.array([90.0, np.nan, 92.0])
    for pair in ((good, bad), (bad, good)):
        found = figures(*pair)
        assert found.pop("rows") == 3
        assert all(math.isnan(value) for value in found.values())
        for measure in (kendall_tau, ndcg, mape):
            assert math.isnan(measure(*pair))
        for measure in (top_k_overlap, top_k_regret):
            assert math.isnan(measure(*pair, 1))


def test_an_infinite_prediction_is_ranked_but_errs_without_end() -> None:
    found = figures(np.array([90.0, 91.0, 92.0]), np.array([-np.inf, 91.0, np.inf]))
    assert (found["srcc"], found["kendall_tau"], found["mae"]) == (pytest.approx(1.0), 1.0, np.inf)


# Uncertainty ----------------------------------------------------------------------------------------------------------


def test_coverage_by_hand() -> None:
    # Half of a normal lies within 0.674 deviations of its mean, 90 % within 1.645: tables of the normal distribution.
    error, deviation = np.array([0.0, 0.67, -0.68, 1.64, -1.65]), np.ones(5)
    predicted = np.full(5, 90.0)
    assert coverage(predicted + error, predicted, deviation, 50.0) == pytest.approx(100 * 2 / 5)
    assert coverage(predicted + error, predicted, deviation, 90.0) == pytest.approx(100 * 4 / 5)
    assert coverage(predicted + 10 * error, predicted, 10 * deviation, 50.0) == pytest.approx(100 * 2 / 5)
    # Who is certain has to be right.
    assert coverage(np.array([90.0, 91.0]), np.array([90.0, 90.0]), np.zeros(2), 90.0) == 50.0


def _integral(distribution: object, actual: float) -> float:
    """The definition: the integral of (F(x) - [x >= actual])^2."""
    low, high = distribution.ppf(1e-12), distribution.ppf(1 - 1e-12)  # type: ignore[attr-defined]
    below = quad(lambda x: distribution.cdf(x) ** 2, min(low, actual), actual, limit=200)[0]  # type: ignore[attr-defined]
    above = quad(lambda x: distribution.sf(x) ** 2, actual, max(high, actual), limit=200)[0]  # type: ignore[attr-defined]
    return float(below + above)


@pytest.mark.parametrize(("actual", "mean", "deviation"), [(90.0, 90.0, 1.0), (91.5, 90.0, 1.0), (88.0, 90.0, 0.7)])
def test_crps_is_its_integral(actual: float, mean: float, deviation: float) -> None:
    found = crps(np.array([actual]), np.array([mean]), np.array([deviation]))
    assert found == pytest.approx(_integral(norm(mean, deviation), actual), rel=1e-6)


def test_crps_by_hand() -> None:
    # At the mean: the integral of 2 F^2 over the lower half is (sqrt 2 - 1) / sqrt pi deviations.
    centre = (math.sqrt(2) - 1) / math.sqrt(math.pi)
    here = np.array([90.0, 90.0])
    assert crps(here, here, np.array([1.0, 3.0])) == pytest.approx(2 * centre)
    # Without deviation it is the absolute error: 1 and 3, and 0 where there is none.
    assert crps(np.array([91.0, 87.0, 90.0]), np.full(3, 90.0), np.zeros(3)) == pytest.approx(4 / 3)


@pytest.mark.parametrize(("actual", "median", "spread"), [(2.0, 2.0, 0.5), (3.0, 2.0, 0.2), (0.5, 2.0, 1.0)])
def test_log_normal_crps_is_its_integral(actual: float, median: float, spread: float) -> None:
    found = log_normal_crps(np.array([actual]), np.array([median]), np.array([spread]))
    assert found == pytest.approx(_integral(lognorm(spread, scale=median), actual), rel=1e-5)


def test_log_normal_crps_without_spread_is_the_absolute_error() -> None:
    found = log_normal_crps(np.array([2.0, 3.0, 0.5]), np.full(3, 2.0), np.zeros(3))
    assert found == pytest.approx((0 + 1 + 1.5) / 3)


@given(st.floats(0.01, 100), st.floats(1e-4, 2))
def test_spread_of_logarithms_follows_from_median_and_deviation(median: float, spread: float) -> None:
    deviation = lognorm(spread, scale=median).std()
    assert log_spread(np.array([median]), np.array([deviation])) == pytest.approx([spread], rel=1e-5)


def test_uncertainty_figures_by_hand() -> None:
    predicted, deviation = np.full(4, 90.0), np.array([1.0, 1.0, 2.0, 4.0])
    actual = predicted + np.array([0.5, 1.0, 4.0, -4.0])  # 0.5, 1, 2 and 1 deviations away
    found = uncertainty_figures(actual, predicted, deviation)
    assert list(found) == ["coverage_50", "coverage_90", "deviation", "crps"]
    assert (found["coverage_50"], found["coverage_90"], found["deviation"]) == (25, 75, 2)
    # The same of logarithms, where one deviation is a factor of e^spread; a factor of 1.5 is 0.81 spreads of 0.5.
    median, spread = np.full(4, 10.0), np.full(4, 0.5)
    factors = lognorm(0.5, scale=10.0)
    latency = median * np.array([1.1, 1 / 1.1, 1.5, 3.0])
    logs = uncertainty_figures(latency, median, np.full(4, factors.std()), log_normal=True)
    assert (logs["coverage_50"], logs["coverage_90"]) == (50, 75)
    assert logs["deviation"] == pytest.approx(factors.std())
    assert logs["crps"] == pytest.approx(log_normal_crps(latency, median, spread))


def test_who_knows_its_errors_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    deviation = rng.uniform(0.1, 2, 20_000)
    found = uncertainty_figures(rng.normal(90, deviation), np.full(20_000, 90.0), deviation)
    assert (found["coverage_50"], found["coverage_90"]) == (pytest.approx(50, abs=1.5), pytest.approx(90, abs=1))
    # The mean of the score over the distribution itself is its deviation over sqrt pi.
    assert found["crps"] == pytest.approx(deviation.mean() / math.sqrt(math.pi), rel=0.02)


@pytest.mark.parametrize("log_normal", [False, True])
def test_deviations_that_are_no_numbers_are_not_hidden(log_normal: bool) -> None:
    good, bad = np.array([1.0, 2.0]), np.array([1.0, np.nan])
    for three in ((good, good, bad), (good, bad, good), (good[:0],) * 3):
        found = uncertainty_figures(*three, log_normal)
        assert all(math.isnan(found[name]) for name in ("coverage_50", "coverage_90", "crps"))
