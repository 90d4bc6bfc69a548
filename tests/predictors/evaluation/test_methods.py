"""Predictors, cost and columns as methods of the protocol, and the members beside them."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from protocol_cases import TEN, ConstantPredictor, Mean, rows_of

from gennape.predictors.ensemble.ensemble import MemberEnsemble
from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.registry import ABLATIONS
from gennape.predictors.evaluation.methods import (
    ENSEMBLE_METHODS,
    cost_methods,
    curve_methods,
    member_methods,
    methods_for,
    predictor_method,
    proxy_methods,
)
from gennape.predictors.evaluation.protocol import (
    FINE_TUNED,
    ZERO_SHOT,
    BenchmarkRows,
    Plan,
    Target,
    calls,
    draw_labelled,
    measure,
)
from gennape.predictors.model.fuzzy_ensemble import Fitted, FuzzyEnsemble
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.graphs.graph import PackedGraphs


def test_a_predictor_is_fitted_anew_for_each_seed() -> None:
    predictor, rows = Mean(), rows_of(TEN)
    outcome = measure(rows, [predictor_method("mean", predictor)], Plan(4, (0, 1)))
    assert predictor.value == 50
    assert outcome.scores[ZERO_SHOT, "mean", 0].tolist() == [50] * 10
    for seed in (0, 1):
        labelled = draw_labelled(rows.identity, seed, 4)
        scores = outcome.scores[FINE_TUNED, "mean", seed]
        assert np.delete(scores, labelled) == pytest.approx(rows.accuracy[labelled].mean())


class _Unsure(Mean):
    """Knows how uncertain it is once fitted."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        known = super().predict(graphs)
        return known if self.value == 50 else Prediction(known.accuracy, known.memberships, np.full(len(graphs), 2.0))


def test_deviations_of_a_predictor_are_measured_once_it_tells_them() -> None:
    outcome = measure(rows_of(TEN), [predictor_method("unsure", _Unsure())], Plan(4, (0,)))
    zero, tuned = (m.figures for m in outcome.measurements)
    assert "deviation" not in zero
    assert tuned["deviation"] == 2
    assert set(outcome.deviations) == {(FINE_TUNED, "unsure", 0)}


def test_a_point_of_a_curve_is_what_the_protocol_finds_with_so_many_labels() -> None:
    rows, mean = rows_of(TEN), Mean()
    methods = curve_methods({"constant": ConstantPredictor(), "mean": mean})
    for labels in (2, 4):
        plan, told = Plan(labels, (0, 1)), []
        whole, point = measure(rows, [predictor_method("mean", mean)], plan), measure(rows, methods, plan, told.append)
        assert len(told) == calls(rows, methods, plan) == 2
        assert point.measurements == [m for m in whole.measurements if m.setting == FINE_TUNED]
        assert [m.labels for m in point.measurements] == [labels] * 2
    assert measure(rows, methods, Plan(9)).measurements == []  # too few rows to test


def test_a_predictor_that_cannot_be_fitted_is_measured_zero_shot_only() -> None:
    outcome = measure(rows_of(TEN), [predictor_method("constant", ConstantPredictor())], Plan(3))
    assert {m.setting for m in outcome.measurements} == {ZERO_SHOT}


def test_cost_and_columns_are_methods() -> None:
    known = np.where(np.arange(10) < 6, 1.0, np.nan)
    rows = rows_of(TEN, columns={"synflow": known, "empty": np.full(10, np.nan)})
    names = [m.name for m in methods_for(rows, {"gennape": ConstantPredictor()})]
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

    def counted(
        self: MemberEnsemble, encoded: EncodedGraphs, accuracy: np.ndarray, rng: np.random.Generator
    ) -> MemberEnsemble:
        seen.append(accuracy.tolist())
        return tuned(self, encoded, accuracy, rng)

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
    encoded = ensemble.encode(rows.graphs)
    tuned = (FINE_TUNED, 3, draw_labelled(rows.identity, 3, 10))
    for setting, seed, labelled in ((ZERO_SHOT, 0, np.arange(0)), tuned):
        learnt, rng = (encoded.take(labelled), rows.accuracy[labelled]), np.random.default_rng(labelled)
        six = ensemble.members.tuned(*learnt, rng) if len(labelled) else ensemble.members
        expected = {"six_members": six.predict(encoded)[0]}
        expected |= {f"six_members {name}": six.without(out).predict(encoded)[0] for name, out in ABLATIONS.items()}
        expected |= {m.name if m.name != "flops" else "flops_line": m.predict(encoded) for m in six.members}
        assert set(expected) == set(ENSEMBLE_METHODS)
        for name, accuracy in expected.items():
            scores = outcome.scores[setting, name, seed]
            assert np.isnan(scores[labelled]).all()
            np.testing.assert_allclose(np.delete(scores, labelled), np.delete(accuracy, labelled), atol=2e-6)
        deviation = outcome.deviations[setting, "six_members", seed]
        np.testing.assert_array_equal(np.delete(deviation, labelled), np.delete(six.predict(encoded)[1], labelled))
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
