"""``gennape search``: find the Pareto front of a search space."""

from __future__ import annotations

import shlex
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gennape.errors import ConfigError, GennapeError
from gennape.jobs.shared.interruption import INTERRUPTED_STATUS, cause
from gennape.jobs.shared.tracked import Address, TrackingUri, refuse_wrong_address, warn_elsewhere
from gennape.platform.workspace.hints import command, workspace_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import Progress

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.driver import GenerationRecord, SearchResult
    from gennape.platform.workspace.run_lock import RunLock

_TABLE_ROWS = 10


def search(
    *,
    space: Annotated[
        str | None, typer.Option("--space", "--family", help="Search space, e.g. ofa_mbv3.", show_default="required")
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            help="What to optimise, of accuracy, flops, macs and params, each :max or :min.",
            show_default="accuracy:max,flops:min",
        ),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(min=1, help="Unique networks to predict; with --resume more than before.", show_default="5000"),
    ] = None,
    islands: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Populations side by side.", show_default="2")
    ] = None,
    population: Annotated[
        int | None, typer.Option(min=2, max=100_000, help="Networks per island.", show_default="100")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same front.", show_default="0")] = None,
    searcher: Annotated[
        str | None, typer.Option(help="Search algorithm: nsga2, or random.", show_default="nsga2")
    ] = None,
    migration_every: Annotated[
        int | None, typer.Option(min=0, help="Generations between migrations; 0 for none.", show_default="5")
    ] = None,
    asynchronous: Annotated[
        bool | None,
        typer.Option("--asynchronous/--in-step", help="Let no island wait for another.", show_default="False"),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Predictor checkpoint.", show_default="shipped")] = None,
    workspace: Annotated[
        Path | None, typer.Option(help="Where results go.", show_default="$GENNAPE_WORKSPACE or ./gennape-workspace")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Continue this run, by name or its beginning, or the latest that was cut off.")
    ] = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Search for the networks that no other beats in all objectives, and continue searches that were cut off."""
    from gennape.platform.cluster.memory import refuse_small_machine
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
    }
    refuse_wrong_address(tracking_uri)
    given = {name: value for name, value in settings.items() if value is not None}
    if resume is None:
        config = _checked(given, checkpoint)
        root = open_workspace(workspace)
        if address is None:
            refuse_small_machine()  # before there is a folder of the run
        folder = _new_run(root, config)
    else:
        found = _stored_run(find_workspace(workspace), resume, given, checkpoint)
        if found is None:
            return
        root, folder = open_workspace(workspace), found
    warn_elsewhere(checkpoint or config_of(folder).checkpoint, config_of(folder).space)
    elsewhere = checkpoint if resume is not None else None  # a new run knows its checkpoint
    larger = None if resume is None else evaluations  # whatever stops it before that is written down
    options = {
        "--evaluations": larger, "--checkpoint": elsewhere, "--workspace": workspace, "--address": address,
        "--tracking-uri": tracking_uri,
    }  # fmt: skip
    words = [word for option, value in options.items() if value for word in (option, str(value))]
    go_on = shlex.join(["gennape", "search", "--resume", folder.name, *words])
    _run_to_the_end(root, folder, elsewhere, address, tracking_uri, go_on, larger)


def _checked(given: dict[str, Any], checkpoint: Path | None) -> SearchConfig:
    """Every setting of a new run, checked before anything is made."""
    from gennape.platform.search.config import search_config
    from gennape.search_spaces.families.registry import FAMILIES

    if "space" not in given:
        known = ", ".join(space.name for space in FAMILIES)
        raise ConfigError(f"which search space? Give --space (one of {known}), or --resume to continue a run")
    search_config(**given)  # before the checkpoint, which takes longer to read
    path = None if checkpoint is None else str(checkpoint.absolute())
    return search_config(**given, checkpoint=path, checkpoint_sha256=_checkpoint_hash(path))


def _new_run(workspace: Path, config: SearchConfig) -> Path:
    from gennape.platform.search.runs import create_run, describe_run

    folder = create_run(workspace, config.space, config.seed)
    describe_run(folder, config)
    return folder


def _stored_run(workspace: Path, name: str, given: dict[str, Any], checkpoint: Path | None) -> Path | None:
    """The folder of a run that can go on with these settings; None, having said so, when it is finished."""
    from gennape.platform.search.config import refuse_contradictions, search_config
    from gennape.platform.search.runs import FINISHED, REPORT, config_of, find_run, status_of

    folder = find_run(workspace, name, to_resume=True)
    config = config_of(folder)
    more = given.get("evaluations", 0) > config.evaluations
    if more:  # the one setting that may grow
        del given["evaluations"]
    if "objectives" in given:  # the same objectives may be written with other spaces
        given["objectives"] = search_config(**given | {"space": config.space}).objectives
    refuse_contradictions(config, given)
    status = status_of(folder)
    if status.get("status") == FINISHED and not more:
        why = status.get("reason", "all evaluations are done")
        typer.echo(f"{folder.name} is finished: {why}. Its front is in {folder / REPORT}")
        typer.echo("give it more --evaluations to go on")
        return None
    path = config.checkpoint if checkpoint is None else str(checkpoint.absolute())
    if (found := _checkpoint_hash(path)) != config.checkpoint_sha256:
        raise ConfigError(
            f"{folder.name} was begun with the checkpoint {config.checkpoint_sha256[:12]}… "
            f"({config.checkpoint or 'shipped'}), but {path or 'the shipped one'} is {found[:12]}…; "
            "give the same one with --checkpoint, or start a new search"
        )
    return folder


def _checkpoint_hash(path: str | None) -> str:
    from gennape.predictors.model.checkpoint import load_checkpoint

    return load_checkpoint(None if path is None else Path(path)).sha256


def _run_to_the_end(
    workspace: Path,
    folder: Path,
    checkpoint: Path | None,
    address: str | None,
    tracking_uri: str | None,
    resume: str,
    evaluations: int | None,
) -> None:
    """Run, and whatever stops the search before its end, say how to go on; ``evaluations``: a larger budget, if any."""
    from gennape.platform.search.extension import extend
    from gennape.platform.search.runs import (
        FAILED,
        FINISHED,
        INTERRUPTED,
        REPORT,
        RUNNING,
        config_of,
        set_status,
        status_of,
    )
    from gennape.platform.workspace.run_lock import lock_run

    told = False

    def tell() -> None:
        """At once, before Ray and MLflow are ended, which may take longer than this process is given."""
        nonlocal told
        if told:
            return
        told = True
        if status_of(folder).get("status") == FINISHED:
            typer.echo(f"interrupted after its end; the front is in {folder / REPORT}", err=True)
            return
        set_status(folder, status=INTERRUPTED, reason=cause())
        typer.echo(f"interrupted; continue with: {resume}", err=True)

    with lock_run(folder) as lock:
        try:
            if evaluations is not None and evaluations > config_of(folder).evaluations:
                extend(folder, evaluations)
            set_status(folder, status=RUNNING, reason="")
            _run(workspace, folder, checkpoint, address, tracking_uri, lock, tell)
        except KeyboardInterrupt:
            tell()
            raise typer.Exit(INTERRUPTED_STATUS) from None
        except Exception as error:
            lock.check()  # what follows from the loss of the folder is not the error
            reason = str(error) if isinstance(error, GennapeError) else f"{type(error).__name__}: {error}"
            set_status(folder, status=FAILED, reason=reason)
            if isinstance(error, GennapeError):
                typer.echo(f"stopped; once mended, continue with: {resume}", err=True)
            raise


def _run(
    workspace: Path,
    folder: Path,
    checkpoint: Path | None,
    address: str | None,
    tracking_uri: str | None,
    lock: RunLock,
    tell: Callable[[], None],
) -> None:
    """``checkpoint``: where that of the run lies now, if elsewhere than when it began; ``tell``: that it is cut off."""
    from rich.console import Console

    from gennape.platform.cluster.connection import local_ray
    from gennape.platform.search.driver import run_search
    from gennape.platform.search.front_page import about_run
    from gennape.platform.search.islands import RayIslands, most_replicas
    from gennape.platform.search.run_report import RunReport
    from gennape.platform.search.runs import FINISHED, config_of, set_status, status_of
    from gennape.platform.serving.deployment import ServingConfig, serve_ensemble
    from gennape.platform.tracking.tracker import track

    config, screen = config_of(folder), Console(stderr=True, highlight=False)
    parameters = {name: str(value) for name, value in config.model_dump().items()}
    if checkpoint is None and config.checkpoint is not None:
        checkpoint = Path(config.checkpoint)
    report = RunReport(folder, config, about_run(folder, config, checkpoint))
    with ExitStack() as stack, _telling(tell):
        with screen.status("starting Ray and the predictor"):
            stack.enter_context(local_ray(address))
            # Tracking starts in the background, beside the predictor.
            known = status_of(folder).get("tracking_run")
            tracker = stack.enter_context(track(workspace, folder.name, parameters, run_id=known, server=tracking_uri))
            serving = ServingConfig(checkpoint, max_replicas=most_replicas(config.islands))
            handle = stack.enter_context(serve_ensemble(serving))
            _refuse_another(handle.sha256, config)
            islands = stack.enter_context(RayIslands(config, handle, lock.check))
        live = stack.enter_context(_progress(screen))
        line = _Line(live, screen, config)

        def follow(record: GenerationRecord) -> None:
            if not status_of(folder).get("tracking_run") and (run_id := tracker.run_id):
                set_status(folder, tracking_run=run_id)
            report.follow(record.front)
            line.show(record)
            tracker.metrics(record.generation, record.metrics())
            for island, values in record.islands.items():
                tracker.metrics(record.generation, values, child=island)

        result = run_search(config, folder, islands, follow)
        tracker.artifacts(report.complete(result.front))
        set_status(folder, status=FINISHED, reason=result.reason)
    _summary(folder, config, result, tracking_uri)


@contextmanager
def _telling(tell: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        tell()
        raise


def _refuse_another(sha256: str, config: SearchConfig) -> None:
    """Raise :class:`ConfigError` where the checkpoint was replaced since it was looked at."""
    if sha256 != config.checkpoint_sha256:
        raise ConfigError(
            f"the search began with checkpoint {config.checkpoint_sha256[:12]}…, but {sha256[:12]}… is there now; put "
            "the former back, or start a new search"
        )


def _progress(screen: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    # Narrow enough for 80 columns.
    columns = ("{task.description}", BarColumn(8), MofNCompleteColumn(), TextColumn("{task.fields[found]}"))
    return Progress(*columns, console=screen, disable=not screen.is_terminal)


class _Line:
    """The live line of a search; where there is no terminal, a plain line at every tenth of the way."""

    def __init__(self, live: Progress, screen: Console, config: SearchConfig) -> None:
        self.live = live
        self.screen = screen
        self.task = live.add_task(config.space, total=config.evaluations, found="")
        self.tenths = 0

    def show(self, record: GenerationRecord) -> None:
        """Bring the line up to date."""
        found = (
            f"{record.evaluations_per_second:,.0f} evals/s · front {record.front_size} · "
            f"hypervolume {record.hypervolume:.4g}"
        )
        self.live.update(self.task, completed=record.evaluations, found=found)
        tenths = 10 * record.evaluations // record.target
        if not self.screen.is_terminal and tenths > self.tenths:
            self.screen.print(f"{record.evaluations}/{record.target} evaluations · {found}", soft_wrap=True)
        self.tenths = tenths


def _summary(folder: Path, config: SearchConfig, result: SearchResult, tracking_uri: str | None = None) -> None:
    """The front in a few rows, where everything is, and what to do next."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from gennape.platform.search.runs import REPORT

    front = result.front
    rows = np.unique(np.linspace(0, len(front) - 1, min(_TABLE_ROWS, len(front))).round().astype(int))
    table = Table(title=f"{len(rows)} of the {len(front)} networks of the front", title_justify="left")
    measures = [c for c in front.columns if c not in ("index", "hash", "architecture")]
    for name in ("index", *measures):
        table.add_column(name, justify="right")
    for _, row in front.iloc[rows].iterrows():
        table.add_row(str(row["index"]), *(_readable(name, row[name]) for name in measures))
    middle = int(front["index"].iloc[rows[len(rows) // 2]])
    out = Console(highlight=False, soft_wrap=True)
    out.print(table)
    out.print(f"{result.reason}; hypervolume {result.hypervolume:.6g} of {config.objectives}, seed {config.seed}")
    workspace = workspace_option(folder.parents[1])
    out.print(
        f"results   {folder / REPORT}\nplots     {command('ui', workspace=workspace, tracking_uri=tracking_uri)}",
        markup=False,
    )
    options = {"run": folder.name, "index": middle, "workspace": workspace, "to": "model.onnx"}
    out.print(f"take home {command('export', **options)}", markup=False)


def _readable(name: str, value: float) -> str:
    return f"{value:.2f} %" if name in ("accuracy", "deviation") else f"{value / 1e6:,.1f} M"
