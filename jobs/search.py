"""``gennape search``: find the Pareto front of a search space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.config_options import field_option, help_of
from gennape.jobs.shared.interruption import INTERRUPTED_STATUS
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import file_option, measure_option, own_options, searcher_option, space_option
from gennape.jobs.shared.parts_of_spaces import FixedGenes, SubspaceFile
from gennape.jobs.shared.searching import Destination, RunLocation, begin, loaded, resume_command, run_to_the_end
from gennape.jobs.shared.tracked import Address, TrackingUri, refuse_wrong_address, warn_elsewhere
from gennape.platform.search.settings import SearchConfig
from gennape.platform.workspace.hints import command, workspace_option

if TYPE_CHECKING:
    import pandas as pd

    from gennape.platform.search.driver import SearchResult
    from gennape.predictors.evaluation.scale import SpaceScale

_TABLE_ROWS = 10


@one_document
def search(
    *,
    space: Annotated[
        str | None,
        space_option(f"{help_of(SearchConfig, 'space')} Required unless --resume is given."),
    ] = None,
    objectives: Annotated[str | None, field_option(SearchConfig, "objectives")] = None,
    constraint: Annotated[
        list[str] | None,
        field_option(SearchConfig, "constraints", more="May be repeated.", metavar="LIMIT", show_default="none"),
    ] = None,
    latency: Annotated[
        list[str] | None,
        file_option(
            "Measure latency.NAME, learnt from a table of networks measured on a device, in milliseconds. 50 do much. "
            "May be repeated.",
            metavar="NAME=FILE[:column]",
        ),
    ] = None,
    measure: Annotated[list[str] | None, measure_option(SearchConfig)] = None,
    start: Annotated[
        str | None,
        file_option(
            "Architectures that the first generation holds: a file (JSON, CSV, a front.csv), or the front of a run.",
            "--start",
            metavar="FILE|RUN",
        ),
    ] = None,
    fix: FixedGenes = None,
    subspace: SubspaceFile = None,
    evaluations: Annotated[
        int | None,
        field_option(SearchConfig, "evaluations", more="With --resume, a larger number extends the run."),
    ] = None,
    islands: Annotated[int | None, field_option(SearchConfig, "islands")] = None,
    population: Annotated[int | None, field_option(SearchConfig, "population")] = None,
    batch: Annotated[int | None, field_option(SearchConfig, "batch")] = None,
    seed: Annotated[int | None, field_option(SearchConfig, "seed")] = None,
    searcher: Annotated[str | None, searcher_option(SearchConfig)] = None,
    migration_every: Annotated[int | None, field_option(SearchConfig, "migration_every")] = None,
    asynchronous: Annotated[
        bool | None, field_option(SearchConfig, "asynchronous", "--asynchronous/--synchronous", " /--in-step")
    ] = None,
    zero_shot: Annotated[bool | None, field_option(SearchConfig, "zero_shot", "--zero-shot/--calibrated")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of a predictor checkpoint.", show_default="the shipped one")
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Workspace: the folder that holds all runs.", show_default="$GENNAPE_WORKSPACE or ./gennape-workspace"
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Continue a run. Takes its name, the beginning of its name, or `latest`.")
    ] = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
    local: Annotated[
        bool | None,
        typer.Option(
            "--local/--cluster",
            help="Search in this process, or on Ray. The front is the same.",
            show_default="what ends sooner",
        ),
    ] = None,
) -> Result:
    """Find the Pareto front of a search space, or resume an interrupted search."""
    from gennape.platform.search.placement import refuse_two_places
    from gennape.platform.search.runs import config_of, find_run
    from gennape.platform.workspace.files import find_workspace, open_workspace
    from gennape.search_spaces.families.subspace import fixed_genes

    settings = {
        "space": space,
        "objectives": objectives,
        "evaluations": evaluations,
        "islands": islands,
        "population": population,
        "batch": batch,
        "seed": seed,
        "searcher": searcher,
        "migration_every": migration_every,
        "asynchronous": asynchronous,
        "constraints": constraint,
        "latency": latency,
        "measures": measure,
        "start": start,
        "fixed": fixed_genes(fix or (), subspace) if fix or subspace else None,
        "zero_shot": zero_shot,
    }
    refuse_wrong_address(tracking_uri)
    refuse_two_places(address, local)
    destination = Destination(address, tracking_uri, local)
    given = {name: value for name, value in settings.items() if value is not None}
    if resume is None:
        location = begin(given, checkpoint, workspace, destination)
    else:
        found = _stored_run(find_workspace(workspace), resume, given, checkpoint)
        if found is None:
            return _result(find_run(find_workspace(workspace), resume, to_resume=True))
        location = RunLocation(open_workspace(workspace), found, destination, checkpoint)
    folder = location.folder
    warn_elsewhere(checkpoint or config_of(folder).checkpoint, config_of(folder).space)
    larger = None if resume is None else evaluations  # in case the run stops before the budget is stored
    own = own_options(config_of(folder))
    options = {
        **own, "--evaluations": larger, "--checkpoint": location.checkpoint, "--workspace": workspace,
        **destination.options,
    }  # fmt: skip
    try:
        result = run_to_the_end(location, resume_command(folder.name, options), larger)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED_STATUS) from None
    _summary(folder, config_of(folder), result, tracking_uri, own)
    return _result(folder, result.hypervolume)


def _result(folder: Path, hypervolume: float | None = None) -> Result:
    """The document of a run that has ended; ``hypervolume`` of a search that ended just now."""
    from gennape.platform.search.log import count_rows
    from gennape.platform.search.run_report import read_front
    from gennape.platform.search.runs import REPORT, config_of, status_of

    config, status = config_of(folder), status_of(folder)
    return Result(
        {
            "run": folder.name,
            "report": folder / REPORT,
            "status": status.get("status"),
            "reason": status.get("reason"),
            "space": config.space,
            "objectives": config.objectives,
            "seed": config.seed,
            "evaluations": count_rows(folder),
            "hypervolume": hypervolume,
            "front": read_front(folder),
        }
    )


def _stored_run(workspace: Path, name: str, given: dict[str, Any], checkpoint: Path | None) -> Path | None:
    """The folder of a run to resume with these settings. If the run is finished, say so and return None."""
    from gennape.platform.search.config import as_stored, refuse_contradictions, require_measures
    from gennape.platform.search.runs import FINISHED, REPORT, config_of, find_run, status_of

    folder = find_run(workspace, name, to_resume=True)
    config = config_of(folder)
    require_measures(config)
    _refuse_other_tables(config, given)
    if (start := given.pop("start", None)) is not None:
        given["starts_from"] = start
    more = given.get("evaluations", 0) > config.evaluations
    if more:  # the only setting that may grow
        del given["evaluations"]
    refuse_contradictions(config, as_stored(config, given))
    status = status_of(folder)
    if status.get("status") == FINISHED and not more:
        why = status.get("reason", "all evaluations are done")
        typer.echo(f"{folder.name} is finished: {why}. Its front is in {folder / REPORT}")
        typer.echo("give it more --evaluations to go on")
        return None
    path = config.checkpoint if checkpoint is None else str(checkpoint.absolute())
    if (found := loaded(path).sha256) != config.checkpoint_sha256:
        raise ConfigError(
            f"{folder.name} was begun with the checkpoint {config.checkpoint_sha256[:12]}… "
            f"({config.checkpoint or 'shipped'}), but {path or 'the shipped one'} is {found[:12]}…; "
            "give the same one with --checkpoint, or start a new search"
        )
    return folder


def _refuse_other_tables(config: SearchConfig, given: dict[str, Any]) -> None:
    """Take tables of measured networks out of ``given``; refuse those that a search did not learn from."""
    latency, measures = given.pop("latency", []), given.pop("measures", [])
    tables = [*(f"latency.{text}" for text in latency), *(text for text in measures if "=" in text)]
    if other := [text for text in tables if text not in config.heads_from]:
        learnt = ", ".join(config.heads_from) or "no table"
        raise ConfigError(
            f"a resumed search keeps what it has learnt, from {learnt}; leave out {other[0]}, or start a new search"
        )
    if named := [text for text in measures if "=" not in text]:
        given["measures"] = named


def _summary(
    folder: Path,
    config: SearchConfig,
    result: SearchResult,
    tracking_uri: str | None = None,
    own: dict[str, Any] | None = None,
) -> None:
    """Print some rows of the front, where the results are, and the next commands."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from gennape.platform.search.front_page import scale_of_run
    from gennape.platform.search.limits import nearest
    from gennape.platform.search.log import read_log
    from gennape.platform.search.runs import REPORT
    from gennape.search_spaces.families.registry import family

    out = Console(highlight=False, soft_wrap=True)
    front, scale = result.front, scale_of_run(config)
    if not len(front):
        log = read_log(folder, len(family(config.space).genes))
        out.print(f"{result.reason}; {nearest(log, config.limits)}", markup=False)
        out.print(f"results   {folder / REPORT}", markup=False)
        return
    rows = np.unique(np.linspace(0, len(front) - 1, min(_TABLE_ROWS, len(front))).round().astype(int))
    table = Table(title=f"{len(rows)} of the {len(front)} networks of the front", title_justify="left")
    measures = _shown(front, config)
    for name in ("index", *measures):
        table.add_column(name, justify="right")
    for _, row in front.iloc[rows].iterrows():
        table.add_row(str(row["index"]), *(_readable(name, row[name], scale) for name in measures))
    middle = int(front["index"].iloc[rows[len(rows) // 2]])
    out.print(table)
    if scale is not None:
        out.print(scale.sentence, markup=False)
    out.print(f"{result.reason}; hypervolume {result.hypervolume:.6g} of {config.objectives}, seed {config.seed}")
    workspace = workspace_option(folder.parents[1])
    out.print(
        f"results   {folder / REPORT}\nplots     {command('ui', workspace=workspace, tracking_uri=tracking_uri)}",
        markup=False,
    )
    space = (own or {}).get("--space")
    options = {"run": folder.name, "index": middle, "space": space, "workspace": workspace, "to": "model.onnx"}
    out.print(f"take home {command('export', **options)}", markup=False)


def _shown(front: pd.DataFrame, config: SearchConfig) -> list[str]:
    """The columns of the table: the objectives first, and no column without numbers."""
    named = [objective.name for objective in config.directed]
    others = ("accuracy", "deviation", "flops", "params", *config.measures)
    return [name for name in dict.fromkeys([*named, *others]) if name in front and front[name].notna().any()]


def _readable(name: str, value: float, scale: SpaceScale | None = None) -> str:
    from gennape.platform.search.objectives import NAMES
    from gennape.search_spaces.drawing.summary import quantity

    if name == "accuracy" and scale is not None:
        return scale.shown(value)
    if name in ("accuracy", "deviation"):
        return f"{value:.2f} %"
    return f"{value / 1e6:,.1f} M" if name in NAMES else quantity(value)
