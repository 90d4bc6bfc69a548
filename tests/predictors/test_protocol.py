"""The protocol of evaluation: draws, what methods are asked, figures, rows of files, and the published table."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gennape.errors import InvalidDataError
from gennape.predictors.checkpoint import identity_numbers
from gennape.predictors.evaluation_rows import (
    BENCHMARKS,
    Benchmark,
    build_rows,
    computed_proxies,
    learnt_families,
    present_benchmarks,
    read_rows,
    with_proxies,
)
from gennape.predictors.fuzzy_ensemble import Fitted, FuzzyEnsemble
from gennape.predictors.members.ensemble import MemberEnsemble
from gennape.predictors.members.registry import ABLATIONS
from gennape.predictors.members.view import View
from gennape.predictors.methods import (
    ENSEMBLE_METHODS,
    cost_methods,
    curve_methods,
    member_methods,
    methods_for,
    predictor_method,
    proxy_methods,
)
from gennape.predictors.predictor import Prediction, Predictor, TunablePredictor
from gennape.predictors.protocol import (
    ALL,
    FINE_TUNED,
    MILLISECONDS,
    ZERO_SHOT,
    BenchmarkRows,
    Estimates,
    Measurement,
    Method,
    Plan,
    Target,
    calls,
    draw_labelled,
    measure,
    summarise,
)
from gennape.predictors.published_results import PUBLISHED
from gennape.search_spaces.cost import flops
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graph import PackedGraphs

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def rows_of(accuracy: list[float], **changes: Any) -> BenchmarkRows:
    """Rows of as many different NAS-Bench-201 networks."""
    n = len(accuracy)
    genomes = np.array([[1 + (i >> b & 1) for b in range(6)] for i in range(n)])
    values = np.array(accuracy, np.float64)
    settings: dict[str, Any] = {"columns": {}, "subsets": {ALL: np.ones(n, bool)}, **changes}
    identity = [f"network {i}" for i in range(n)]
    return BenchmarkRows(
        "nb201", "nb201.csv.gz", "nb201", identity, family("nb201").graphs(genomes), values, **settings
    )


def method(name: str, scores: Any, **settings: Any) -> Method:
    return Method(name, lambda target, rng: np.asarray(scores(target, rng), np.float64), **settings)


ORACLE = method("oracle", lambda target, _: target.accuracy[target.test], calibrated=True)
TEN = [90.0, 91.0, 92.0, 93.0, 94.0, 80.0, 81.0, 82.0, 83.0, 84.0]


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
    tuned = [Measurement(*common, seed, 100 - seed, {"srcc": value}) for seed, value in values.items()]
    zero = Measurement(*common[:4], ZERO_SHOT, 0, "flops", 0, 150, {"srcc": 0.4})
    first, second = summarise([*tuned, zero]).to_dict("records")
    assert (first["setting"], first["seeds"], first["rows"]) == (FINE_TUNED, 3, 98)
    assert first["srcc"] == pytest.approx(0.6)
    assert first["srcc_sd"] == pytest.approx(0.1)  # squares 0.01 + 0 + 0.01 over 3 - 1
    assert (second["method"], second["seeds"], second["srcc"]) == ("flops", 1, 0.4)
    assert np.isnan(second["srcc_sd"])


# Methods --------------------------------------------------------------------------------------------------------------


class Constant(Predictor):
    """Predicts one accuracy: that it was made with."""

    sha256 = "0" * 64
    value = 50.0

    def predict(self, graphs: PackedGraphs) -> Prediction:
        return Prediction(np.full(len(graphs), self.value), np.ones((len(graphs), 1)))


class Mean(Constant, TunablePredictor):
    """Predicts the mean accuracy of what it was fitted on."""

    def fit(self, graphs: PackedGraphs, accuracy: np.ndarray) -> Mean:
        assert len(graphs) == len(accuracy)
        self.value = float(accuracy.mean())
        return self

    def embed(self, graphs: PackedGraphs) -> np.ndarray:
        return np.zeros((len(graphs), 1))


def test_a_predictor_is_fitted_anew_for_each_seed() -> None:
    predictor, rows = Mean(), rows_of(TEN)
    outcome = measure(rows, [predictor_method("mean", predictor)], Plan(4, (0, 1)))
    assert predictor.value == 50
    assert outcome.scores[ZERO_SHOT, "mean", 0].tolist() == [50] * 10
    for seed in (0, 1):
        labelled = draw_labelled(rows.identity, seed, 4)
        scores = outcome.scores[FINE_TUNED, "mean", seed]
        assert np.delete(scores, labelled) == pytest.approx(rows.accuracy[labelled].mean())


class Unsure(Mean):
    """Knows how uncertain it is once fitted."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        known = super().predict(graphs)
        return known if self.value == 50 else Prediction(known.accuracy, known.memberships, np.full(len(graphs), 2.0))


