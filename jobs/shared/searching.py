"""Run a search from its settings to the front: Ray, the served predictor, islands, tracking and report."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gennape.errors import ConfigError, GennapeError
from gennape.jobs.shared.interruption import cause
from gennape.jobs.shared.own_code import own_settings
from gennape.jobs.shared.search_line import SearchLine, search_progress
from gennape.jobs.shared.tracked import refuse_wrong_address, warn_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.driver import GenerationRecord, SearchResult
    from gennape.platform.search.searchers.base import Searcher
    from gennape.platform.workspace.run_lock import RunLock
    from gennape.search_spaces.families.space import SearchSpace


def search(
    space: str | SearchSpace,
    *,
    objectives: str = "accuracy:max,flops:min",
    evaluations: int = 5000,
    islands: int = 2,
    population: int = 100,
    batch: int = 0,
    seed: int = 0,
    searcher: str | type[Searcher] = "nsga2",
    migration_every: int = 2,
    asynchronous: bool = False,
    checkpoint: str | Path | None = None,
    workspace: str | Path | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> SearchResult:
    """Find the Pareto front of a search space.

    Starts Ray and serves the predictor on this machine, shows progress on stderr, and leaves the run in the workspace,
    where ``gennape ui``, ``gennape export`` and ``gennape search --resume`` find it.

    Args:
        space: A search space: by name, or an object, of a class of your own too.
        objectives: What to optimise, with commas between: accuracy, flops, macs or params, each ``:max`` or ``:min``.
        evaluations: Unique networks to predict.
        islands: Populations that evolve side by side.
        population: Networks that each island keeps.
        batch: Networks that an island evaluates per generation; 0 shares the population among islands.
        seed: Decides every random choice: the same seed gives the same front.
        searcher: The search algorithm: ``nsga2``, ``sms_emoa``, ``random``, or a :class:`Searcher` of your own.
        migration_every: Generations between migrations; 0 for none.
        asynchronous: Whether no island waits for another; the front then depends on the machine too.
        checkpoint: A folder of a predictor; None takes the one that ships.
        workspace: Where results go; None takes ``$GENNAPE_WORKSPACE`` or ``./gennape-workspace``.
        address: A Ray cluster to search on; None starts one on this machine.
        tracking_uri: An MLflow server of yours; None keeps the figures in the workspace.

    Returns:
        The front as a data frame (``.front``), its hypervolume, and where the run lies.

    Raises:
        ConfigError: A setting is unknown, out of range or contradicts another.
        WorkspaceError: The workspace cannot be written.
        ServiceError: Ray or the predictor cannot be started or reached.

    Example:
        >>> import gennape as gp
        >>> result = gp.search("hiaml", evaluations=60, population=10, seed=3)
        >>> print(result)
        SearchResult(...)
    """
    refuse_wrong_address(tracking_uri)
    from gennape.platform.search.registration import known_searcher, known_space

    known, algorithm = known_space(space), known_searcher(searcher)
    name = known.name
    given = {
        "space": name, "objectives": objectives, "evaluations": evaluations,
        "islands": islands, "population": population, "batch": batch, "seed": seed,
        "searcher": algorithm.name, "migration_every": migration_every, "asynchronous": asynchronous,
    }  # fmt: skip
    root, folder = begin(given, _path(checkpoint), _path(workspace), address)
    warn_elsewhere(checkpoint, name)
    options = {"--workspace": workspace, "--address": address, "--tracking-uri": tracking_uri}
    location = RunLocation(root, folder, address=address, tracking_uri=tracking_uri)
    return run_to_the_end(location, resume_command(folder.name, options))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def begin(
    given: dict[str, Any], checkpoint: Path | None, workspace: Path | None, address: str | None
) -> tuple[Path, Path]:
    """Check all settings of a new run, then make its folder. Returns the workspace and the folder."""
    from gennape.platform.cluster.memory import refuse_small_machine
    from gennape.platform.search.runs import create_run, describe_run
    from gennape.platform.workspace.files import open_workspace

    config = _checked(given, checkpoint)
    root = open_workspace(workspace)
    if address is None:
        refuse_small_machine()  # before there is a folder of the run
    folder = create_run(root, config.space, config.seed)
    describe_run(folder, config)
    return root, folder


@dataclass(frozen=True, slots=True)
class RunLocation:
    """Where a search runs. ``checkpoint``: path of the run's checkpoint, if it was moved since the start."""

    workspace: Path
    folder: Path
    checkpoint: Path | None = None
    address: str | None = None
    tracking_uri: str | None = None


def resume_command(run: str, options: dict[str, Any]) -> str:
    """The command that continues a run, with the options that are set."""
    words = [word for option, value in options.items() if value for word in (option, str(value))]
    return shlex.join(["gennape", "search", "--resume", run, *words])


