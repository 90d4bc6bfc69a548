"""Runs in MLflow: one Ray actor owns the client, so that logging never holds up a search."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import gennape
from gennape.errors import GennapeError, WorkspaceError
from gennape.platform.workspace import atomic_write_bytes
from gennape.source import commit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlflow import MlflowClient

#: What MLflow reads from the environment, here and in the user interface: no telemetry, no job processes, no chatter.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
EXPERIMENT = "gennape"
START_TIMEOUT_S = 180.0  # the first run of a workspace creates the database: some 10 s, more on a busy machine
FLUSH_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 300.0
RETRY_WAITS = (0.2, 1.0, 5.0)
MOST_METRICS = 1000  # in one call, a limit of MLflow

#: One logged value: (name, value, step, milliseconds since 1970).
Row = tuple[str, float, int, int]
log = logging.getLogger(__name__)


def store_uri(workspace: Path) -> str:
    """MLflow's address of the store of a workspace; raises :class:`WorkspaceError` where MLflow could not open it."""
    path = str((workspace / "mlflow.db").absolute())
    if set(path) & set("%?"):
        raise WorkspaceError(
            f"MLflow cannot keep its store under a path with % or ?, got {path}; use another workspace"
        )
    return f"sqlite:///{path}"


def open_store(workspace: Path) -> tuple[MlflowClient, str]:
    """A client of the workspace's store and the id of the experiment, both made if absent.

    Raises :class:`WorkspaceError` when the store is unreadable, not writable, or of another MLflow version.
    """
    os.environ.update(ENVIRONMENT)
    from mlflow import MlflowClient  # noqa: PLC0415 (2 s, and it must see the environment)
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    try:
        client = MlflowClient(store_uri(workspace))
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return client, str(found.experiment_id)
        artifacts = (workspace / "artifacts").absolute().as_uri()
        return client, str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise WorkspaceError(
            f"cannot open the MLflow store {workspace / 'mlflow.db'}: {_brief(error)}; move it away to begin a new one"
        ) from error


