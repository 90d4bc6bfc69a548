"""The protocol of evaluation: draws, what methods are asked, and figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_cases import ORACLE, TEN, method, rows_of

from gennape.errors import InvalidDataError
from gennape.predictors.evaluation.protocol import (
    ALL,
    FINE_TUNED,
    MILLISECONDS,
    ZERO_SHOT,
    Estimates,
    Method,
    MethodFigures,
    Plan,
    Target,
    calls,
    draw_labelled,
    measure,
    summarise,
)

# Which rows are labelled ----------------------------------------------------------------------------------------------


@given(st.permutations([f"{i:x}" for i in range(20)]), st.integers(0, 5), st.integers(0, 20))
def test_draws_depend_on_the_identities_and_the_seed_alone(order: list[str], seed: int, n: int) -> None:
    drawn = [order[i] for i in draw_labelled(order, seed, n)]
    plain = [f"{i:x}" for i in range(20)]
    assert drawn == [plain[i] for i in draw_labelled(plain, seed, n)]
    assert len(set(drawn)) == n


def test_draws_differ_between_seeds_and_grow_with_the_number_of_labels() -> None:
    names = [str(i) for i in range(500)]
    draws = {tuple(draw_labelled(names, seed, 20)) for seed in range(5)}
    assert len(draws) == 5
    assert draw_labelled(names, 0, 50)[:20].tolist() == draw_labelled(names, 0, 20).tolist()
    # Each of 500 rows comes first in 2,000 draws as often as any other: half of them are from the first half.
    first = np.array([draw_labelled(names, seed, 1)[0] for seed in range(200)])
    assert 60 < (first < 250).sum() < 140


def test_more_labels_than_rows_are_refused() -> None:
    with pytest.raises(InvalidDataError, match="3 rows are too few to label 4"):
        draw_labelled(["a", "b", "c"], 0, 4)


# What methods are asked -----------------------------------------------------------------------------------------------


def test_all_methods_see_the_same_rows_and_none_is_tested_on_labels() -> None:
    asked: dict[str, list[Target]] = {"first": [], "second": []}

    def scorer(name: str) -> Any:
        def scores(target: Target, _: np.random.Generator) -> Any:
            asked[name].append(target)
            return target.accuracy[target.test]

        return scores

    rows, plan = rows_of(TEN), Plan(labels=3, seeds=(0, 1, 4))
    methods = [method(name, scorer(name), learns=True) for name in asked]
    outcome = measure(rows, methods, plan)
    for first, second in zip(*asked.values(), strict=True):
        assert first.labelled.tolist() == second.labelled.tolist()
        assert sorted([*first.labelled, *first.test]) == list(range(10))
        assert first.graphs is rows.graphs
    assert [len(target.labelled) for target in asked["first"]] == [0, 3, 3, 3]
    assert [(m.setting, m.labels, m.seed, m.rows) for m in outcome.measurements if m.method == "first"] == [
        (ZERO_SHOT, 0, 0, 10),
        *((FINE_TUNED, 3, seed, 7) for seed in (0, 1, 4)),
    ]


def test_a_method_that_does_not_learn_is_asked_once_and_measured_on_the_same_rows_as_others() -> None:
    asked = []

    def scores(target: Target, _: np.random.Generator) -> Any:
        asked.append(target.test.tolist())
        return target.accuracy[target.test]

    plan, told = Plan(labels=3, seeds=(0, 1)), []
    methods = [method("cost", scores), method("tuned only", scores, settings=(FINE_TUNED,))]
    outcome = measure(rows_of(TEN), methods, plan, told.append)
    assert asked == [list(range(10))] * 2
    assert [m.rows for m in outcome.measurements] == [10, 7, 7, 7, 7]
    assert len(told) == calls(rows_of(TEN), methods, plan) == 5
    kept = outcome.scores[FINE_TUNED, "cost", 1]
    assert np.isnan(kept[draw_labelled(rows_of(TEN).identity, 1, 3)]).all()
    assert np.isfinite(kept).sum() == 7


def test_random_numbers_repeat_and_differ_between_methods_and_seeds() -> None:
    def noise(target: Target, rng: np.random.Generator) -> Any:
        return rng.random(len(target.test))

    plan = Plan(labels=2, seeds=(0, 1))
    methods = [method("a", noise, learns=True), method("b", noise, learns=True)]
    once, again = (measure(rows_of(TEN), methods, plan).scores for _ in range(2))
    assert all(np.array_equal(once[key], again[key], equal_nan=True) for key in once)
    assert len({float(np.nansum(scores)) for scores in once.values()}) == len(once) == 6


@pytest.mark.parametrize(("changes", "labels"), [({"tuned": False}, 3), ({}, 9), ({}, 0)])
def test_without_rows_to_tune_on_there_is_zero_shot_only(changes: dict[str, Any], labels: int) -> None:
    outcome = measure(rows_of(TEN, **changes), [ORACLE], Plan(labels))
    assert {m.setting for m in outcome.measurements} == {ZERO_SHOT}


def test_scores_of_another_number_of_rows_are_refused() -> None:
    with pytest.raises(InvalidDataError, match=r"short gave scores of shape \(2,\) for 10 rows"):
        measure(rows_of(TEN), [method("short", lambda *_: np.zeros(2))], Plan())


# Figures --------------------------------------------------------------------------------------------------------------


def test_figures_are_of_the_subset_and_errors_only_of_calibrated_scores() -> None:
    high = np.array(TEN) >= 90
    rows = rows_of(TEN, subsets={ALL: np.ones(10, bool), "high": high, "one": np.arange(10) == 0})
    # Two too high and in the wrong order among the high ones, right among the low ones.
    wrong = method("wrong", lambda t, _: np.where(high, 186 - t.accuracy, t.accuracy)[t.test], calibrated=True)
    flat = method("raw", lambda t, _: np.where(high, -t.accuracy, t.accuracy)[t.test])
    found = {(m.method, m.subset): m for m in measure(rows, [wrong, flat], Plan(0)).measurements}
    assert set(found) == {(name, subset) for name in ("wrong", "raw") for subset in (ALL, "high")}
    assert found["wrong", "high"].figures["srcc"] == pytest.approx(-1)
    # |186 - 2a| for 90 .. 94 is 6, 4, 2, 0, 2.
    assert found["wrong", "high"].figures["mae"] == pytest.approx(14 / 5)
    assert found["wrong", ALL].figures["mae"] == pytest.approx(14 / 10)
    # The predicted best is the worst of the high ones: 94 - 90.
    assert found["wrong", ALL].figures["regret_1"] == pytest.approx(4)
    assert found["raw", "high"].figures["srcc"] == pytest.approx(-1)
    assert "mae" not in found["raw", ALL].figures


def test_rows_without_a_score_do_not_count() -> None:
    some = method("some", lambda t, _: np.where(t.test < 4, t.accuracy[t.test], np.nan))
    none = method("none", lambda t, _: np.full(len(t.test), np.nan))
    (found,) = measure(rows_of(TEN), [some, none], Plan(0)).measurements
    assert (found.method, found.rows, found.figures["srcc"]) == ("some", 4, pytest.approx(1))


def test_deviations_are_measured_on_the_rows_of_the_subset() -> None:
    # Errors of 1 everywhere; the deviation is 1 among the low ones, 10 among the high.
    high = np.array(TEN) >= 90
    rows = rows_of(TEN, subsets={ALL: np.ones(10, bool), "high": high})

    def unsure(target: Target, _: np.random.Generator) -> Estimates:
        return Estimates(target.accuracy[target.test] + 1, np.where(high, 10.0, 1.0)[target.test])

    outcome = measure(rows, [Method("unsure", unsure, calibrated=True), ORACLE], Plan(3, (0,)))
    found = {(m.method, m.setting, m.subset): m.figures for m in outcome.measurements}
    zero = found["unsure", ZERO_SHOT, ALL]
    # One deviation is outside of the interval of 50 % and inside that of 90 %; a tenth is inside of both.
    assert (zero["coverage_50"], zero["coverage_90"], zero["deviation"]) == (50, 100, pytest.approx(5.5))
    assert zero["mae"] == pytest.approx(1)
    assert found["unsure", ZERO_SHOT, "high"]["coverage_50"] == 100
    assert "crps" not in found["oracle", ZERO_SHOT, ALL]
    labelled = draw_labelled(rows.identity, 0, 3)
    deviations = outcome.deviations[FINE_TUNED, "unsure", 0]
    assert np.isnan(deviations[labelled]).all()
    assert np.delete(deviations, labelled).tolist() == np.delete(np.where(high, 10.0, 1.0), labelled).tolist()
    assert {method for _, method, _ in outcome.deviations} == {"unsure"}


def test_deviations_of_latencies_are_of_log_normals() -> None:
    rows = rows_of([1.0, 10.0, 100.0, 1000.0], unit=MILLISECONDS)

    def unsure(target: Target, _: np.random.Generator) -> Estimates:
        # The logarithm has a deviation of 1, so that of the latency is the median times sqrt(e (e - 1)).
        median = target.accuracy * np.exp([0.5, -0.6, 0.7, -2.0])
        return Estimates(median[target.test], (median * np.sqrt(np.e * (np.e - 1)))[target.test])

    (found,) = measure(rows, [Method("unsure", unsure, calibrated=True)], Plan(0)).measurements
    assert (found.figures["coverage_50"], found.figures["coverage_90"]) == (50, 75)
    assert {"mape", "deviation", "crps"} <= set(found.figures)


def test_summary_tells_mean_and_spread_over_seeds() -> None:
    values = {0: 0.5, 1: 0.6, 2: 0.7}
    common = ("nb201", "nb201.csv.gz", "nb201", ALL, FINE_TUNED, 50, "gennape")
    tuned = [MethodFigures(*common, seed, 100 - seed, {"srcc": value}) for seed, value in values.items()]
    zero = MethodFigures(*common[:4], ZERO_SHOT, 0, "flops", 0, 150, {"srcc": 0.4})
    first, second = summarise([*tuned, zero]).to_dict("records")
    assert (first["setting"], first["seeds"], first["rows"]) == (FINE_TUNED, 3, 98)
    assert first["srcc"] == pytest.approx(0.6)
    assert first["srcc_sd"] == pytest.approx(0.1)  # squares 0.01 + 0 + 0.01 over 3 - 1
    assert (second["method"], second["seeds"], second["srcc"]) == ("flops", 1, 0.4)
    assert np.isnan(second["srcc_sd"])
