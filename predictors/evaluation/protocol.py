"""The protocol of the papers: which rows are labelled, which are tested, what is measured, and its spread over seeds.

A method scores networks. It is asked zero-shot, on all rows of a benchmark, and fine-tuned on a few labelled rows that
are drawn anew for every seed, the same for all methods, and not tested then (GENNAPE, Mills et al., AAAI 2023).
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from gennape.errors import InvalidDataError
from gennape.predictors.metrics import figures, mae, mape, srcc, uncertainty_figures
from gennape.search_spaces.graphs.graph import PackedGraphs

ZERO_SHOT, FINE_TUNED = "zero-shot", "fine-tuned"
#: Units of labels.
PERCENT, MILLISECONDS = "percent", "ms"
#: The subset that every row belongs to.
ALL = "all"


@dataclass(frozen=True, slots=True)
class Target:
    """The task of a method: networks of a family, with rows to learn from and rows to test on.

    ``accuracy`` [n] in percent, or whatever else the benchmark's labels are, of which a method may read the
    ``labelled`` rows only (none zero-shot); ``test`` [r], the rows to score; ``columns``, further numbers known of the
    rows, NaN where unknown. ``graphs`` is the same object in every call for a benchmark, so that what is computed of it
    can be kept.
    """

    family: str
    graphs: PackedGraphs
    accuracy: Float64[np.ndarray, " n"]
    columns: Mapping[str, Float64[np.ndarray, " n"]]
    test: Int64[np.ndarray, " r"]
    labelled: Int64[np.ndarray, " l"]


@dataclass(frozen=True, slots=True)
class Estimates:
    """Scores [r], higher for better networks, NaN where there is none; ``deviation`` [r], the standard deviation of
    each, in the labels' unit too, None where the method does not tell. Latencies are taken for log-normal, and their
    scores for medians."""

    scores: Float64[np.ndarray, " r"]
    deviation: Float64[np.ndarray, " r"] | None = None


#: Answers for the test rows; an array is scores without deviations.
Scores = Callable[[Target, np.random.Generator], Float64[np.ndarray, " r"] | Estimates]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to rank networks. ``calibrated``: its scores are in the labels' unit. ``learns``: from labelled rows."""

    name: str
    scores: Scores
    calibrated: bool = False
    learns: bool = False
    settings: tuple[str, ...] = (ZERO_SHOT, FINE_TUNED)


@dataclass(frozen=True, slots=True)
class BenchmarkRows:
    """The rows of a benchmark that count, ready to be measured on.

    ``identity``: a text a row that equal architectures share, all different here; ``subsets``: masks [n] by name, the
    first being :data:`ALL`; ``tuned``: whether the fine-tuned setting applies; ``unit``: of the labels ``accuracy``,
    :data:`PERCENT`, or :data:`MILLISECONDS` of latency.
    """

    benchmark: str
    file: str
    family: str
    identity: Sequence[str]
    graphs: PackedGraphs
    accuracy: Float64[np.ndarray, " n"]
    columns: Mapping[str, Float64[np.ndarray, " n"]]
    subsets: Mapping[str, Bool[np.ndarray, " n"]]
    tuned: bool = True
    unit: str = PERCENT


@dataclass(frozen=True, slots=True)
class Plan:
    """``labels`` rows to fine-tune on, drawn once for each of ``seeds``."""

    labels: int = 50
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """The ``figures`` of one method on one subset of a benchmark, in one setting, with one seed, and on how many rows.

    They are those of :func:`gennape.predictors.metrics.figures`, or of :func:`latency_figures`; errors only of
    calibrated scores, :func:`gennape.predictors.metrics.uncertainty_figures` only of those with deviations.
    """

    benchmark: str
    file: str
    family: str
    subset: str
    setting: str
    labels: int
    method: str
    seed: int
    rows: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """All measurements on a benchmark; scores [n] by (setting, method, seed), NaN at rows that were not scored; seconds
    by (setting, method); deviations [n] as scores, of methods that tell them."""

    measurements: list[MethodFigures] = field(default_factory=list)
    scores: dict[tuple[str, str, int], Float64[np.ndarray, " n"]] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    deviations: dict[tuple[str, str, int], Float64[np.ndarray, " n"]] = field(default_factory=dict)


def draw_labelled(identity: Sequence[str], seed: int, n: int) -> Int64[np.ndarray, " k"]:
    """``n`` rows, drawn without replacement. Which networks they are depends on ``seed`` and on the set of identities
    alone, not on the order of the rows. Raises :class:`InvalidDataError` where there are fewer."""
    if len(identity) < n:
        raise InvalidDataError(f"{len(identity)} rows are too few to label {n}; label fewer")
    keys = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in identity]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__)[:n], np.int64)


def targets(rows: BenchmarkRows, plan: Plan) -> Iterator[tuple[str, int, Target]]:
    """The tasks of a method as (setting, seed, target): zero-shot with seed 0, then fine-tuned once per seed."""
    everything = np.arange(len(rows.accuracy))
    common = (rows.family, rows.graphs, rows.accuracy, rows.columns)
    yield ZERO_SHOT, 0, Target(*common, everything, everything[:0])
    if not can_tune(rows, plan):
        return
    for seed in plan.seeds:
        labelled = draw_labelled(rows.identity, seed, plan.labels)
        yield FINE_TUNED, seed, Target(*common, np.setdiff1d(everything, labelled), labelled)