class _Actor:
    """Owns the client of one run. Its methods repeat what fails for a moment, such as a locked database."""

    def start(
        self, workspace: Path, name: str, parameters: dict[str, str], tags: dict[str, str], run: str | None
    ) -> str:
        self.client, experiment = open_store(workspace)
        from mlflow.entities import Param, RunTag  # noqa: PLC0415
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        if run is None:
            self.run: str = self.client.create_run(experiment, run_name=name).info.run_id
            known: dict[str, str] = {}
        else:
            try:
                known = self.client.get_run(run).data.params
            except MlflowException as error:
                raise WorkspaceError(f"no MLflow run {run} in {workspace} to continue: {_brief(error)}") from error
            self.run = run
            self.client.update_run(run, status="RUNNING")
        # MLflow refuses to change a parameter: what differs when a run is continued becomes a tag.
        changed = {f"resumed.{key}": value for key, value in parameters.items() if known.get(key, value) != value}
        new = [Param(key, value) for key, value in parameters.items() if key not in known]
        self.client.log_batch(self.run, params=new, tags=[RunTag(k, v) for k, v in {**tags, **changed}.items()])
        return self.run

    def metrics(self, rows: Sequence[Row]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        for first in range(0, len(rows), MOST_METRICS):
            batch = [Metric(name, value, time, step) for name, value, step, time in rows[first : first + MOST_METRICS]]
            _persist(partial(self.client.log_batch, self.run, metrics=batch))

    def artifacts(self, folder: Path) -> None:
        _persist(partial(self.client.log_artifacts, self.run, str(folder)))

    def end(self, status: str) -> None:
        _persist(partial(self.client.set_terminated, self.run, status=status))


def _persist(action: Callable[[], Any]) -> None:
    for wait in RETRY_WAITS:
        try:
            action()
        except Exception as error:  # noqa: BLE001 (whatever the store raises; the last try tells)
            log.info("MLflow: %s; trying again in %s s", _brief(error), wait)
            time.sleep(wait)
        else:
            return
    action()


class Tracker:
    """A run in MLflow, from the side of the search. Nothing here raises because of MLflow, except ``run_id``."""

    def __init__(self, actor: Any, started: ray.ObjectRef[str]) -> None:
        self._actor, self._started = actor, started
        self._waiting: list[Row] = []
        self._sent: list[Row] = []
        self._answer: ray.ObjectRef[None] | None = None
        self._lost: list[Row] = []
        self._failures: list[str] = []

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; waits until the store is open. Raises :class:`WorkspaceError` when it cannot be."""
        try:
            run: str = ray.get(self._started, timeout=START_TIMEOUT_S)
        except (RayError, GetTimeoutError) as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            raise (
                cause
                if isinstance(cause, GennapeError)
                else WorkspaceError(f"MLflow did not open its store: {_brief(cause)}")
            ) from error
        return run

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` at ``step``. Returns at once; values wait here while the last ones are being written."""
        now = int(time.time() * 1000)
        self._waiting += [(name, float(value), step, now) for name, value in values.items()]
        self._send()

    def artifacts(self, folder: Path) -> None:
        """Copy the files of ``folder`` into the run, and wait for it."""
        try:
            ray.get(self._actor.artifacts.remote(folder.absolute()), timeout=UPLOAD_TIMEOUT_S)
        except (RayError, GetTimeoutError) as error:
            self._failures.append(f"the files of {folder} are not in MLflow: {_brief(error)}")

    def _send(self, wait_s: float = 0) -> None:
        """Hand what waits to the actor, unless it is still writing what it was given before."""
        if self._answer is not None:
            if not ray.wait([self._answer], timeout=wait_s)[0] and wait_s == 0:
                return
            try:
                ray.get(self._answer, timeout=0.1)
            except (RayError, GetTimeoutError) as error:
                self._lost += self._sent
                self._failures.append(_brief(error))
            self._answer, self._sent = None, []
        if self._waiting:
            self._sent, self._waiting = self._waiting, []
            self._answer = self._actor.metrics.remote(self._sent)

    def _close(self, status: str, spill: Path) -> None:
        self._flush(status)
        if self._lost:
            lines = [
                json.dumps(dict(zip(("name", "value", "step", "time_ms"), row, strict=True))) for row in self._lost
            ]
            atomic_write_bytes(spill, ("\n".join(lines) + "\n").encode())
            self._failures.append(f"{len(self._lost)} values that MLflow did not take are in {spill}")
        if self._failures:
            log.warning("tracking is incomplete: %s", "; ".join(dict.fromkeys(self._failures)))

    def _flush(self, status: str) -> None:
        try:
            self.run_id  # noqa: B018 (nothing can be written before the store is open)
        except WorkspaceError as error:
            self._lost, self._failures = self._lost + self._sent + self._waiting, [str(error)]
            return
        for _ in range(2):  # what was sent, then what was waiting
            self._send(FLUSH_TIMEOUT_S)
        try:
            ray.get(self._actor.end.remote(status), timeout=FLUSH_TIMEOUT_S)
        except (RayError, GetTimeoutError) as error:
            self._failures.append(_brief(error))


@contextmanager
def track(
    workspace: Path, run_name: str, parameters: Mapping[str, str], run_id: str | None = None
) -> Iterator[Tracker]:
    """A run of the experiment "gennape" in ``workspace``, or the run ``run_id`` continued; needs an initialised Ray.

    Returns at once: the store opens while the search starts. The run ends FINISHED, KILLED on ``KeyboardInterrupt`` and
    FAILED on any other exception. What MLflow did not take is reported once, as a warning of this module's logger, at
    the end; metrics among it are kept in ``unlogged_metrics.jsonl`` of the run's folder.

    Raises :class:`WorkspaceError` for a workspace whose path MLflow cannot use.
    """
    store_uri(workspace)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # it writes local files
    actor: Any = ray.remote(_Actor).options(num_cpus=0, scheduling_strategy=here).remote()
    started = actor.start.remote(workspace.absolute(), run_name, dict(parameters), provenance(), run_id)
    tracker = Tracker(actor, started)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        folder = workspace / "runs" / run_name
        tracker._close(status, (folder if folder.is_dir() else workspace) / "unlogged_metrics.jsonl")
        ray.kill(actor)


def provenance() -> dict[str, str]:
    """Tags that tell which code ran: the version, and in a checkout the git commit (``-dirty`` when changed)."""
    tags = {"gennape.version": gennape.__version__, "mlflow.source.name": "gennape"}
    if (found := commit()) is not None:
        tags["mlflow.source.git.commit"] = found
    return tags


def _brief(error: BaseException) -> str:
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"
