from __future__ import annotations

import numpy as np
import pytest

from gennape.predictors.few_shot import gaussian_process
from gennape.predictors.few_shot.gaussian_process import GPInputs, fit_process
from gennape.predictors.metrics import srcc


def _inputs(n: int, seed: int = 0) -> GPInputs:
    rng = np.random.default_rng(seed)
    sizes, paths, pooled, totals = (rng.normal(size=(n, columns)) for columns in (4, 3, 6, 5))
    return GPInputs(sizes @ [1.0, 0.5, 0, 0] * 3 + 90, sizes, paths, pooled, totals)


def _take(inputs: GPInputs, rows: slice) -> GPInputs:
    return inputs[rows]


def test_labels_that_the_prior_explains_are_met() -> None:
    inputs = _inputs(400)
    labels = 70 + 0.5 * (inputs.prior - 90)
    mean, deviation = fit_process(_take(inputs, slice(20)), labels[:20]).predict(_take(inputs, slice(20, 400)))
    np.testing.assert_allclose(mean, labels[20:], atol=0.2)
    assert (deviation < 0.5).all()


@pytest.mark.parametrize("column", ["sizes", "paths", "totals", "pooled"])
def test_what_the_prior_has_wrong_is_learnt_from_each_description(column: str) -> None:
    inputs = _inputs(500)
    described = getattr(inputs, column)
    labels = 80 + 2 * described[:, 2] - inputs.sizes[:, 0]
    process = fit_process(_take(inputs, slice(50)), labels[:50])
    assert srcc(labels[50:], process.predict(_take(inputs, slice(50, 500)))[0]) > 0.98
    assert srcc(labels[50:], inputs.prior[50:]) < 0


def test_far_away_the_deviation_is_larger() -> None:
    inputs = _inputs(60)
    labels = 80 + inputs.sizes[:, 2]
    process = fit_process(inputs, labels)
    far = GPInputs(*(column[:5] + 20 for column in inputs))
    assert (process.predict(far)[1] > 2 * process.predict(_take(inputs, slice(5)))[1]).all()


def test_a_network_is_answered_alike_in_any_company() -> None:
    inputs = _inputs(5000)
    process = fit_process(_take(inputs, slice(30)), 80 + inputs.sizes[:30, 1])
    whole = process.predict(inputs)[0]
    np.testing.assert_allclose(process.predict(_take(inputs, slice(4999, 5000)))[0], whole[4999:], rtol=1e-10)


@pytest.mark.parametrize("value", [85.0, 93.7, -2.3])
@pytest.mark.parametrize("n", [1, 3, 4, 10])
def test_labels_all_alike_are_answered_alike(n: int, value: float) -> None:
    """Also where a rounding error makes their deviation other than 0."""
    mean, deviation = fit_process(_inputs(n), np.full(n, value)).predict(_inputs(10, seed=1))
    np.testing.assert_allclose(mean, value, rtol=1e-6)
    assert np.isfinite(deviation).all()


@pytest.mark.parametrize("labels", [3, 5, 8])
def test_few_labels_do_not_reverse_the_prior(labels: int) -> None:
    """Of a prior that ranks by .87, and nothing else that tells of the labels."""
    found = []
    for seed in range(20):
        inputs, rng = _inputs(300, seed), np.random.default_rng([seed, 1])
        accuracy = inputs.prior + rng.normal(size=300) * inputs.prior.std() / 2
        process = fit_process(_take(inputs, slice(labels)), accuracy[:labels])
        found.append(srcc(accuracy[labels:], process.predict(_take(inputs, slice(labels, 300)))[0]))
    assert min(found) > 0.75, found


def test_all_of_many_labels_are_learnt_from_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters are found by some of the labels only; these must not depend on the order, nor the others be lost."""
    monkeypatch.setattr(gaussian_process, "_MAX_TUNING_LABELS", 60)
    monkeypatch.setattr(gaussian_process, "_ROWS_AT_ONCE", 64)
    inputs = _inputs(600)
    truth = 80 + inputs.sizes[:, 2] + inputs.totals[:, 1]
    labels = truth + np.random.default_rng(2).normal(0, 3, 600)
    seen, others = slice(300), slice(300, 600)
    mean, deviation = fit_process(inputs[seen], labels[seen]).predict(inputs[others])
    few = fit_process(inputs[slice(60)], labels[:60]).predict(inputs[others])[0]
    assert srcc(truth[others], mean) > srcc(truth[others], few) + 0.1
    order = np.random.default_rng(1).permutation(300)
    shuffled = fit_process(inputs[order], labels[order]).predict(inputs[others])
    np.testing.assert_allclose(shuffled, (mean, deviation), rtol=1e-4)


def test_of_many_labels_one_try_alone_looks_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A try costs the cube of the labels that it looks at, and there are some hundred."""
    solve, seen = gaussian_process._solve, []

    def counted(covariance, parameters, y):
        seen.append(len(y))
        return solve(covariance, parameters, y)

    monkeypatch.setattr(gaussian_process, "_solve", counted)
    inputs = _inputs(520)
    fit_process(inputs, 80 + inputs.sizes[:, 2])
    assert (seen.count(520), set(seen)) == (1, {500, 520})