def test_deviations_of_a_predictor_are_measured_once_it_tells_them() -> None:
    outcome = measure(rows_of(TEN), [predictor_method("unsure", Unsure())], Plan(4, (0,)))
    zero, tuned = (m.figures for m in outcome.measurements)
    assert "deviation" not in zero
    assert tuned["deviation"] == 2
    assert set(outcome.deviations) == {(FINE_TUNED, "unsure", 0)}


def test_a_point_of_a_curve_is_what_the_protocol_finds_with_so_many_labels() -> None:
    rows, mean = rows_of(TEN), Mean()
    methods = curve_methods({"constant": Constant(), "mean": mean})
    for labels in (2, 4):
        plan, told = Plan(labels, (0, 1)), []
        whole, point = measure(rows, [predictor_method("mean", mean)], plan), measure(rows, methods, plan, told.append)
        assert len(told) == calls(rows, methods, plan) == 2
        assert point.measurements == [m for m in whole.measurements if m.setting == FINE_TUNED]
        assert [m.labels for m in point.measurements] == [labels] * 2
    assert measure(rows, methods, Plan(9)).measurements == []  # too few rows to test


def test_a_predictor_that_cannot_be_fitted_is_measured_zero_shot_only() -> None:
    outcome = measure(rows_of(TEN), [predictor_method("constant", Constant())], Plan(3))
    assert {m.setting for m in outcome.measurements} == {ZERO_SHOT}


def test_cost_and_columns_are_methods() -> None:
    known = np.where(np.arange(10) < 6, 1.0, np.nan)
    rows = rows_of(TEN, columns={"synflow": known, "empty": np.full(10, np.nan)})
    names = [m.name for m in methods_for(rows, {"gennape": Constant()})]
    assert names == ["gennape", "flops", "params", "synflow"]
    outcome = measure(rows, [*cost_methods(), *proxy_methods(rows.columns)], Plan(0))
    assert outcome.scores[ZERO_SHOT, "flops", 0].tolist() == flops(rows.graphs).tolist()
    assert {m.method: m.rows for m in outcome.measurements} == {"flops": 10, "params": 10, "synflow": 6}


@pytest.fixture
def ensemble(fitted: Fitted) -> FuzzyEnsemble:
    return FuzzyEnsemble(fitted, "0" * 64)


def many() -> BenchmarkRows:
    """Forty rows whose labels follow nothing."""
    return rows_of(np.random.default_rng(5).uniform(80, 94, 40).tolist())


