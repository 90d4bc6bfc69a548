from __future__ import annotations

import numpy as np
import pytest

from gennape.errors import InvalidDataError
from gennape.predictors.few_shot import active_selection
from gennape.predictors.few_shot.active_selection import _greedy, select_informative
from gennape.predictors.few_shot.gaussian_process import GPInputs, prior_covariance
from gennape.predictors.model.fuzzy_ensemble import Fitted, FuzzyEnsemble
from gennape.search_spaces.graphs.graph import PackedGraphs


def _inputs(n: int, seed: int = 0) -> GPInputs:
    rng = np.random.default_rng(seed)
    return GPInputs(rng.normal(size=n), *(rng.normal(size=(n, columns)) for columns in (4, 3, 6, 5)))


def test_the_first_is_most_informative_and_the_second_of_the_rest() -> None:
    """Three networks alike, two others alike, one alone: one of each group in the order of their sizes."""
    groups = np.array([0, 1, 0, 2, 1, 0])
    covariance = (groups[:, None] == groups).astype(float)
    assert _greedy(covariance, 0.01, 3).tolist() == [0, 1, 3]


def test_each_reduces_the_posterior_variance_most() -> None:
    """Against the posterior variance by its textbook formula, for every row that could have been chosen."""
    inputs = _inputs(12)
    covariance, noise = prior_covariance(inputs)

    def left(rows: list[int]) -> float:
        inner = covariance[np.ix_(rows, rows)] + noise * np.eye(len(rows))
        return float(np.trace(covariance - covariance[:, rows] @ np.linalg.solve(inner, covariance[rows])))

    chosen = select_informative(inputs, 5).tolist()
    for i, row in enumerate(chosen):
        others = [k for k in range(12) if k not in chosen[:i]]
        assert row == min(others, key=lambda k: left([*chosen[:i], k]))


def test_all_can_be_selected_once_and_none() -> None:
    assert sorted(select_informative(_inputs(9), 9).tolist()) == list(range(9))
    assert select_informative(_inputs(9), 0).tolist() == []
    assert select_informative(_inputs(0), 0).tolist() == []


def test_what_cannot_be_selected_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidDataError, match="cannot choose 10 of 9"):
        select_informative(_inputs(9), 10)
    monkeypatch.setattr(active_selection, "MAX_NETWORKS", 8)
    with pytest.raises(InvalidDataError, match="among at most 8"):
        select_informative(_inputs(9), 2)


def test_a_predictor_selects_alike_every_time(fitted: Fitted, cells: PackedGraphs) -> None:
    predictor = FuzzyEnsemble(fitted, "0" * 64)
    chosen = predictor.select_informative(cells, 10)
    assert len(set(chosen.tolist())) == 10
    assert predictor.select_informative(cells, 10).tolist() == chosen.tolist()
    assert predictor.select_informative(cells, 4).tolist() == chosen[:4].tolist()
