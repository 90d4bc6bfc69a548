"""The ranking methods of an evaluation: predictors, the papers' ensemble, cost alone, and zero-cost proxies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from gennape.predictors.ensemble.ensemble import MemberEnsemble
from gennape.predictors.ensemble.registry import ABLATIONS
from gennape.predictors.evaluation.protocol import (
    FINE_TUNED,
    ZERO_SHOT,
    BenchmarkRows,
    Estimates,
    Method,
    Scores,
    Target,
)
from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
from gennape.predictors.predictor import Predictor, TunablePredictor
from gennape.search_spaces.graphs.cost import flops, params
from gennape.search_spaces.graphs.graph import PackedGraphs

#: The papers' ensemble of six members.
SIX_MEMBERS = "six_members"
_ABLATED = {f"{SIX_MEMBERS} {name}": left_out for name, left_out in ABLATIONS.items()}
#: Members whose names are those of other methods.
_RENAMED = {"flops": "flops_line"}
#: The methods of :func:`member_methods`.
ENSEMBLE_METHODS = (SIX_MEMBERS, *_ABLATED, "cl_fcm_t", "cl_t", "pairwise", "pairwise_fcm", "k_gnn", "flops_line")


def predictor_method(name: str, predictor: Predictor) -> Method:
    """A predictor; fine-tuned, where it can be, as a copy for each seed that shares what is computed of graphs."""

    def zero_shot(target: Target, _: np.random.Generator) -> Estimates:
        return _estimates(predictor, target)

    if not isinstance(predictor, TunablePredictor):
        return Method(name, zero_shot, calibrated=True, settings=(ZERO_SHOT,))

    def scores(target: Target, rng: np.random.Generator) -> Estimates:
        if len(target.labelled) == 0:
            return zero_shot(target, rng)
        rows = target.labelled
        return _estimates(copy.copy(predictor).fit(target.graphs.take(rows), target.accuracy[rows]), target)

    return Method(name, scores, calibrated=True, learns=True)


def curve_methods(predictors: Mapping[str, Predictor]) -> list[Method]:
    """What has a learning curve: the predictors that learn, fine-tuned alone, since zero-shot there are no labels."""
    methods = [predictor_method(name, predictor) for name, predictor in predictors.items()]
    return [replace(method, settings=(FINE_TUNED,)) for method in methods if method.learns]


def _estimates(predictor: Predictor, target: Target) -> Estimates:
    prediction = predictor.predict(target.graphs)
    return _tested(Estimates(prediction.accuracy, prediction.deviation), target)


def _tested(whole: Estimates, target: Target) -> Estimates:
    """Of estimates of all rows, those to test."""
    deviation = whole.deviation
    return Estimates(whole.scores[target.test], None if deviation is None else deviation[target.test])


def member_methods(predictor: FuzzyEnsemble) -> list[Method]:
    """The papers' ensemble, with deviations; its ablations; and each member alone, on its own scale.

    Members are fine-tuned once per target, by the first method that needs them, with random numbers that depend on the
    labelled rows alone: scores do not depend on which of these methods run, nor on their order.
    """
    shared = _LastPredictions(predictor)
    members = [_RENAMED.get(member.name, member.name) for member in predictor.members.members]
    return [
        Method(name, shared.scores(name), calibrated=True, learns=True) for name in (SIX_MEMBERS, *_ABLATED, *members)
    ]


class _LastPredictions:
    """Predictions of all :func:`member_methods` for all rows of a benchmark, kept until the target changes."""

    def __init__(self, predictor: FuzzyEnsemble) -> None:
        self._predictor = predictor
        self._last: tuple[Target, dict[str, Estimates]] | None = None

    def scores(self, name: str) -> Scores:
        def scores(target: Target, _: np.random.Generator) -> Estimates:
            if self._last is None or not _learn_alike(self._last[0], target):
                self._last = (target, self._predict_all(target))
            return _tested(self._last[1][name], target)

        return scores

    def _predict_all(self, target: Target) -> dict[str, Estimates]:
        encoded, rows = self._predictor.encode(target.graphs), target.labelled
        ensemble = self._predictor.members.tuned(encoded.take(rows), target.accuracy[rows], np.random.default_rng(rows))
        member_predictions = {member.name: member.predict(encoded) for member in ensemble.members}
        return {
            SIX_MEMBERS: Estimates(*ensemble.predict(encoded)),
            **{
                name: Estimates(_combined(ensemble.without(left_out), member_predictions))
                for name, left_out in _ABLATED.items()
            },
            **{_RENAMED.get(name, name): Estimates(predictions) for name, predictions in member_predictions.items()},
        }


def _learn_alike(one: Target, other: Target) -> bool:
    return (
        one.graphs is other.graphs
        and np.array_equal(one.labelled, other.labelled)
        and np.array_equal(one.accuracy[one.labelled], other.accuracy[other.labelled])
    )


def _combined(
    ensemble: MemberEnsemble, member_predictions: Mapping[str, Float64[np.ndarray, " n"]]
) -> Float64[np.ndarray, " n"]:
    """The accuracies of :meth:`MemberEnsemble.predict` from given member predictions: the k-GNN takes a second."""
    parts = zip(ensemble.members, ensemble.weights, ensemble.scales, strict=True)
    scores = np.sum([weight * scale(member_predictions[member.name]) for member, weight, scale in parts], axis=0)
    return np.round(ensemble.calibrate(scores), 6)


def cost_methods() -> list[Method]:
    """FLOPs alone and parameters alone: a costlier network is taken for a better one."""
    return [Method("flops", _cost(flops)), Method("params", _cost(params))]


def _cost(count: Callable[[PackedGraphs], Int64[np.ndarray, " g"]]) -> Any:
    def scores(target: Target, _: np.random.Generator) -> Float64[np.ndarray, " r"]:
        return count(target.graphs)[target.test].astype(np.float64)

    return scores


def proxy_methods(columns: Mapping[str, Float64[np.ndarray, " n"]]) -> list[Method]:
    """A method for every column that holds a number at all."""
    return [Method(name, _column(name)) for name in columns if np.isfinite(columns[name]).any()]


def _column(name: str) -> Any:
    def scores(target: Target, _: np.random.Generator) -> Float64[np.ndarray, " r"]:
        return target.columns[name][target.test]

    return scores


def methods_for(
    rows: BenchmarkRows, predictors: Mapping[str, Predictor], members: Sequence[Method] = ()
) -> list[Method]:
    """All methods that apply to a benchmark: the predictors by name, ``members`` (see :func:`member_methods`), cost,
    and the proxies known of its rows."""
    return [
        *(predictor_method(name, predictor) for name, predictor in predictors.items()),
        *members,
        *cost_methods(),
        *proxy_methods(rows.columns),
    ]