def _checked(given: dict[str, Any], checkpoint: Path | None) -> SearchConfig:
    """The configuration of a new run; every setting is checked before anything is written."""
    from gennape.platform.search.config import search_config
    from gennape.platform.search.registration import known_searcher, known_space
    from gennape.search_spaces.families.registry import families

    if "space" not in given:
        known = ", ".join(space.name for space in families())
        raise ConfigError(f"search needs --space (one of {known}), or --resume to continue a run")
    own = search_config(**given)  # before the checkpoint, which takes longer to read
    given = given | own_settings(known_space(own.space), known_searcher(own.searcher))
    path = None if checkpoint is None else str(checkpoint.absolute())
    return search_config(**given, checkpoint=path, checkpoint_sha256=checkpoint_hash(path))


def checkpoint_hash(path: str | None) -> str:
    """The SHA-256 of a checkpoint, of the shipped one for None."""
    from gennape.predictors.model.checkpoint import load_checkpoint

    return load_checkpoint(None if path is None else Path(path)).sha256


def run_to_the_end(location: RunLocation, resume: str, evaluations: int | None = None) -> SearchResult:
    """Run the search. If anything stops it before its end, print ``resume``, the command that continues it.

    ``evaluations``: a larger budget than the run began with, if any.
    """
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

    folder, reported = location.folder, False

    def report_interruption() -> None:
        """Called before Ray and MLflow are ended, which may take longer than this process is given."""
        nonlocal reported
        if reported:
            return
        reported = True
        if status_of(folder).get("status") == FINISHED:
            _say(f"interrupted after its end; the front is in {folder / REPORT}")
            return
        set_status(folder, status=INTERRUPTED, reason=cause())
        _say(f"interrupted; continue with: {resume}")

    with lock_run(folder) as lock:
        try:
            if evaluations is not None and evaluations > config_of(folder).evaluations:
                extend(folder, evaluations)
            set_status(folder, status=RUNNING, reason="")
            return _run(location, lock, report_interruption)
        except KeyboardInterrupt:
            report_interruption()
            raise
        except Exception as error:
            lock.check()  # if the folder was lost, that is the error to report
            reason = str(error) if isinstance(error, GennapeError) else f"{type(error).__name__}: {error}"
            set_status(folder, status=FAILED, reason=reason)
            if isinstance(error, GennapeError):
                _say(f"stopped; once mended, continue with: {resume}")
            raise


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _run(location: RunLocation, lock: RunLock, report_interruption: Callable[[], None]) -> SearchResult:
    """Start all services and run the search; ``report_interruption`` is called before they end."""
    from rich.console import Console

    from gennape.platform.cluster.connection import local_ray
    from gennape.platform.search.driver import run_search
    from gennape.platform.search.front_page import about_run
    from gennape.platform.search.islands import RayIslands, most_replicas
    from gennape.platform.search.run_report import RunReport
    from gennape.platform.search.runs import FINISHED, config_of, set_status, status_of
    from gennape.platform.serving.deployment import ServingConfig, serve_ensemble
    from gennape.platform.tracking.tracker import track

    folder = location.folder
    config, screen = config_of(folder), Console(stderr=True, highlight=False)
    parameters = {name: str(value) for name, value in config.model_dump().items() if value != ""}
    began_with = None if config.checkpoint is None else Path(config.checkpoint)
    checkpoint = location.checkpoint or began_with
    report = RunReport(folder, config, about_run(folder, config, checkpoint))
    with ExitStack() as stack, _reporting(report_interruption):
        with screen.status("starting Ray and the predictor"):
            stack.enter_context(local_ray(location.address))
            # Tracking starts in the background while the predictor starts.
            known, server = status_of(folder).get("tracking_run"), location.tracking_uri
            tracker = stack.enter_context(
                track(location.workspace, folder.name, parameters, run_id=known, server=server)
            )
            serving = ServingConfig(checkpoint, max_replicas=most_replicas(config.islands))
            handle = stack.enter_context(serve_ensemble(serving))
            _refuse_another(handle.sha256, config)
            islands = stack.enter_context(RayIslands(config, handle, lock.check))
        live = stack.enter_context(search_progress(screen))
        line = SearchLine(live, screen, config)

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
    return result


@contextmanager
def _reporting(report_interruption: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        report_interruption()
        raise


def _refuse_another(sha256: str, config: SearchConfig) -> None:
    """Raise :class:`ConfigError` if the checkpoint was replaced since the search began."""
    if sha256 != config.checkpoint_sha256:
        raise ConfigError(
            f"the search began with checkpoint {config.checkpoint_sha256[:12]}…, but {sha256[:12]}… is there now; put "
            "the former back, or start a new search"
        )
