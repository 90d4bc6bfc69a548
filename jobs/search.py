"""``gennape search``: find the Pareto front of a search space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.config_options import field_option, help_of
from gennape.jobs.shared.interruption import INTERRUPTED_STATUS
from gennape.jobs.shared.own_code import own_options, searcher_option, space_option
from gennape.jobs.shared.searching import RunLocation, begin, checkpoint_hash, resume_command, run_to_the_end
from gennape.jobs.shared.tracked import Address, TrackingUri, refuse_wrong_address, warn_elsewhere
from gennape.platform.search.settings import SearchConfig
from gennape.platform.workspace.hints import command, workspace_option

if TYPE_CHECKING:
    from gennape.platform.search.driver import SearchResult
    from gennape.predictors.evaluation.scale import SpaceScale

_TABLE_ROWS = 10


def search(
    *,
    space: Annotated[
        str | None,
        space_option(f"{help_of(SearchConfig, 'space')} Required unless --resume is given."),
    ] = None,
    objectives: Annotated[str | None, field_option(SearchConfig, "objectives")] = None,
    evaluations: Annotated[
        int | None,
        field_option(SearchConfig, "evaluations", more="With --resume, a larger number extends the run."),
    ] = None,
    islands: Annotated[int | None, field_option(SearchConfig, "islands")] = None,
    population: Annotated[int | None, field_option(SearchConfig, "population")] = None,
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
) -> None:
    """Find the Pareto front of a search space, or resume an interrupted search."""
    from gennape.platform.search.runs import config_of
    from gennape.platform.workspace.files import find_workspace, open_workspace

    settings = {
        "space": space,
        "objectives": objectives,
        "evaluations": evaluations,
        "islands": islands,
        "population": population,
        "seed": seed,
        "searcher": searcher,
        "migration_every": migration_every,
        "asynchronous": asynchronous,
        "zero_shot": zero_shot,
    }
    refuse_wrong_address(tracking_uri)
    given = {name: value for name, value in settings.items() if value is not None}
    if resume is None:
        root, folder = begin(given, checkpoint, workspace, address)
    else:
        found = _stored_run(find_workspace(workspace), resume, given, checkpoint)
        if found is None:
            return
        root, folder = open_workspace(workspace), found
    warn_elsewhere(checkpoint or config_of(folder).checkpoint, config_of(folder).space)
    elsewhere = checkpoint if resume is not None else None  # a new run stores its checkpoint
    larger = None if resume is None else evaluations  # in case the run stops before the budget is stored
    own = own_options(config_of(folder))
    options = {
        **own, "--evaluations": larger, "--checkpoint": elsewhere, "--workspace": workspace, "--address": address,
        "--tracking-uri": tracking_uri,
    }  # fmt: skip
    location = RunLocation(root, folder, elsewhere, address, tracking_uri)
    try:
        result = run_to_the_end(location, resume_command(folder.name, options), larger)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED_STATUS) from None
    _summary(folder, config_of(folder), result, tracking_uri, own)


def _stored_run(workspace: Path, name: str, given: dict[str, Any], checkpoint: Path | None) -> Path | None:
    """The folder of a run to resume with these settings. If the run is finished, say so and return None."""
    from gennape.platform.search.config import refuse_contradictions, search_config
    from gennape.platform.search.runs import FINISHED, REPORT, config_of, find_run, status_of

    folder = find_run(workspace, name, to_resume=True)
    config = config_of(folder)
    more = given.get("evaluations", 0) > config.evaluations
    if more:  # the only setting that may grow
        del given["evaluations"]
    if "objectives" in given:  # so that spaces in the text do not count as a difference
        given["objectives"] = search_config(**given | {"space": config.space}).objectives
    refuse_contradictions(config, given)
    status = status_of(folder)
    if status.get("status") == FINISHED and not more:
        why = status.get("reason", "all evaluations are done")
        typer.echo(f"{folder.name} is finished: {why}. Its front is in {folder / REPORT}")
        typer.echo("give it more --evaluations to go on")
        return None
    path = config.checkpoint if checkpoint is None else str(checkpoint.absolute())
    if (found := checkpoint_hash(path)) != config.checkpoint_sha256:
        raise ConfigError(
            f"{folder.name} was begun with the checkpoint {config.checkpoint_sha256[:12]}… "
            f"({config.checkpoint or 'shipped'}), but {path or 'the shipped one'} is {found[:12]}…; "
            "give the same one with --checkpoint, or start a new search"
        )
    return folder


def _summary(
    folder: Path,
    config: SearchConfig,
    result: SearchResult,
    tracking_uri: str | None = None,
    own: dict[str, str] | None = None,
) -> None:
    """Print some rows of the front, where the results are, and the next commands."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from gennape.platform.search.front_page import scale_of_run
    from gennape.platform.search.runs import REPORT

    front, scale = result.front, scale_of_run(config)
    rows = np.unique(np.linspace(0, len(front) - 1, min(_TABLE_ROWS, len(front))).round().astype(int))
    table = Table(title=f"{len(rows)} of the {len(front)} networks of the front", title_justify="left")
    measures = [c for c in front.columns if c not in ("index", "hash", "architecture")]
    for name in ("index", *measures):
        table.add_column(name, justify="right")
    for _, row in front.iloc[rows].iterrows():
        table.add_row(str(row["index"]), *(_readable(name, row[name], scale) for name in measures))
    middle = int(front["index"].iloc[rows[len(rows) // 2]])
    out = Console(highlight=False, soft_wrap=True)
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


def _readable(name: str, value: float, scale: SpaceScale | None = None) -> str:
    if name == "accuracy" and scale is not None:
        return scale.shown(value)
    return f"{value:.2f} %" if name in ("accuracy", "deviation") else f"{value / 1e6:,.1f} M"