@pytest.fixture
def tunings(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The labels of every fine-tuning of an ensemble so far."""
    seen: list[list[float]] = []
    tuned = MemberEnsemble.tuned

    def counted(self: MemberEnsemble, view: View, accuracy: np.ndarray, rng: np.random.Generator) -> MemberEnsemble:
        seen.append(accuracy.tolist())
        return tuned(self, view, accuracy, rng)

    monkeypatch.setattr(MemberEnsemble, "tuned", counted)
    return seen


def test_members_have_names_of_their_own(ensemble: FuzzyEnsemble) -> None:
    names = [m.name for m in methods_for(many(), {"gennape": ensemble}, member_methods(ensemble))]
    assert names == ["gennape", *ENSEMBLE_METHODS, "flops", "params"]
    assert len(set(names)) == len(names)


def test_the_papers_ensemble_is_that_of_the_members(ensemble: FuzzyEnsemble) -> None:
    """Each method against its own ensemble, asked by hand."""
    rows, plan = many(), Plan(10, (3,))
    outcome = measure(rows, member_methods(ensemble), plan)
    view = ensemble.view(rows.graphs)
    tuned = (FINE_TUNED, 3, draw_labelled(rows.identity, 3, 10))
    for setting, seed, labelled in ((ZERO_SHOT, 0, np.arange(0)), tuned):
        learnt, rng = (view.take(labelled), rows.accuracy[labelled]), np.random.default_rng(labelled)
        six = ensemble.members.tuned(*learnt, rng) if len(labelled) else ensemble.members
        expected = {"six_members": six.predict(view)[0]}
        expected |= {f"six_members {name}": six.without(out).predict(view)[0] for name, out in ABLATIONS.items()}
        expected |= {m.name if m.name != "flops" else "flops_line": m.predict(view) for m in six.members}
        assert set(expected) == set(ENSEMBLE_METHODS)
        for name, accuracy in expected.items():
            scores = outcome.scores[setting, name, seed]
            assert np.isnan(scores[labelled]).all()
            np.testing.assert_allclose(np.delete(scores, labelled), np.delete(accuracy, labelled), atol=2e-6)
        deviation = outcome.deviations[setting, "six_members", seed]
        np.testing.assert_array_equal(np.delete(deviation, labelled), np.delete(six.predict(view)[1], labelled))
    assert {name for _, name, _ in outcome.deviations} == {"six_members"}
    assert all("mae" in m.figures for m in outcome.measurements)


def test_members_are_tuned_once_a_question(ensemble: FuzzyEnsemble, tunings: list[list[float]]) -> None:
    rows, plan, told = many(), Plan(5, (0, 1)), []
    methods = member_methods(ensemble)
    measure(rows, methods, plan, told.append)
    assert tunings == [[], *(rows.accuracy[draw_labelled(rows.identity, seed, 5)].tolist() for seed in (0, 1))]
    assert len(told) == calls(rows, methods, plan) == 3 * len(ENSEMBLE_METHODS)


def test_what_was_tuned_is_not_taken_for_another_question(ensemble: FuzzyEnsemble, tunings: list[list[float]]) -> None:
    rows, other = many(), many()
    labelled, rest = np.arange(5), np.arange(10, 40)
    target = Target("nb201", rows.graphs, rows.accuracy, {}, rest, labelled)
    questions = [
        target,
        replace(target, accuracy=150 - rows.accuracy),
        replace(target, labelled=labelled + 1),
        replace(target, graphs=other.graphs),
        replace(target, labelled=labelled[:0]),
    ]
    first, last = member_methods(ensemble)[0], member_methods(ensemble)[-1]
    for question in questions:
        first.scores(question, np.random.default_rng(0))
    assert [len(labels) for labels in tunings] == [5, 5, 5, 5, 0]
    # Other rows to test are the same question.
    first.scores(replace(questions[-1], test=rest[:3]), np.random.default_rng(0))
    assert len(tunings) == 5
    # Predictors, and lists of methods, share nothing.
    last.scores(questions[-1], np.random.default_rng(0))
    assert len(tunings) == 6


def test_answers_of_members_depend_on_neither_order_nor_company(ensemble: FuzzyEnsemble) -> None:
    rows, plan = many(), Plan(10, (0,))
    every = measure(rows, member_methods(ensemble), plan).scores
    backwards = measure(rows, member_methods(ensemble)[::-1], plan).scores
    alone = measure(rows, [m for m in member_methods(ensemble) if m.name == "k_gnn"], plan).scores
    assert backwards.keys() == every.keys()
    assert len(alone) == 2
    for found in (backwards, alone):
        assert all(np.array_equal(scores, every[key], equal_nan=True) for key, scores in found.items())


def test_no_more_than_the_last_question_is_kept(ensemble: FuzzyEnsemble) -> None:
    rows, methods = many(), member_methods(ensemble)
    before = weakref.ref(rows.accuracy)
    measure(rows, methods, Plan(0))
    rows = many()
    measure(rows, methods, Plan(0))
    gc.collect()
    assert before() is None


# Rows of files --------------------------------------------------------------------------------------------------------


def write_nb201(path: Path, genomes: np.ndarray, accuracy: np.ndarray, **columns: Any) -> None:
    names = [family("nb201").encode(genome) for genome in genomes]
    pd.DataFrame({"arch": names, "c10_test200": accuracy, **columns}).to_csv(path, index=False)


NB201 = next(benchmark for benchmark in BENCHMARKS if benchmark.name == "nb201")


def test_cells_with_none_do_not_count_and_equal_ones_count_once(tmp_path: Path) -> None:
    genomes = np.array([[1] * 6, [0] + [1] * 5, [2] * 6, [1] * 6])
    write_nb201(tmp_path / NB201.file, genomes, np.array([91.0, 92.0, 93.0, 90.0]))
    rows = read_rows(tmp_path, NB201, ())
    assert sorted(rows.labels.accuracy) == [90, 93]
    assert rows.left_out == {"not counted by the papers": 1, "the same architecture again": 1}
    assert rows.tuned


def test_nothing_depends_on_the_order_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    genomes = rng.integers(1, 5, (60, 6))
    accuracy, synflow = rng.uniform(80, 94, 60), rng.random(60)
    found = []
    for order in (np.arange(60), rng.permutation(60)):
        write_nb201(tmp_path / NB201.file, genomes[order], accuracy[order], synflow=synflow[order])
        built = build_rows(read_rows(tmp_path, NB201, ()))
        found.append([m.figures for m in measure(built, methods_for(built, {"m": Mean()}), Plan(5)).measurements])
    assert found[0] == found[1]


def test_rows_that_may_have_been_trained_on_do_not_count(tmp_path: Path) -> None:
    genomes = np.array([[1 + (i >> 2 * b & 3) for b in range(6)] for i in range(300)])
    write_nb201(tmp_path / NB201.file, genomes, np.linspace(80, 94, 300))
    assert len(read_rows(tmp_path, NB201, {"nb301"}).labels.accuracy) == 300
    held_out = read_rows(tmp_path, NB201, {"nb201", "nb101"})
    # Buckets 0 to 9 of 100.
    assert {int(identity[:8], 16) % 100 for identity in held_out.labels.identity} <= set(range(10))
    assert len(held_out.labels.accuracy) + held_out.left_out["may have been trained on"] == 300
    assert not held_out.tuned


def test_what_a_checkpoint_names_as_learnt_does_not_count_and_all_else_does(tmp_path: Path) -> None:
    genomes = np.array([[1 + (i >> 2 * b & 3) for b in range(6)] for i in range(300)])
    write_nb201(tmp_path / NB201.file, genomes, np.linspace(80, 94, 300))
    every = read_rows(tmp_path, NB201, ()).labels.identity
    rows = read_rows(tmp_path, NB201, {"nb201"}, np.sort(identity_numbers(every[:40])))
    assert rows.labels.identity == every[40:]


def test_families_that_a_checkpoint_learnt() -> None:
    assert learnt_families({"family": "nb101"}) == {"nb101"}
    assert learnt_families({"families": ["nb101", "nb201"]}) == {"nb101", "nb201"}
    assert learnt_families({}) == frozenset()


def test_resolutions_and_failures_are_subsets(tmp_path: Path) -> None:
    space = family("ofa_resnet")
    genomes = np.unique(space.sample(np.random.default_rng(0), 40), axis=0)
    table = {"architecture": [json.dumps(space.encode(g)) for g in genomes], "acc": np.linspace(70, 90, len(genomes))}
    pd.DataFrame(table).to_csv(tmp_path / "ofa_resnet.csv.gz", index=False)
    rows = build_rows(read_rows(tmp_path, Benchmark("r", "ofa_resnet.csv.gz", "ofa_resnet", "acc"), ()))
    masks = [mask for name, mask in rows.subsets.items() if name.startswith("resolution")]
    assert list(rows.subsets) == [ALL, "resolution 192", "resolution 208", "resolution 224"]
    assert np.sum(masks, axis=0).tolist() == [1] * len(genomes)


def test_rows_with_all_proxies_are_a_subset() -> None:
    one, two = np.array([1.0] * 8 + [np.nan] * 2), np.array([np.nan] + [1.0] * 9)
    rows = with_proxies(rows_of(TEN), {"one": one})
    assert rows.subsets["with proxies"].tolist() == [True] * 8 + [False] * 2
    assert with_proxies(rows, {"two": two}).subsets["with proxies"].tolist() == [False] + [True] * 7 + [False] * 2
    assert set(with_proxies(rows_of(TEN), {"whole": np.ones(10)}).subsets) == {ALL}


def test_proxies_are_computed_on_a_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    # Computing them is tested elsewhere; these cost nothing.
    proxies = {name: lambda _, images, __: float(len(images)) for name in ("synflow", "jacov", "params")}
    monkeypatch.setattr("gennape.predictors.evaluation_rows.COMPUTED", proxies)
    rows, told = rows_of(TEN, columns={"synflow": np.ones(10)}), []
    found = computed_proxies(rows, 1, np.random.default_rng(0), lambda: told.append(1))
    assert set(found) == {"synflow (computed)", "jacov"}  # parameters are counted on all rows anyhow
    assert len(told) == 1
    (row,) = draw_labelled(rows.identity, 0, 10)[-1:]
    assert {tuple(np.flatnonzero(np.isfinite(column))) for column in found.values()} == {(row,)}


def test_folder_without_a_known_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"holds none of \['nb101.csv.gz'"):
        present_benchmarks(tmp_path)


def test_a_file_without_its_column_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"arch": [family("nb201").encode(np.ones(6, np.int64))], "other": [1.0]}).to_csv(
        tmp_path / NB201.file, index=False
    )
    with pytest.raises(InvalidDataError, match="'c10_test200'"):
        read_rows(tmp_path, NB201, ())


# Published figures ----------------------------------------------------------------------------------------------------


def test_published_figures_are_told_once() -> None:
    keys = [(p.family, p.setting, p.labels, p.method, p.figure) for p in PUBLISHED]
    assert len(set(keys)) == len(keys)
    assert all((p.labels == 0) == (p.setting == ZERO_SHOT) for p in PUBLISHED)


_Key = tuple[str, str, int, str, str]


def _of_the_papers(anchors: dict[str, Any]) -> dict[_Key, float]:
    """All figures of the tables of accuracies, by family, setting, labels, method and figure."""
    paper, general = anchors["gennape_aaai23"], anchors["general_predictor_sdm23"]
    zero, tuned = (ZERO_SHOT, 0), (FINE_TUNED, 50)
    table1, table4 = paper["table1_srcc_zero_cost_and_flops"], paper["table4_mae_percent_finetuned50"]
    pairs = [(method, setting) for method in ("k_gnn", "gennape") for setting in (zero, tuned)]
    columns = [
        ("srcc", table1, [(method, zero) for method in table1["columns"]]),
        ("mae", {f: v for f, v in table4.items() if f != "nb101"}, [(method, tuned) for method in table4["columns"]]),
        ("srcc", paper["table5_srcc"], pairs),
        ("ndcg_10", paper["table6_ndcg_at_10"], pairs),
    ]
    found = {
        (name, *setting, method, figure): value
        for figure, table, heads in columns
        for name in set(table) - {"columns"}
        for (method, setting), value in zip(heads, table[name], strict=True)
    }
    # What table 4 says of the family trained on is what table 3 says: no labels of it are left to fine-tune on.
    table3 = paper["table3_nb101_mae_percent_and_srcc"]
    assert table4["nb101"] == [table3[method][0] for method in table4["columns"]]
    for method, values in table3.items():
        found |= {("nb101", *zero, method, f): value for f, value in zip(("mae", "srcc"), values, strict=True)}
    held_out = general["table1_srcc_target_family_held_out"]
    for name, labels in general["finetune_labels"].items():
        for head, value in zip(held_out["columns"], held_out[name], strict=True):
            learns = {"gnn_finetune": "general_gnn", "cl_finetune": "general_cl"}.get(head)
            key = (name, *((FINE_TUNED, labels, learns) if learns else (*zero, head)), "srcc")
            assert found.get(key, value) == value
            found[key] = value
    return found


def test_published_figures_are_those_of_the_papers() -> None:
    path = SHARED / "anchors" / "published_results.json"
    if not path.is_file():
        pytest.skip("needs the published figures, which are not part of this repository")
    found = {(p.family, p.setting, p.labels, p.method, p.figure): p.value for p in PUBLISHED}
    assert found == _of_the_papers(json.loads(path.read_text()))
