"""Tuning of encoder and clusters by Ray Tune: many settings on small budgets, and ever fewer on larger ones.

What has been measured is in files, and Tune is asked anew whenever a tuning goes on: its own records of a run are
pickled, and what is pickled is not read here.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gennape.errors import ConfigError, GennapeError, ServiceError, WorkspaceError
from gennape.platform.cluster.connection import local_ray
from gennape.platform.tracking.journal import new_name
from gennape.platform.tracking.tracker import track
from gennape.platform.training.settings import CONFIG, FACTOR, RESULTS, Settings, TuningStudy
from gennape.platform.training.trial import Rows, run_trial
from gennape.platform.workspace.files import make_writable, work_folder
from gennape.platform.workspace.run_files import read_json
from gennape.platform.workspace.run_lock import lock_run
from gennape.platform.workspace.settings import differences, flat
from gennape.search_spaces.files.atomic import atomic_write_bytes, remove_partial_files, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from gennape.platform.tracking.tracker import Tracker

#: Within a workspace: a folder for each tuning. Within it: its run in MLflow, what MLflow was told, what it shows.
FOLDER = "tuning"
STATUS, TOLD, REPORT, RAY = "status.json", "told.jsonl", "report", "ray"
_POLL_S = 0.2
_LOST_WORKERS = 3  # that a trial stands
#: Of Ray Tune: no files of its own beside the results, no changes of folder, and Ctrl-C is ours.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True, slots=True)
class Found:
    """The best settings, their results on the largest budget, and how many results are there, before and in all."""

    trial: int
    settings: Settings
    result: dict[str, float]
    before: int
    results: int
    failed: list[str]


def tuning_folder(out: Path, workspace: Path) -> Path:
    """Where the results of a tuning are kept."""
    return work_folder(workspace / FOLDER, out, out.stem)


def tune_settings(
    out: Path,
    workspace: Path,
    description: Mapping[str, Any],
    study: TuningStudy,
    rows: Rows,
    gpus_per_trial: float = 0,
    concurrent: int | None = None,
    address: str | None = None,
    follow: Callable[[int, str], None] = lambda results, note: None,  # noqa: ARG005
    server: str | None = None,
) -> Found:
    """Find the settings that rank the validation rows best, and write them to ``out``, as ``pretrain`` and ``fit``
    read.

    Trials of ``study`` begin with the smallest budget; of those that come to the end of one, about the better third go
    on to the next (asynchronous successive halving; Li et al., 2020). A call with the same ``out`` that was cut off is
    continued: what was measured is not measured again. One with more trials goes on, too. The folder of ``study`` is
    :func:`tuning_folder`. ``follow`` is told of results so far and a note. Every trial is a child run in MLflow.

    Raises :class:`ConfigError` where ``out`` was begun with another description, :class:`WorkspaceError` where ``out``
    or the folder cannot be written, :class:`ServiceError` where no trial came to an end.
    """
    folder, out = study.folder, out.resolve()
    _check_out(out)
    make_writable(folder / RESULTS, "give another folder with --workspace")
    with lock_run(folder):
        _describe(folder, {**description, "epochs": asdict(study.epochs), "rungs": study.rungs, "batch": study.batch})
        before = len(_results(study))
        with local_ray(address), _tracked(workspace, study, server) as tracker:
            failed = _run(study, rows, gpus_per_trial, concurrent, _TuningWatch(study, tracker, follow))
            found = _best(study, before, failed)
            _write(out, study, found)
            tracker.metrics(found.results, {f"best_{key}": value for key, value in found.result.items()})
            # Parameters never change, the best settings do where a tuning goes on with more trials.
            tracker.tags({f"best.{key}": value for key, value in flat(asdict(found.settings)).items()})
            tracker.artifacts(folder / REPORT)
        shutil.rmtree(folder / RAY, ignore_errors=True)
    return found


@contextmanager
def _tracked(workspace: Path, study: TuningStudy, server: str | None) -> Iterator[Tracker]:
    """The tuning's run in MLflow, begun or continued."""
    path = study.folder / STATUS
    status = read_json(path) if path.exists() else {}
    name, known = status.get("run") or new_name(workspace, "tune"), status.get("tracking_run", "")
    parameters = flat({**read_json(study.folder / CONFIG), "trials": len(study.trials)})
    with track(workspace, name, parameters, known or None, server) as tracker:
        write_json(path, {"run": name, "tracking_run": tracker.run_id or known})
        yield tracker
    # A server has answered by now: of a run that has ended well only this id is left to go on with.
    write_json(path, {"run": name, "tracking_run": tracker.run_id or known})


def _check_out(out: Path) -> None:
    """Raise :class:`WorkspaceError` where the settings could not be written after all trials."""
    make_writable(out.parent, "give another --out")
    if out.is_dir():
        raise WorkspaceError(f"cannot write to {out} (it is a folder); give another --out")


