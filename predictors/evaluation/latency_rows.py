"""The labelled files that hold latencies, and what latency is predicted by in an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from gennape.predictors.evaluation.protocol import (
    ALL,
    FINE_TUNED,
    MILLISECONDS,
    BenchmarkRows,
    Estimates,
    Method,
    Scores,
    Target,
)
from gennape.predictors.evaluation.rows import Benchmark, ChosenRows, read_rows
from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
from gennape.predictors.model.latency import LatencyPredictor
from gennape.predictors.predictor import Predictor
from gennape.search_spaces.graphs.cost import flops, params
from gennape.search_spaces.graphs.graph import PackedGraphs

_PROFILE = ("latency_gpu_ms", "latency_cpu_ms", "latency_npu_ms")
_GPUS = ("2080ti", "titan_rtx", "titan_xp", "v100")
#: Columns of latencies in milliseconds, by file; a GPU's name is followed by the number of images at a time.
LATENCIES: Mapping[str, tuple[str, ...]] = {
    "proxylessnas.csv.gz": _PROFILE,
    "ofa_mbv3_profile.csv.gz": _PROFILE,
    "ofa_mbv3_latency.csv.gz": tuple(f"{gpu}_{images}" for gpu in _GPUS for images in (1, 32, 64)),
}
_MIN_SLOPE = 1e-6  # keeps the order of costs
#: The file that holds no accuracies.
LATENCY_FILE = Benchmark("latency:ofa_mbv3_latency", "ofa_mbv3_latency.csv.gz", "ofa_mbv3", "2080ti_1")


def read_latencies(folder: Path) -> ChosenRows | None:
    """The rows of :data:`LATENCY_FILE`, None where it is not in the folder; raises as :func:`read_rows`."""
    return read_rows(folder, LATENCY_FILE, ()) if (folder / LATENCY_FILE.file).is_file() else None


def latency_rows(chosen: ChosenRows, graphs: PackedGraphs) -> list[BenchmarkRows]:
    """A benchmark for each column of latencies in a file, called ``latency:<file>:<column>``.

    ``graphs`` are those of the rows chosen; columns share them. Rows without a latency above 0 are left out.
    """
    file, labels = chosen.benchmark.file, chosen.labels
    out = []
    for column in (name for name in LATENCIES.get(file, ()) if name in labels.table.columns):
        latency = pd.to_numeric(labels.table[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        rows = np.flatnonzero(np.isfinite(latency) & (latency > 0))
        whole = len(rows) == len(latency)
        everything: dict[str, Bool[np.ndarray, " n"]] = {ALL: np.ones(len(rows), bool)}
        made = BenchmarkRows(
            f"latency:{file.partition('.')[0]}:{column}", file, chosen.benchmark.family,
            [labels.identity[i] for i in rows], graphs if whole else graphs.take(rows), latency[rows], {}, everything,
            unit=MILLISECONDS,
        )  # fmt: skip
        out.append(made)
    return out


def latency_methods(predictors: Mapping[str, Predictor]) -> list[Method]:
    """Latency heads of the predictors that can have one, and FLOPs alone and parameters alone; all learn."""
    heads = {f"{name}_latency": _head(p) for name, p in predictors.items() if isinstance(p, FuzzyEnsemble)}
    methods = {**heads, "flops": _power(flops), "params": _power(params)}
    return [
        Method(name, scores, calibrated=True, learns=True, settings=(FINE_TUNED,)) for name, scores in methods.items()
    ]


def _head(ensemble: FuzzyEnsemble) -> Scores:
    def scores(target: Target, _: np.random.Generator) -> Estimates:
        rows = target.labelled
        head = LatencyPredictor(ensemble).fit(target.graphs.take(rows), target.accuracy[rows])
        found = head.predict(target.graphs)
        return Estimates(found.milliseconds[target.test], found.deviation[target.test])

    return scores


def _power(count: Callable[[PackedGraphs], Int64[np.ndarray, " g"]]) -> Scores:
    """A power of a cost times a constant: the line of least squares through the logarithms of the labelled rows.

    It never falls: a costlier network is taken for a slower one, whatever a few labels say.
    """

    def scores(target: Target, _: np.random.Generator) -> Float64[np.ndarray, " r"]:
        cost, rows = np.log1p(count(target.graphs).astype(np.float64)), target.labelled
        latency = np.log(target.accuracy[rows])
        x, y = cost[rows] - cost[rows].mean(), latency - latency.mean()
        slope = max(x @ y / (x @ x), _MIN_SLOPE) if np.ptp(x) > 0 else _MIN_SLOPE
        return np.asarray(np.exp(latency.mean() + slope * (cost[target.test] - cost[rows].mean())))

    return scores
