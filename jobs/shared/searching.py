"""Run a search from its settings to the front: islands and their predictor, tracking and report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gennape.errors import ConfigError, GennapeError
from gennape.jobs.shared.interruption import cause
from gennape.jobs.shared.own_code import own_settings
from gennape.jobs.shared.search_line import SearchLine, search_progress
from gennape.jobs.shared.search_services import islands_here, islands_on_ray
from gennape.jobs.shared.tracked import refuse_wrong_address, warn_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.driver import GenerationRecord, SearchResult
    from gennape.platform.search.islands import Archipelago
    from gennape.platform.search.measures import Measure
    from gennape.platform.search.run_report import RunReport
    from gennape.platform.search.searchers.base import Searcher
    from gennape.platform.workspace.run_lock import RunLock
    from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
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
    constraints: Sequence[str] = (),
    latency: Mapping[str, str | Path] | Sequence[str] = (),
    measures: Sequence[str | Measure | type[Measure]] = (),
    fix: Mapping[str, Any] | Sequence[str] = (),
    subspace: str | Path | None = None,
    start: str | Path | Sequence[Any] | None = None,
    zero_shot: bool = False,
    checkpoint: str | Path | None = None,
    workspace: str | Path | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    local: bool | None = None,
) -> SearchResult:
    """Find the Pareto front of a search space.

    Runs in this process, or on Ray where that ends sooner, shows progress on stderr, and leaves the run in the
    workspace, where ``gennape ui``, ``gennape export`` and ``gennape search --resume`` find it.

    Args:
        space: A search space: by name, or an object, of a class of your own too.
        objectives: What to optimise, with commas between: accuracy, flops, macs, params, memory or a measure of your
            own, each ``:max`` or ``:min``.
        evaluations: Unique networks to predict.
        islands: Populations that evolve side by side.
        population: Networks that each island keeps.
        batch: Networks that an island evaluates per generation; 0 shares the population among islands.
        seed: Decides every random choice: the same seed gives the same front.
        searcher: The search algorithm: ``nsga2``, ``sms_emoa``, ``random``, or a :class:`Searcher` of your own.
        migration_every: Generations between migrations; 0 for none.
        asynchronous: Whether no island waits for another; the front then depends on the machine too.
        constraints: Limits that networks of the front keep, such as ``["flops<=600e6", "accuracy>=75"]``.
        latency: By the name of a device, a table of networks measured there: ``{"npu": "measured.csv"}``, or
            ``"measured.csv:column"``. Each becomes the measure ``latency.npu``.
        measures: Further measures to record: ``"memory"``, objects or classes of :class:`Measure`, and
            ``"energy=measured.csv:column"``, learnt as latencies are.
        fix: Genes, by name or pattern, and the values that they keep to: ``{"resolution": 224, "kernel*": [3, 5]}``.
        subspace: A JSON file with such an object.
        start: Architectures that the first generation holds: a list, a file of them (JSON, CSV, a front.csv), or the
            name of a run, whose front is taken.
        zero_shot: Leave the checkpoint's calibrations on public labels out.
        checkpoint: A folder of a predictor; None takes the one that ships.
        workspace: Where results go; None takes ``$GENNAPE_WORKSPACE`` or ``./gennape-workspace``.
        address: A Ray cluster to search on; None starts one on this machine.
        tracking_uri: An MLflow server of yours; None keeps the figures in the workspace.
        local: Whether to search in this process (True) or on Ray (False), which gives the same front; None takes what
            ends sooner.

    Returns:
        The front as a data frame (``.front``), its hypervolume, and where the run lies.

    Raises:
        ConfigError: A setting is unknown, out of range or contradicts another; no network can keep the constraints.
        InvalidDataError: A table of measured networks cannot be used.
        WorkspaceError: The workspace cannot be written.
        ServiceError: Ray or the predictor cannot be started or reached.

    Example:
        >>> import gennape as gp
        >>> result = gp.search("hiaml", evaluations=60, population=10, seed=3)
        >>> print(result)
        SearchResult(...)
    """
    refuse_wrong_address(tracking_uri)
    from gennape.platform.search.placement import refuse_two_places
    from gennape.platform.search.registration import known_measure, known_searcher, known_space
    from gennape.search_spaces.families.subspace import fixed_genes

    refuse_two_places(address, local)
    known, algorithm = known_space(space), known_searcher(searcher)
    name = known.name
    given = {
        "space": name, "objectives": objectives, "evaluations": evaluations,
        "islands": islands, "population": population, "batch": batch, "seed": seed, "searcher": algorithm.name,
        "migration_every": migration_every, "asynchronous": asynchronous, "zero_shot": zero_shot,
        "latency": [f"{name}={path}" for name, path in latency.items()] if isinstance(latency, Mapping) else latency,
        "measures": [known_measure(one) for one in measures], "fixed": fixed_genes(fix, subspace),
        "start": start, "constraints": constraints,
    }  # fmt: skip
    location = begin(given, _path(checkpoint), _path(workspace), Destination(address, tracking_uri, local))
    warn_elsewhere(checkpoint, name)
    options = {"--workspace": workspace, **location.destination.options}
    return run_to_the_end(location, resume_command(location.folder.name, options))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


@dataclass(frozen=True, slots=True)
class Destination:
    """On which Ray cluster a search runs and to which MLflow server it logs, if any; ``local``: see :func:`search`."""

    address: str | None = None
    tracking_uri: str | None = None
    local: bool | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the command line that say the same."""
        places = {"--local": self.local is True, "--cluster": self.local is False}
        return {"--address": self.address, "--tracking-uri": self.tracking_uri, **places}