def _describe(folder: Path, description: Mapping[str, Any]) -> None:
    """Refuse what differs from what was begun."""
    remove_partial_files(folder / RESULTS)
    if not (folder / CONFIG).exists():
        write_json(folder / CONFIG, dict(description))
    if differing := differences(read_json(folder / CONFIG), json.loads(json.dumps(description))):
        raise ConfigError(
            f"another tuning of the same --out was begun: {differing}. Repeat the command and the version that began "
            f"it, give another --out, or remove {folder} to begin anew"
        )


def _results(study: TuningStudy) -> dict[tuple[int, int], dict[str, float]]:
    """What has been measured, by trial and budget."""
    paths = {(trial, budget): study.result_path(trial, budget)
             for trial in range(len(study.trials)) for budget in study.budgets}  # fmt: skip
    return {key: read_json(path) for key, path in paths.items() if path.exists()}


def _run(study: TuningStudy, rows: Rows, gpus: float, concurrent: int | None, watch: _TuningWatch) -> list[str]:
    """Run Ray Tune to the end; returns what failed.

    In a thread of its own: from the main thread it would take Ctrl-C for a wish to end well.
    """
    ended: list[Any] = []

    def fit() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Ray's own
                ended.append(_tuner(study, rows, gpus, concurrent).fit())
        except Exception as error:  # noqa: BLE001 (it is raised by the main thread)
            ended.append(error)

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        watch.poll()
    watch.poll()
    (result,) = ended
    if isinstance(result, GennapeError):
        raise result
    if isinstance(result, Exception):
        raise ServiceError(f"tuning was given up: {result}; repeat the command to go on") from result
    return [str(error).strip().splitlines()[-1] for error in result.errors]


def _tuner(study: TuningStudy, rows: Rows, gpus: float, concurrent: int | None) -> Any:
    from ray import tune  # noqa: PLC0415 (a second)
    from ray.tune.schedulers import ASHAScheduler  # noqa: PLC0415

    # Ray hides no GPU from who asked for none.
    device = "cpu" if gpus == 0 else None
    trainable = tune.with_parameters(run_trial, study=study, rows=rows, device=device)
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": gpus}),
        param_space={"trial": tune.grid_search(list(range(len(study.trials))))},
        tune_config=tune.TuneConfig(
            metric="srcc",
            mode="max",
            scheduler=ASHAScheduler(
                time_attr="budget", max_t=study.budgets[-1], grace_period=1, reduction_factor=FACTOR
            ),
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"call-{time.time_ns()}",
            storage_path=str(study.folder.absolute() / RAY),
            failure_config=tune.FailureConfig(max_failures=_LOST_WORKERS),
            verbose=0,
        ),
    )


class _TuningWatch:
    """Passes on results as they come to be there: to MLflow those that it was not told by an earlier call."""

    def __init__(self, study: TuningStudy, tracker: Tracker, follow: Callable[[int, str], None]) -> None:
        self._study, self._tracker, self._follow = study, tracker, follow
        self._file = study.folder / TOLD
        self._told = set(self._file.read_text().splitlines()) if self._file.exists() else set()
        self._seen = 0

    def poll(self) -> None:
        """Look for results."""
        results = _results(self._study)
        if len(results) == self._seen:
            return
        self._seen = len(results)
        for (trial, budget), result in results.items():
            if (line := f"{trial} {budget}") not in self._told:
                self._tell(trial, budget, result)
                self._told.add(line)
                with self._file.open("a") as file:
                    file.write(line + "\n")
        top, best = _leader(results)
        self._follow(self._seen, f"best {results[best, top]['srcc']:.3f} (trial {best}, budget {top})")

    def _tell(self, trial: int, budget: int, result: Mapping[str, float]) -> None:
        settings = asdict(self._study.trials[trial])
        numbers = {name: float(value) for name, value in settings.items() if name != "config"}
        self._tracker.metrics(budget, {**result, **numbers}, f"trial-{trial:03d}")


def _leader(results: Mapping[tuple[int, int], Mapping[str, float]]) -> tuple[int, int]:
    """The largest budget that any trial came to, and which ranks best there; the first of equals."""
    top = max(budget for _, budget in results)
    return top, max((t for t, budget in results if budget == top), key=lambda t: (results[t, top]["srcc"], -t))


def _best(study: TuningStudy, before: int, failed: list[str]) -> Found:
    results = _results(study)
    if not results:
        raise ServiceError(f"no trial came to an end: {failed[0] if failed else 'no reason given'}")
    top, best = _leader(results)
    return Found(best, study.trials[best], results[best, top], before, len(results), failed)


def _write(out: Path, study: TuningStudy, found: Found) -> None:
    """The best settings, and beside them a table of all results."""
    description = read_json(study.folder / CONFIG)
    settings = {**study.options(found.settings), "found": {"trial": found.trial, **found.result, "by": description}}
    report = study.folder / REPORT
    report.mkdir(exist_ok=True)
    rows = [
        {"trial": trial, "budget": budget, **asdict(study.trials[trial]), **result}
        for (trial, budget), result in sorted(_results(study).items())
    ]
    table = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n"
    for place, name in ((out.parent, out.name), (report, "settings.json")):
        write_json(place / name, settings)
    for path in (out.with_suffix(".trials.csv"), report / "trials.csv"):
        atomic_write_bytes(path, table.encode())
