"""The conformance suite passes what keeps the promises and names what breaks one."""

from __future__ import annotations

import numpy as np
import pytest

from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.predictors.predictor import Prediction
from gennape.predictors.testing import check_predictor
from gennape.search_spaces.graphs.graph import PackedGraphs


class MeanOfAll(SyntheticPredictor):
    """Centres what it is asked about together."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        answer = super().predict(graphs)
        return Prediction(answer.accuracy - answer.accuracy.sum() / max(len(graphs), 1), answer.memberships)


class _Unsure(SyntheticPredictor):
    """Memberships that do not sum to 1."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        answer = super().predict(graphs)
        return Prediction(answer.accuracy, answer.memberships / 2)


class Backwards(SyntheticPredictor):
    """The worst first."""

    def rank(self, graphs: PackedGraphs) -> np.ndarray:
        return super().rank(graphs)[::-1].copy()


def test_a_predictor_that_keeps_all_promises_passes(cells: PackedGraphs) -> None:
    check_predictor(SyntheticPredictor(), cells, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("kind", "broken"),
    [(MeanOfAll, "other graphs"), (_Unsure, "sum to 1"), (Backwards, "best first")],
)
def test_broken_promises_are_named(kind: type[SyntheticPredictor], broken: str, cells: PackedGraphs) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_predictor(kind(), cells, np.random.default_rng(0))
