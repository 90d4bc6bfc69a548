"""What every predictor must do: the conformance suite for predictors of others."""

from __future__ import annotations

import copy

import numpy as np
from jaxtyping import Float64

from gennape.errors import InvalidDataError
from gennape.predictors.predictor import Prediction, Predictor, TunablePredictor
from gennape.search_spaces.graphs.graph import PackedGraphs


def check_predictor(predictor: Predictor, graphs: PackedGraphs, rng: np.random.Generator) -> None:
    """Raise :class:`AssertionError`, naming the promise that is broken, unless ``predictor`` keeps all of them.

    ``graphs``, some ten or more different networks, are what it is asked about; a :class:`TunablePredictor` is also
    fitted to made-up labels of them, as a copy. The predictor itself is left as it was.
    """
    whole = predictor.predict(graphs)
    _check_answer(whole, len(graphs))
    order = rng.permutation(len(graphs))
    shuffled = predictor.predict(graphs.take(order))
    alone = predictor.predict(graphs.take(order[:1]))
    _promise(_same(shuffled.accuracy, whole.accuracy[order]), "a row depends on the order of the graphs")
    _promise(_same(alone.accuracy, whole.accuracy[order[:1]]), "a row depends on the other graphs")
    _promise(_same(shuffled.memberships, whole.memberships[order]), "memberships depend on the order of the graphs")
    _check_answer(predictor.predict(graphs.take(order[:0])), 0)
    ranked = whole.accuracy[predictor.rank(graphs)]
    _promise(bool((np.diff(ranked) <= 0).all()), "rank does not put the best first")
    _promise(len(predictor.sha256) >= 64, "sha256 does not name the predictor")
    if isinstance(predictor, TunablePredictor):
        _check_fit(predictor, graphs, rng)


def _check_answer(answer: Prediction, n: int) -> None:
    _promise(answer.accuracy.shape == (n,), f"accuracy has shape {answer.accuracy.shape} for {n} graphs")
    _promise(bool(np.isfinite(answer.accuracy).all()), "an accuracy is not finite")
    _promise(answer.memberships.ndim == 2 and len(answer.memberships) == n, "memberships are not a row per graph")
    _promise(bool(np.allclose(answer.memberships.sum(1), 1, atol=1e-6)), "memberships do not sum to 1")
    _promise(answer.deviation is None or bool((answer.deviation >= 0).all()), "a deviation is negative")


def _check_fit(predictor: TunablePredictor, graphs: PackedGraphs, rng: np.random.Generator) -> None:
    before = predictor.predict(graphs).accuracy
    labels = rng.uniform(40, 60, len(graphs))
    tuned = copy.copy(predictor)
    _promise(tuned.fit(graphs, labels) is tuned, "fit does not return the predictor")
    first = tuned.predict(graphs)
    _check_answer(first, len(graphs))
    _promise(bool(np.abs(first.accuracy.mean() - 50) < 10), "fitted predictions are not on the scale of the labels")
    _promise(tuned.sha256 != predictor.sha256, "fitting does not change the predictor's name")
    _promise(_same(tuned.fit(graphs, labels).predict(graphs).accuracy, first.accuracy), "fitting twice differs")
    _promise(_same(predictor.predict(graphs).accuracy, before), "fitting a copy changes the original")
    none = graphs.take(np.arange(0))
    _promise(_same(tuned.fit(none, labels[:0]).predict(graphs).accuracy, before), "no labels are not zero-shot")
    _promise(predictor.embed(graphs).shape[0] == len(graphs), "embed does not give a row per graph")
    for bad in (labels[1:], np.where(np.arange(len(labels)) == 0, np.nan, labels)):
        _promise(_refuses(tuned, graphs, bad), "labels that do not fit the graphs, or are no numbers, are taken")


def _refuses(predictor: TunablePredictor, graphs: PackedGraphs, labels: Float64[np.ndarray, " n"]) -> bool:
    try:
        predictor.fit(graphs, labels)
    except InvalidDataError:
        return True
    return False


def _same(first: Float64[np.ndarray, "..."], second: Float64[np.ndarray, "..."]) -> bool:
    return first.tobytes() == second.tobytes()


def _promise(kept: bool, broken: str) -> None:
    if not kept:
        raise AssertionError(broken)
