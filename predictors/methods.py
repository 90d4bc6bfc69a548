"""What rows are ranked by in an evaluation: predictors, their cost alone, and zero-cost proxies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from gennape.predictors.predictor import Predictor, TunablePredictor
from gennape.predictors.protocol import ZERO_SHOT, BenchmarkRows, Estimates, Method, Target
from gennape.search_spaces.cost import flops, params
from gennape.search_spaces.graph import PackedGraphs


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


def _estimates(predictor: Predictor, target: Target) -> Estimates:
    prediction = predictor.predict(target.graphs)
    deviation = prediction.deviation
    return Estimates(prediction.accuracy[target.test], None if deviation is None else deviation[target.test])


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


def methods_for(rows: BenchmarkRows, predictors: Mapping[str, Predictor]) -> list[Method]:
    """All methods that apply to a benchmark: the predictors by name, cost, and the proxies known of its rows."""
    return [
        *(predictor_method(name, predictor) for name, predictor in predictors.items()),
        *cost_methods(),
        *proxy_methods(rows.columns),
    ]
