"""``gennape evaluate``: measure a checkpoint on labelled architectures, beside cost and proxies, as the papers do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gennape.errors import InvalidDataError
from gennape.jobs.shared.input_files import require_file
from gennape.jobs.shared.tracked import TrackingUri
from gennape.platform.workspace.hints import command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from jaxtyping import Float64, Int64

    from gennape.platform.evaluation.tables import Table
    from gennape.predictors.evaluation.protocol import BenchmarkRows, Method, Outcome, Plan
    from gennape.predictors.evaluation.rows import ChosenRows
    from gennape.predictors.predictor import Predictor

    _Measured = list[tuple[BenchmarkRows, Outcome]]


@dataclass(frozen=True, slots=True)
class _Found:
    """Of accuracies, of latencies, and of accuracies with each number of labels of a learning curve."""

    measured: _Measured = field(default_factory=list)
    latency: _Measured = field(default_factory=list)
    curves: _Measured = field(default_factory=list)


#: Networks of each family whose embeddings are drawn.
_DRAWN = 200
_NO_LABELS = "no labels are published"


def evaluate(
    data: Annotated[Path, typer.Option(help="Folder of labelled files; with --space any such file.")],
    out: Annotated[Path, typer.Option(help="Folder to write report.json, report.md and report.html to.")],
    space: Annotated[
        str | None, typer.Option("--space", "--family", help="Search space of --data, a file or a folder of tables.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Its column of accuracies.", show_default="the usual one of the file")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint; default the shipped one.")] = None,
    labels: Annotated[int, typer.Option(min=0, help="Rows to fine-tune on; 0 measures zero-shot only.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of the rows to fine-tune on.")] = 5,
    proxies: Annotated[int, typer.Option(min=0, help="Compute zero-cost proxies on so many rows of each file.")] = 0,
    members: Annotated[
        bool, typer.Option(help="Measure the papers' ensemble, its ablations and its members too; minutes longer.")
    ] = True,
    curve: Annotated[
        str, typer.Option(help="Also draw how the predictor learns, with so many labels each, say 10,20,50,100,200.")
    ] = "",
    workspace: Annotated[
        Path | None, typer.Option(help="Folder of the runs.  [default: $GENNAPE_WORKSPACE or ./gennape-workspace]")
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Rank correlations and errors, zero-shot and fine-tuned, overall and within each resolution."""
    import time
    from contextlib import ExitStack

    from rich.console import Console

    if not data.is_dir():  # before the imports, which take seconds
        require_file(data)
    from gennape.platform.evaluation.report import refuse_foreign_report, write_evaluation
    from gennape.platform.evaluation.results import Evaluation
    from gennape.platform.evaluation.tables import tables
    from gennape.platform.evaluation.tracking import evaluation_run
    from gennape.platform.workspace.files import make_writable, open_workspace
    from gennape.predictors.evaluation.methods import member_methods
    from gennape.predictors.evaluation.protocol import Plan
    from gennape.predictors.model.checkpoint import learnt_numbers, load_checkpoint, provenance_of

    start, plan = time.perf_counter(), Plan(labels, tuple(range(seeds)))
    points = [replace(plan, labels=n) for n in _numbers(curve)]
    screen = Console(stderr=True)
    predictor, trained = load_checkpoint(checkpoint), provenance_of(checkpoint)
    predictors: dict[str, Predictor] = {"gennape": predictor}  # others to measure beside it: one entry each
    make_writable(out, "give another folder with --out")
    refuse_foreign_report(out)
    store = open_workspace(workspace)
    chosen, absent = _read(data, space, column, trained, learnt_numbers(checkpoint))
    timed = _read_latencies(data) if space is None and data.is_dir() else []
    parameters = {"checkpoint": predictor.sha256, "labels": str(labels), "seeds": str(seeds), "proxies": str(proxies)}
    parameters |= {"members": str(members), "curve": curve}
    parameters |= {f"sha256.{rows.benchmark.file}": rows.sha256 for rows in (*chosen, *timed)}
    with ExitStack() as stack:
        with screen.status("opening the runs"):
            name = f"evaluate-{time.strftime('%Y%m%d-%H%M%S')}"
            log = stack.enter_context(evaluation_run(store, name, parameters, tracking_uri))
        six = member_methods(predictor) if members else []
        found = _measure(chosen, timed, predictors, six, plan, points, proxies)
        with screen.status("drawing the report"):
            embeddings = _embeddings(predictor, found.measured)
            record = {**_record(predictor, trained), "seconds_total": time.perf_counter() - start}
            of = (found.measured, absent, _data([*chosen, *timed]), plan, record, embeddings)
            evaluation = Evaluation(*of, found.latency, found.curves)
            paths = write_evaluation(out, evaluation)
            log(evaluation, paths)
    _show(tables(evaluation), paths, command("ui", workspace=workspace, tracking_uri=tracking_uri))


def _numbers(text: str) -> list[int]:
    """Numbers of labels, ascending, from ``10,20,50``."""
    import re

    from gennape.errors import ConfigError

    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(re.fullmatch("[1-9][0-9]{0,8}", part) for part in parts):
        raise ConfigError(f"--curve: {text!r} are not numbers of labels; give some above 0, as in 10,20,50")
    return sorted({int(part) for part in parts})


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
    predictor: Predictor, measured: Sequence[tuple[BenchmarkRows, Outcome]]
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


def _show(tables: Sequence[Table], paths: Sequence[Path], runs: str) -> None:
    """The rank correlations, and where the rest is."""
    from rich.console import Console
    from rich.table import Table as RichTable

    out = Console(highlight=False, width=140)
    for table in tables:
        if "rank correlation" in table.title.lower():
            shown = RichTable(title=table.title, title_justify="left")
            for i, cell in enumerate(table.head):
                shown.add_column(cell, justify="left" if i == 0 else "right")
            for row in table.rows:
                shown.add_row(*row)
            out.print(shown)
    for path in paths:
        out.print(f"report    {path}", markup=False, soft_wrap=True)
    out.print(f"runs      {runs}", markup=False, soft_wrap=True)