@dataclass(frozen=True, slots=True)
class RunLocation:
    """Where a search runs. ``checkpoint``: path of the run's checkpoint, if it was moved since the start.

    ``predictor``: what was loaded from it, if it was.
    """

    workspace: Path
    folder: Path
    destination: Destination
    checkpoint: Path | None = None
    predictor: FuzzyEnsemble | None = None


def begin(
    given: dict[str, Any], checkpoint: Path | None, workspace: Path | None, destination: Destination
) -> RunLocation:
    """Check all settings of a new run, then make its folder."""
    from gennape.platform.cluster.memory import refuse_small_machine, refuse_small_process
    from gennape.platform.search.learnt import write_learnt
    from gennape.platform.search.placement import placement_of
    from gennape.platform.search.runs import create_run, describe_run
    from gennape.platform.workspace.files import find_workspace, open_workspace

    config, predictor, learnt = _checked(given, checkpoint, find_workspace(workspace))
    root = open_workspace(workspace)
    # Before there is a folder of the run.
    if placement_of(config, destination.address, destination.local).local:
        refuse_small_process()
    elif destination.address is None:
        refuse_small_machine()
    folder = create_run(root, config.space, config.seed)
    if learnt:
        write_learnt(folder, learnt)
    describe_run(folder, config)
    return RunLocation(root, folder, destination, predictor=predictor)


def resume_command(run: str, options: dict[str, Any]) -> str:
    """The command that continues a run, with the options that are set; a value of True is that of a switch."""
    listed = ((option, value if isinstance(value, list) else [value]) for option, value in options.items() if value)
    words = [word for option, values in listed for value in values for word in (option, value) if word is not True]
    return shlex.join(["gennape", "search", "--resume", run, *map(str, words)])


def _checked(
    given: dict[str, Any], checkpoint: Path | None, workspace: Path
) -> tuple[SearchConfig, FuzzyEnsemble, bytes]:
    """The configuration of a new run, its predictor, and what was learnt from tables; checked before all writing."""
    from gennape.platform.search.config import search_config, space_of, space_sha256
    from gennape.platform.search.given_starts import read_starts
    from gennape.platform.search.learnt import learn, settings_of, split_sources
    from gennape.platform.search.reachable import refuse_unreachable
    from gennape.platform.search.registration import known_searcher, known_space
    from gennape.search_spaces.families.registry import families

    if "space" not in given:
        known = ", ".join(space.name for space in families())
        raise ConfigError(f"search needs --space (one of {known}), or --resume to continue a run")
    given, sources = split_sources(given)
    settings = {name: value for name, value in given.items() if name != "start"}
    # Before the checkpoint, which takes longer.
    own = search_config(**settings, heads=[source.name for source in sources])
    space = known_space(own.space)
    given = given | own_settings(space, known_searcher(own.searcher), own.measures)
    part = space_of(own)
    if own.fixed:
        given["space_sha256"] = space_sha256(space)
        _say(f"searching {part!r}")
    refuse_unreachable(own, part)
    if (start := given.pop("start", None)) is not None:
        given |= {"starts": read_starts(start, part, workspace)}
        given |= {"starts_from": str(start) if isinstance(start, str | Path) else "a list"}
    path = None if checkpoint is None else str(checkpoint.absolute())
    predictor = loaded(path, own.zero_shot)
    learnt = learn(sources, space, predictor) if sources else b""
    heads = settings_of(sources, learnt)
    return search_config(**given, **heads, checkpoint=path, checkpoint_sha256=predictor.sha256), predictor, learnt


