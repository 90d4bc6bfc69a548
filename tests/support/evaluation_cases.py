"""An evaluation that was made up, and what may come on top of it; its tables and its plots have tests of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gennape.platform.evaluation.results import Evaluation
from gennape.predictors.evaluation.protocol import (
    ALL,
    FINE_TUNED,
    MILLISECONDS,
    ZERO_SHOT,
    BenchmarkResult,
    BenchmarkRows,
    MethodFigures,
    Plan,
)
from gennape.search_spaces.graphs.graph import pack

N = 6


def measurement(
    method: str, setting: str, seed: int, srcc: float, subset: str = ALL, rows: int = N, **more: float
) -> MethodFigures:
    labels = 50 if setting == FINE_TUNED else 0
    where = ("nb201", "nb201.csv.gz", "nb201", subset, setting, labels)
    return MethodFigures(*where, method, seed, rows, {"srcc": srcc, **more})


def made_up() -> Evaluation:
    """Of one benchmark, by a predictor, FLOPs and two proxies."""
    accuracy = np.linspace(88, 93, N)
    rows = BenchmarkRows(
        "nb201",
        "nb201.csv.gz",
        "nb201",
        [str(i) for i in range(N)],
        pack([]),
        accuracy,
        {"nwot": accuracy, "snip": accuracy},
        {ALL: np.ones(N, bool)},
    )
    found = [
        measurement("gennape", ZERO_SHOT, 0, 0.9, mae=0.25),
        measurement("flops", ZERO_SHOT, 0, 0.5),
        measurement("nwot", ZERO_SHOT, 0, 0.75, rows=4),
        measurement("snip", ZERO_SHOT, 0, 0.6),
        measurement("gennape", ZERO_SHOT, 0, 0.8, "resolution 192", 3, mae=float("nan")),
        measurement("gennape", FINE_TUNED, 0, 0.93),
        measurement("gennape", FINE_TUNED, 1, 0.97),
    ]
    partly = np.array([90.0] * 4 + [np.nan] * 2)
    scores = {(ZERO_SHOT, "gennape", 0): accuracy, (FINE_TUNED, "gennape", 0): partly}
    seconds = {(ZERO_SHOT, "gennape"): 1.5}
    provenance = {"version": "1", "commit": None, "checkpoint": "ab" * 32, "trained": {}, "seconds_total": 12.0}
    data = [{"file": "nb201.csv.gz", "rows": N, "left_out": {"not counted by the papers": 2}, "sha256": "cd" * 32}]
    embeddings = {"nb201": np.eye(3)[:2], "hiaml": np.eye(3)[2:]}
    absent = {"nb301": "nb301.csv.gz is not there", "hiaml": "no labels are published"}
    return Evaluation(
        [(rows, BenchmarkResult(found, scores, seconds))], absent, data, Plan(50, (0, 1)), provenance, embeddings
    )


def with_deviations(evaluation: Evaluation) -> Evaluation:
    """Fine-tuned with seeds 0 and 1: errors of 1 everywhere, deviations of 1 and of 10."""
    rows = evaluation.measured[0][0]
    found = [
        *evaluation.measured[0][1].measurements,
        *(
            measurement("unsure", FINE_TUNED, seed, 0.9, coverage_50=50.0 * seed, coverage_90=100.0, **more)
            for seed, more in enumerate(({"deviation": 1.0, "crps": 0.6}, {"deviation": 10.0, "crps": 2.4}))
        ),
    ]
    scores = {(FINE_TUNED, "gennape", seed): rows.accuracy + 1 for seed in (0, 1)}
    deviations = {(FINE_TUNED, "gennape", seed): np.full(N, 10.0**seed) for seed in (0, 1)}
    return replace(evaluation, measured=[(rows, BenchmarkResult(found, scores, {}, deviations))])


def with_curves(evaluation: Evaluation) -> Evaluation:
    """With 20 labels twice, with 50 once, and of a benchmark that has too few rows."""
    rows = evaluation.measured[0][0]
    points = {
        20: [replace(measurement("gennape", FINE_TUNED, s, 0.7 + 0.1 * s, rows=5), labels=20) for s in (0, 1)],
        50: [measurement("gennape", FINE_TUNED, 0, 0.95, rows=4), measurement("gennape", FINE_TUNED, 0, 0.1, "low")],
    }
    small = replace(rows, benchmark="small")
    curves = [*((rows, BenchmarkResult(points[n])) for n in (50, 20)), (small, BenchmarkResult())]
    return replace(evaluation, curves=curves)


def with_latency(evaluation: Evaluation) -> Evaluation:
    rows = [
        replace(evaluation.measured[0][0], benchmark=f"latency:ofa:{column}", unit=MILLISECONDS)
        for column in ("a", "b")
    ]
    found = [
        MethodFigures("latency:ofa:a", "ofa.csv.gz", "ofa_mbv3", ALL, FINE_TUNED, 50, method, seed, 4, figures)
        for seed in (0, 1)
        for method, figures in (
            (
                "gennape_latency",
                {"srcc": 0.9, "mape": 1.0 + 2 * seed, "mae": 0.25, "coverage_50": 48.0, "coverage_90": 88.0}
                | {"deviation": 0.5, "crps": 0.125},
            ),
            ("flops", {"srcc": 0.5, "mape": 9.0, "mae": 2.0}),
        )
    ]
    return replace(evaluation, latency=[(rows[0], BenchmarkResult(found)), (rows[1], BenchmarkResult())])