def can_tune(rows: BenchmarkRows, plan: Plan) -> bool:
    """Whether there is a fine-tuned setting: it applies to the benchmark, and rows to test are left."""
    return rows.tuned and plan.labels > 0 and len(rows.accuracy) >= plan.labels + 2


def calls(rows: BenchmarkRows, methods: Sequence[Method], plan: Plan) -> int:
    """How often :func:`measure` calls ``advance``."""
    return sum(setting in method.settings for setting, _, _ in targets(rows, plan) for method in methods)


def measure(
    rows: BenchmarkRows, methods: Sequence[Method], plan: Plan, advance: Callable[[str], None] = lambda _: None
) -> BenchmarkResult:
    """Run every method on every target. ``advance`` is called after each (method, setting).

    A method that does not learn runs once, on all rows: its scores do not depend on the labelled rows.
    """
    outcome = BenchmarkResult()
    kept: dict[str, Estimates] = {}
    everything = np.arange(len(rows.accuracy))
    for setting, seed, target in targets(rows, plan):
        for method in methods:
            if setting not in method.settings:
                continue
            start = time.perf_counter()
            if method.learns or method.name not in kept:
                rng = np.random.default_rng([seed, zlib.crc32(f"{rows.benchmark} {method.name} {setting}".encode())])
                asked = target if method.learns else replace(target, test=everything, labelled=everything[:0])
                kept[method.name] = _everywhere(method.scores(asked, rng), asked, method.name)
            estimates = _only(kept[method.name], target.test)
            outcome.scores[setting, method.name, seed] = estimates.scores
            if estimates.deviation is not None:
                outcome.deviations[setting, method.name, seed] = estimates.deviation
            spent = outcome.seconds.get((setting, method.name), 0.0)
            outcome.seconds[setting, method.name] = spent + time.perf_counter() - start
            place = (setting, len(target.labelled), method.name, seed)
            outcome.measurements.extend(_measurements(rows, place, estimates, method.calibrated))
            advance(f"{rows.benchmark}: {method.name}, {setting}")
    return outcome


def _everywhere(scored: Float64[np.ndarray, " r"] | Estimates, target: Target, name: str) -> Estimates:
    """Estimates for all rows of the benchmark: NaN where they were not asked for."""
    estimates = scored if isinstance(scored, Estimates) else Estimates(scored)
    spread = []
    for what, values in (("scores", estimates.scores), ("deviations", estimates.deviation)):
        if values is not None and values.shape != target.test.shape:
            raise InvalidDataError(f"{name} gave {what} of shape {values.shape} for {len(target.test)} rows")
        whole = np.full(len(target.accuracy), np.nan)
        whole[target.test] = np.nan if values is None else values
        spread.append(whole)
    return Estimates(spread[0], None if estimates.deviation is None else spread[1])


def _only(estimates: Estimates, rows: Int64[np.ndarray, " r"]) -> Estimates:
    """The estimates with NaN at all other rows."""
    chosen = np.zeros(len(estimates.scores), bool)
    chosen[rows] = True
    deviation = estimates.deviation
    return Estimates(
        np.where(chosen, estimates.scores, np.nan), None if deviation is None else np.where(chosen, deviation, np.nan)
    )


def _measurements(
    rows: BenchmarkRows, place: tuple[str, int, str, int], estimates: Estimates, calibrated: bool
) -> Iterator[MethodFigures]:
    for subset, mask in rows.subsets.items():
        chosen = mask & np.isfinite(estimates.scores)
        count = int(chosen.sum())
        if count < 2:
            continue
        actual, scores = rows.accuracy[chosen], estimates.scores[chosen]
        found = {
            name: value for name, value in _FIGURES[rows.unit](actual, scores, calibrated).items() if name != "rows"
        }
        if estimates.deviation is not None:
            found |= uncertainty_figures(actual, scores, estimates.deviation[chosen], rows.unit == MILLISECONDS)
        yield MethodFigures(rows.benchmark, rows.file, rows.family, subset, *place, count, found)


def latency_figures(
    latency: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], calibrated: bool = True
) -> dict[str, float]:
    """``srcc`` and, of calibrated predictions, ``mape`` in percent and ``mae`` in milliseconds."""
    errors = {"mape": mape(latency, predicted), "mae": mae(latency, predicted)} if calibrated else {}
    return {"srcc": srcc(latency, predicted), **errors}


_FIGURES = {PERCENT: figures, MILLISECONDS: latency_figures}

#: What a row of a summary stands for.
KEYS = ("benchmark", "file", "family", "subset", "setting", "labels", "method")


def summarise(measurements: Sequence[MethodFigures]) -> pd.DataFrame:
    """One row for each of :data:`KEYS`: ``seeds`` and ``rows`` (the fewest of a seed), and of each figure the mean over
    seeds and, as ``<figure>_sd``, the sample standard deviation (NaN for one seed), in the order of measurement."""
    flat = pd.DataFrame(
        [{**{key: getattr(m, key) for key in (*KEYS, "rows", "seed")}, **m.figures} for m in measurements],
        columns=[*KEYS, "rows", "seed", *dict.fromkeys(name for m in measurements for name in m.figures)],
    )
    grouped = flat.groupby(list(KEYS), sort=False)
    out = pd.DataFrame({"seeds": grouped["seed"].nunique(), "rows": grouped["rows"].min()})
    for name in flat.columns[len(KEYS) + 2 :]:
        out[name], out[f"{name}_sd"] = grouped[name].mean(), grouped[name].std(ddof=1)
    return out.reset_index()
