"""An evaluation from labelled files to its figures: read, build, measure, with progress."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gennape.errors import InvalidDataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from jaxtyping import Float64, Int64

    from gennape.platform.evaluation.results import Evaluation
    from gennape.predictors.evaluation.protocol import BenchmarkResult, BenchmarkRows, Method, Plan
    from gennape.predictors.evaluation.rows import ChosenRows
    from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
    from gennape.predictors.predictor import Predictor
    from gennape.search_spaces.families.space import SearchSpace

    _Measured = list[tuple[BenchmarkRows, BenchmarkResult]]


@dataclass(frozen=True, slots=True)
class _Found:
    """Of accuracies, of latencies, and of accuracies with each number of labels of a learning curve."""

    measured: _Measured = field(default_factory=list)
    latency: _Measured = field(default_factory=list)
    curves: _Measured = field(default_factory=list)


#: Networks of each family whose embeddings are drawn.
_DRAWN = 200
_NO_LABELS = "no labels are published"


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationInputs:
    """What an evaluation reads, checked before anything is measured: the predictor, and the rows of all files."""

    predictor: FuzzyEnsemble
    trained: Mapping[str, Any]
    chosen: Sequence[ChosenRows]
    timed: Sequence[ChosenRows]
    absent: Mapping[str, str]


def evaluate(
    data: str | Path,
    *,
    space: str | SearchSpace | None = None,
    column: str | None = None,
    checkpoint: str | Path | None = None,
    beside: Mapping[str, Predictor] | None = None,
    labels: int = 50,
    seeds: int = 5,
    proxies: int = 0,
    members: bool = True,
    curve: Sequence[int] = (),
) -> Evaluation:
    """Measure how well a predictor ranks labelled networks, zero-shot and after a few labels, by the papers' protocol.

    ``gennape evaluate`` measures the same and writes a report. Nothing is written here.

    Args:
        data: A labelled file, or a folder of them: ``nb201.csv.gz`` and others of known names, and every table that is
            called after a search space or has a column ``family``.
        space: The search space of ``data``, if its name does not say it: by name, or an object.
        column: The column of accuracies (percent); None takes the usual one of each file.
        checkpoint: A folder of a predictor; None takes the one that ships.
        beside: Other predictors to measure on the same rows, by the names of their columns.
        labels: Rows to fine-tune on; 0 measures zero-shot alone.
        seeds: Draws of these rows.
        proxies: Compute zero-cost proxies on so many rows of each file.
        members: Measure the papers' ensemble, its ablations and its members too, which takes minutes.
        curve: Numbers of labels of a learning curve.

    Returns:
        All figures: ``.summary`` is a data frame of every metric by benchmark, subset, method and setting.

    Raises:
        InvalidDataError: A file cannot be read, or holds no rows that count.
        ConfigError: A search space is unknown, or a setting contradicts another.
        CheckpointError: The checkpoint cannot be read.

    Source: the protocol of GENNAPE (Mills et al., AAAI 2023).

    Example:
        >>> import gennape as gp
        >>> space = gp.family("hiaml")
        >>> genomes = space.sample(np.random.default_rng(0), 30)
        >>> accuracy = 80 + 10 * np.tanh(gp.flops(space.graphs(genomes)) / 1e9)  # your labels
        >>> rows = {"architecture": map(json.dumps, map(space.encode, genomes)), "accuracy": accuracy}
        >>> pd.DataFrame(rows).to_csv(folder / "hiaml.csv")
        >>> found = gp.evaluate(folder / "hiaml.csv", labels=10, seeds=2, members=False)
        >>> found.summary["method"].tolist().count("gennape") > 0
        True
    """
    from gennape.platform.search.registration import known_space
    from gennape.predictors.evaluation.methods import member_methods
    from gennape.predictors.evaluation.protocol import Plan

    name = None if space is None else known_space(space).name
    inputs = read_inputs(Path(data), name, column, None if checkpoint is None else Path(checkpoint))
    six = member_methods(inputs.predictor) if members else []
    return measure_all(inputs, dict(beside or {}), six, Plan(labels, tuple(range(seeds))), sorted(set(curve)), proxies)


def read_inputs(data: Path, space: str | None, column: str | None, checkpoint: Path | None) -> EvaluationInputs:
    """The predictor and the rows that count of all files."""
    from gennape.predictors.model.checkpoint import learnt_numbers, load_checkpoint, provenance_of

    predictor, trained = load_checkpoint(checkpoint, zero_shot=True), provenance_of(checkpoint)
    chosen, absent = _read(data, space, column, trained, learnt_numbers(checkpoint))
    timed = _read_latencies(data) if space is None and data.is_dir() else []
    return EvaluationInputs(predictor, trained, chosen, timed, absent)


def measure_all(
    inputs: EvaluationInputs,
    beside: Mapping[str, Predictor],
    members: Sequence[Method],
    plan: Plan,
    curve: Sequence[int],
    proxies: int,
) -> Evaluation:
    """All figures of a predictor, and of others ``beside`` it."""
    import time

    from gennape.platform.evaluation.results import PREDICTOR, Evaluation

    start, points = time.perf_counter(), [replace(plan, labels=n) for n in curve]
    predictors = {PREDICTOR: inputs.predictor, **beside}
    found = _measure(inputs.chosen, inputs.timed, predictors, members, plan, points, proxies)
    embeddings = _embeddings(inputs.predictor, found.measured)
    record = {**_record(inputs.predictor, inputs.trained), "seconds_total": time.perf_counter() - start}
    of = (found.measured, inputs.absent, _data([*inputs.chosen, *inputs.timed]), plan, record, embeddings)
    return Evaluation(*of, found.latency, found.curves)


#: Which rows count.
_WHICH = ", of different architectures that the checkpoint did not learn from"


def _read(
    data: Path,
    space: str | None,
    column: str | None,
    trained: Mapping[str, Any],
    numbers: Int64[np.ndarray, " n"],
) -> tuple[list[ChosenRows], dict[str, str]]:
    """The rows of all files in the folder, and why other rows of the report stay empty."""
    from gennape.jobs.shared.progress import progress_bar
    from gennape.predictors.evaluation.files import benchmarks_in
    from gennape.predictors.evaluation.rows import BENCHMARKS, UNLABELLED, learnt_families, read_rows

    folder, present = benchmarks_in(data, space, column)
    chosen, all_known = [], space is None and data.is_dir()
    names = {benchmark.name for benchmark in present}
    absent = {b.name: f"{b.file} is not there" for b in BENCHMARKS if all_known and b.name not in names}
    with progress_bar("Reading", len(present)) as advance:
        for benchmark in present:
            rows = read_rows(folder, benchmark, learnt_families(trained), numbers)
            advance(1, benchmark.file)
            if len(rows.labels.genomes) < 2:
                absent[benchmark.name] = f"{benchmark.file} holds fewer than two rows that count{_WHICH}"
            else:
                chosen.append(rows)
    if not chosen:
        raise InvalidDataError(f"{data}: nothing to measure on: " + "; ".join(absent.values()))
    without = [name for name in UNLABELLED if all_known and name not in {rows.benchmark.family for rows in chosen}]
    return chosen, absent | dict.fromkeys(without, _NO_LABELS)


def _read_latencies(folder: Path) -> list[ChosenRows]:
    """The rows of the file that holds nothing but latencies, if it is there."""
    from gennape.predictors.evaluation.latency_rows import read_latencies

    rows = read_latencies(folder)
    return [] if rows is None else [rows]


def _measure(
    chosen: Sequence[ChosenRows],
    timed: Sequence[ChosenRows],
    predictors: Mapping[str, Predictor],
    members: Sequence[Method],
    plan: Plan,
    points: Sequence[Plan],
    proxies: int,
) -> _Found:
    """What is found, file by file, so that graphs are looked at once a file."""
    import numpy as np

    from gennape.jobs.shared.progress import progress_bar
    from gennape.predictors.evaluation.latency_rows import latency_methods, latency_rows
    from gennape.predictors.evaluation.methods import curve_methods, methods_for
    from gennape.predictors.evaluation.protocol import calls, measure
    from gennape.predictors.evaluation.rows import build_rows, computed_proxies, with_proxies

    files = [*chosen, *timed]
    with progress_bar("Building graphs", sum(len(rows.labels.genomes) for rows in files)) as advance:
        built = [build_rows(rows, advance) for rows in files]
    ranked = built[: len(chosen)]
    if proxies:
        with progress_bar("Zero-cost proxies", sum(min(proxies, len(rows.accuracy)) for rows in ranked)) as advance:
            ranked = [
                with_proxies(rows, computed_proxies(rows, proxies, np.random.default_rng(0), lambda: advance(1)))
                for rows in ranked
            ]
    found, learners = _Found(), curve_methods(predictors)
    jobs: list[tuple[_Measured, BenchmarkRows, list[Method], Plan]] = []
    for i, (file, rows) in enumerate(zip(files, built, strict=True)):
        for of in ranked[i : i + 1]:
            jobs.append((found.measured, of, methods_for(of, predictors, members), plan))
            jobs += [(found.curves, of, learners, point) for point in points]
        columns = latency_rows(file, rows.graphs) if plan.labels else []
        jobs += [(found.latency, of, latency_methods(predictors), plan) for of in columns]
    with progress_bar("Measuring", sum(calls(*job[1:]) for job in jobs)) as advance:
        for kind, rows, methods, wanted in jobs:
            kind.append((rows, measure(rows, methods, wanted, lambda note: advance(1, note))))
    return found


def _embeddings(
    predictor: Predictor, measured: Sequence[tuple[BenchmarkRows, BenchmarkResult]]
) -> dict[str, Float64[np.ndarray, "g d"]]:
    """Of some networks of each family measured, and of samples of those that have no labels; none without ``embed``."""
    import numpy as np

    from gennape.predictors.evaluation.rows import UNLABELLED
    from gennape.predictors.predictor import TunablePredictor
    from gennape.search_spaces.families.registry import family as family_named

    if not isinstance(predictor, TunablePredictor):
        return {}
    rng = np.random.default_rng(0)
    out: dict[str, Float64[np.ndarray, "g d"]] = {}
    for rows, _ in measured:
        drawn = rng.permutation(len(rows.accuracy))[:_DRAWN]
        out.setdefault(rows.family, predictor.embed(rows.graphs.take(drawn)))
    for name in (n for n in UNLABELLED if n not in out):
        space = family_named(name)
        out[name] = predictor.embed(space.graphs(space.sample(rng, _DRAWN)))
    return out


def _record(predictor: Predictor, trained: Mapping[str, Any]) -> dict[str, Any]:
    import gennape
    from gennape.source import commit

    return {
        "version": gennape.__version__,
        "commit": commit(),
        "checkpoint": predictor.sha256,
        "trained": dict(trained),
    }


def _data(chosen: Sequence[ChosenRows]) -> list[dict[str, Any]]:
    """What each file is."""
    return [
        {
            "benchmark": rows.benchmark.name,
            "family": rows.benchmark.family,
            "file": rows.benchmark.file,
            "sha256": rows.sha256,
            "column": rows.labels.column,
            "rows": len(rows.labels.genomes),
            "left_out": dict(rows.left_out),
        }
        for rows in chosen
    ]
