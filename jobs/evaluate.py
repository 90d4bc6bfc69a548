"""``gennape evaluate``: measure a checkpoint on labelled architectures, beside cost and proxies, as the papers do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import GennapeError
from gennape.jobs.shared.input_files import require_file
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import space_option
from gennape.jobs.shared.tracked import TrackingUri
from gennape.platform.workspace.hints import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gennape.platform.evaluation.tables import Table


@one_document
def evaluate(
    data: Annotated[Path, typer.Option(help="Folder of labelled files, or with --space one such file.")],
    out: Annotated[Path, typer.Option(help="Folder to write report.json, report.md and report.html to.")],
    space: Annotated[
        str | None,
        space_option("Search space of --data, if that is one file or a folder of tables."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the accuracies.", show_default="the usual one of the file")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of a predictor checkpoint.", show_default="the shipped one")
    ] = None,
    labels: Annotated[int, typer.Option(min=0, help="Labels to fine-tune on; 0 measures zero-shot only.")] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Random draws of these labels.")] = 5,
    proxies: Annotated[
        int, typer.Option(min=0, help="Also compute zero-cost proxies on this many rows of each file.")
    ] = 0,
    members: Annotated[
        bool,
        typer.Option(help="Also measure the papers' ensemble, its ablations and its members. Takes minutes longer."),
    ] = True,
    curve: Annotated[
        str, typer.Option(help="Also draw a learning curve over these numbers of labels, e.g. 10,20,50,100,200.")
    ] = "",
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Workspace: the folder that holds all runs.", show_default="$GENNAPE_WORKSPACE or ./gennape-workspace"
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> Result:
    """Measure how well a predictor ranks labelled networks, zero-shot and fine-tuned."""
    import time
    from contextlib import ExitStack

    from rich.console import Console

    if not data.is_dir():  # before the imports, which take seconds
        require_file(data)
    from gennape.jobs.shared.evaluating import measure_all, read_inputs
    from gennape.platform.evaluation.report import refuse_foreign_report, write_evaluation
    from gennape.platform.evaluation.tables import tables
    from gennape.platform.evaluation.tracking import evaluation_run
    from gennape.platform.workspace.files import make_writable, open_workspace
    from gennape.predictors.evaluation.methods import member_methods
    from gennape.predictors.evaluation.protocol import Plan

    plan, points = Plan(labels, tuple(range(seeds))), _numbers(curve)
    screen = Console(stderr=True)
    made = not out.exists()
    make_writable(out, "give another folder with --out")
    refuse_foreign_report(out)
    try:
        inputs = read_inputs(data, space, column, checkpoint)
    except GennapeError:
        if made:  # what is refused leaves nothing behind
            out.rmdir()
        raise
    store = open_workspace(workspace)
    parameters = {"checkpoint": inputs.predictor.sha256, "labels": str(labels), "seeds": str(seeds)}
    parameters |= {"proxies": str(proxies), "members": str(members), "curve": curve}
    parameters |= {f"sha256.{rows.benchmark.file}": rows.sha256 for rows in (*inputs.chosen, *inputs.timed)}
    with ExitStack() as stack:
        with screen.status("opening the runs"):
            name = f"evaluate-{time.strftime('%Y%m%d-%H%M%S')}"
            log = stack.enter_context(evaluation_run(store, name, parameters, tracking_uri))
        six = member_methods(inputs.predictor) if members else []
        evaluation = measure_all(inputs, {}, six, plan, points, proxies)
        with screen.status("drawing the report"):
            paths = write_evaluation(out, evaluation)
            log(evaluation, paths)
    _show(tables(evaluation), paths, command("ui", workspace=workspace, tracking_uri=tracking_uri))
    return Result({"report": json.loads(paths[0].read_bytes()), "files": paths})


def _numbers(text: str) -> list[int]:
    """Numbers of labels, ascending, from ``10,20,50``."""
    import re

    from gennape.errors import ConfigError

    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(re.fullmatch("[1-9][0-9]{0,8}", part) for part in parts):
        raise ConfigError(f"--curve: {text!r} are not numbers of labels; give some above 0, as in 10,20,50")
    return sorted({int(part) for part in parts})


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