def loaded(path: str | None, zero_shot: bool = False) -> FuzzyEnsemble:
    """The predictor of a checkpoint, of the shipped one for None."""
    from gennape.predictors.model.checkpoint import load_checkpoint

    return load_checkpoint(None if path is None else Path(path), zero_shot)


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

    from gennape.platform.search.config import require_measures
    from gennape.platform.search.driver import run_search
    from gennape.platform.search.runs import FINISHED, config_of, set_status, status_of
    from gennape.platform.tracking.tracker import track

    folder, config = location.folder, config_of(location.folder)
    screen = Console(stderr=True, highlight=False)
    require_measures(config)
    settings = config.model_dump() | {"starts": len(config.starts) or ""}  # the architectures would be too long
    parameters = {name: str(value) for name, value in settings.items() if value not in ("", ())}
    known, server = status_of(folder).get("tracking_run"), location.destination.tracking_uri
    with ExitStack() as stack, _reporting(report_interruption):
        # First: a process of its own imports MLflow while the predictor starts.
        tracker = stack.enter_context(track(location.workspace, folder.name, parameters, run_id=known, server=server))
        islands = stack.enter_context(_islands(location, config, lock, screen))
        live = stack.enter_context(search_progress(screen))
        line = SearchLine(live, screen, config)
        # Made after the first generation: it imports for a second. It draws what is undrawn, however the search ends.
        report = cache(lambda: stack.enter_context(_report(location, config)))

        def show_picture() -> None:
            if drawn := report().picture():
                tracker.image(*drawn)

        def follow(record: GenerationRecord) -> None:
            line.show(record)
            if not status_of(folder).get("tracking_run") and (run_id := tracker.run_id_so_far()):
                set_status(folder, tracking_run=run_id)
            report().follow(record.front, record.generation)
            show_picture()
            tracker.metrics(record.generation, record.metrics())
            for island, values in record.islands.items():
                tracker.metrics(record.generation, values, child=island)

        result = run_search(config, folder, islands, follow)
        tracker.artifacts(report().complete(result.front))
        show_picture()
        set_status(folder, status=FINISHED, reason=result.reason)
        if not status_of(folder).get("tracking_run") and (run_id := tracker.run_id):
            set_status(folder, tracking_run=run_id)
    return result


@contextmanager
def _islands(location: RunLocation, config: SearchConfig, lock: RunLock, screen: Console) -> Iterator[Archipelago]:
    """The islands and what they need, in this process or on Ray; says which where the user did not."""
    from gennape.platform.search.learnt import read_learnt
    from gennape.platform.search.placement import placement_of

    address, local = location.destination.address, location.destination.local
    place = placement_of(config, address, local)
    if place.why:
        screen.print(f"searching {'in this process' if place.local else 'on Ray'}: {place.why}", soft_wrap=True)
    began_with = None if config.checkpoint is None else Path(config.checkpoint)
    checkpoint, learnt = location.checkpoint or began_with, read_learnt(location.folder, config)
    with ExitStack() as stack:
        with screen.status(f"starting {'the predictor' if place.local else 'Ray and the predictor'}"):
            islands = stack.enter_context(
                islands_here(config, checkpoint, location.predictor, learnt, lock.check)
                if place.local
                else islands_on_ray(config, checkpoint, address, learnt, lock.check)
            )
        yield islands


def _report(location: RunLocation, config: SearchConfig) -> RunReport:
    from gennape.platform.search.front_page import about_run
    from gennape.platform.search.run_report import RunReport

    checkpoint = location.checkpoint or (None if config.checkpoint is None else Path(config.checkpoint))
    return RunReport(location.folder, config, about_run(location.folder, config, checkpoint))


@contextmanager
def _reporting(report_interruption: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        report_interruption()
        raise
