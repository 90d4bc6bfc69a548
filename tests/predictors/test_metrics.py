from __future__ import annotations

import math
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gennape.predictors.metrics import (
    figures,
    kendall_tau,
    mae,
    mape,
    ndcg,
    srcc,
    top_k_overlap,
    top_k_regret,
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
