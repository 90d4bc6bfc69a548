"""Sends a journal to MLflow in order and in batches, each entry exactly once however often the server is away."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gennape.errors import GennapeError, WorkspaceError
from gennape.platform.tracking.journal import (
    IMAGES,
    Offset,
    entries,
    flush,
    read_offset,
    read_record,
    refuse,
    run_name,
    write_offset,
    write_record,
)
from gennape.platform.tracking.store import ENVIRONMENT, IMPATIENT, PARENT, brief, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlflow import MlflowClient

MAX_METRICS = 1000  # in one call, a limit of MLflow
#: How often the journal is looked at, and how long a server that is away is left alone: longer each time.
POLL_S = 0.25
FIRST_WAIT_S, MAX_WAIT_S, FLUSH_S = 0.2, 15.0, 1.0
_THUMBNAIL = 256  # pixels at most, of what MLflow shows first
TOKEN = "gennape.tracking"  # noqa: S105 (the name of a tag, not a secret)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """How far a sender has got. ``run_id``: once the run is begun. ``failures``: in a row; ``error`` is the last."""

    run_id: str = ""
    position: Offset | None = None
    failures: int = 0
    error: str = ""


class Sender:
    """Sends the journal in ``folder`` to the server that its record names, or to the store of ``workspace``.

    A batch whose answer was lost is sent again, unchanged. MLflow's stores of tables take no row twice whose name,
    value, step and time are equal, so that nothing is doubled; runs, child runs and model versions are looked for
    before they are made, and a file that is sent again replaces itself.
    """

    def __init__(self, folder: Path, workspace: Path) -> None:
        os.environ.update(ENVIRONMENT | IMPATIENT)  # before anything of MLflow is imported
        record = read_record(folder)
        if record is None:
            raise WorkspaceError(f"{folder} does not say which run it is of; remove it, it cannot be sent")
        self.folder, self.workspace, self.record = folder, workspace, record
        self.position = read_offset(folder)
        self.versions: list[str] = []
        self.unregistered = ""  # why a model was refused for good
        self.started, self.ended = False, ""
        self._failures, self._error = 0, ""
        self._send_now = threading.Event()
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._children: dict[str, str] = {}
        self._unanswered = False  # whether a child may have been made although the answer was lost

    def state(self) -> State:
        """The progress; safe to call from another thread."""
        begun = self._run() if self.started else ""
        return State(begun, self.position, self._failures, self._error)

    def send_now(self) -> None:
        """Retry now instead of after the wait."""
        self._send_now.set()

    def run(self) -> None:
        """Send what comes until the run has ended and all of it is sent; a server that is away is waited for."""
        while not self.ended:
            self._send_now.clear()
            wait = POLL_S
            try:
                self.send()
                self._failures, self._error = 0, ""
            except Exception as error:  # noqa: BLE001 (whatever MLflow raises: it is told, and tried again)
                self._failures, self._error = self._failures + 1, _reason(error)
                log.info("MLflow: %s", self._error)
                wait = min(FIRST_WAIT_S * 2 ** min(self._failures, 10), MAX_WAIT_S)
            self._wait(wait)

    def abandon(self, status: str) -> None:
        """End the run, if it has begun, without its journal, which is gone."""
        if self._client is not None and self.record.run_id is not None:
            self._end({"end": status, "time": int(time.time() * 1000)})

    def close_killed(self, time_ms: int) -> None:
        """End a run whose process was killed before it could say so, at the time of its last entry; it can go on."""
        if self.record.run_id is not None and self._mlflow().get_run(self._run()).info.status == "RUNNING":
            self._end({"end": "KILLED", "time": time_ms})

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._send_now.wait(min(left, FLUSH_S)):
            if self._failures:
                flush(self.folder)  # the only copy, for now

    def send(self) -> None:
        """Send all that the journal holds now. Raises what MLflow raises; what was taken before is not sent again."""
        batch: list[dict[str, Any]] = []
        size, position = 0, self.position
        for entry, after in entries(self.folder, self.position):
            self._mlflow()  # opened first, since it may begin the run anew, and finds its children
            if "metrics" not in entry or size >= MAX_METRICS:
                self._metrics(batch)
                self._taken(position)
                batch, size = [], 0
            if "metrics" in entry:
                batch.append(entry)
                size += len(entry["metrics"])
            else:
                self._single(entry)
                self._taken(after)
            position = after
        self._metrics(batch)
        self._taken(position)

    def _taken(self, position: Offset) -> None:
        if position != self.position:
            write_offset(self.folder, position)
            self.position = position

    # Entries ---------------------------------------------------------------------------------------------------------

    def _metrics(self, batch: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 (MLflow takes 2 s to import)

        rows: dict[str | None, list[Metric]] = {}
        for entry in batch:
            values = [Metric(name, value, entry["time"], entry["step"]) for name, value in entry["metrics"].items()]
            rows.setdefault(entry.get("child"), []).extend(values)
        for child, metrics in rows.items():
            run = self._run() if child is None else self._child(child, metrics[0].timestamp)
            for first in range(0, len(metrics), MAX_METRICS):
                self._log(run, metrics[first : first + MAX_METRICS])

    def _log(self, run: str, metrics: Sequence[Any]) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            self._mlflow().log_batch(run, metrics=metrics)
        except MlflowException as error:
            if not _is_refusal(error):
                raise
            if len(metrics) > 1:  # one bad value shall not take the others with it
                for metric in metrics:
                    self._log(run, [metric])
                return
            (bad,) = metrics
            entry = {"metrics": {bad.key: bad.value}, "step": bad.step, "time": bad.timestamp, "run": run}
            self._refuse(entry, error)

    def _single(self, entry: dict[str, Any]) -> None:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        actions = {
            "start": self._start, "tag": self._tag, "artifacts": self._artifacts, "model": self._model,
            "image": self._image,
            "end": self._end,
        }  # fmt: skip
        (kind,) = entry.keys() & actions.keys()
        try:
            actions[kind](entry)
        except FileNotFoundError as error:
            self._refuse(entry, error)
        except MlflowException as error:
            if self.record.run_id is None or not _is_refusal(error):
                raise
            self._refuse(entry, error)

    def _refuse(self, entry: Mapping[str, Any], error: Exception) -> None:
        log.warning("MLflow refuses %s: %s; it is kept in %s", str(entry)[:200], brief(error), self.folder)
        refuse(self.folder, entry, brief(error))
        if "model" in entry:
            self.unregistered = _reason(error)

    def _start(self, entry: Mapping[str, Any]) -> None:
        from mlflow.entities import Param, RunTag  # noqa: PLC0415

        client, parameters = self._mlflow(), entry["parameters"]
        if self.record.run_id is None:
            self._begin(client, entry["start"], entry["time"])
        run = self._run()
        known = client.get_run(run).data.params
        for each in (run, *self._children.values()):
            client.update_run(each, status="RUNNING")
        self.started, self.ended = True, ""
        # MLflow refuses to change a parameter: what differs when a run is continued becomes a tag.
        changed = {f"resumed.{key}": value for key, value in parameters.items() if known.get(key, value) != value}
        new = [Param(key, value) for key, value in parameters.items() if key not in known]
        client.log_batch(run, params=new, tags=[RunTag(k, v) for k, v in {**entry["tags"], **changed}.items()])

    def _tag(self, entry: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag  # noqa: PLC0415

        tags = [RunTag(name, value) for name, value in entry["tag"].items()]
        self._mlflow().log_batch(self._run(), tags=tags)

    def _artifacts(self, entry: Mapping[str, Any]) -> None:
        if not Path(entry["artifacts"]).is_dir():
            raise FileNotFoundError(f"{entry['artifacts']} is gone")
        self._mlflow().log_artifacts(self._run(), entry["artifacts"])

    def _image(self, entry: Mapping[str, Any]) -> None:
        """As MLflow's ``log_image`` names files, but so that a picture that is sent again replaces itself."""
        from mlflow.entities import RunTag  # noqa: PLC0415
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES  # noqa: PLC0415
        from PIL import Image  # noqa: PLC0415

        path = self.folder / IMAGES / entry["image"]
        unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.record.token} {entry['image']}")
        name = f"{entry['key']}+step+{entry['step']}+timestamp+{entry['time']}+{unique}"
        with tempfile.TemporaryDirectory(prefix="gennape-image-") as folder:
            whole, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
            whole.write_bytes(path.read_bytes())
            with Image.open(whole) as picture:
                picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
                picture.save(small)
            for each in (whole, small):
                self._mlflow().log_artifact(self._run(), str(each), "images")
        self._mlflow().log_batch(self._run(), tags=[RunTag(MLFLOW_LOGGED_IMAGES, "True")])
        path.unlink(missing_ok=True)

    def _model(self, entry: Mapping[str, Any]) -> None:
        from gennape.platform.tracking.model import add_version  # noqa: PLC0415

        checkpoint = Path(entry["model"])
        try:
            version = add_version(self._mlflow(), self._run(), checkpoint, entry["name"], entry["tags"])
        except GennapeError as error:  # the checkpoint is gone or another by now
            self._refuse(entry, error)
        else:
            self.versions.append(version)

    def _end(self, entry: Mapping[str, Any]) -> None:
        for run in (*self._children.values(), self._run()):
            self._mlflow().set_terminated(run, status=entry["end"], end_time=entry["time"])
        self.ended = entry["end"]

    # Runs ------------------------------------------------------------------------------------------------------------

    def _mlflow(self) -> MlflowClient:
        if self._client is None:
            client, self._experiment = open_store(self.workspace, self.record.server)
            if self.record.run_id is not None:
                if not _knows(client, self.record.run_id):
                    self._begin_anew(client)
                self._children = self._find_children(client)
            self._client = client
        return self._client

    def _begin(self, client: MlflowClient, name: str, time: int) -> None:
        # Looked for first: it may have been made although the answer was lost.
        found = client.search_runs([self._experiment], f"tags.`{TOKEN}` = '{self.record.token}'")
        tags = {TOKEN: self.record.token}
        self.record.run_id = found[0].info.run_id if found else self._make(client, name, tags, time)
        write_record(self.folder, self.record)

    def _begin_anew(self, client: MlflowClient) -> None:
        """In the place of a run that is not in MLflow.

        The store of a workspace is this workspace's alone: what it does not know is gone, as where its file was moved
        away to begin a new one. A server may be another than the one meant, or the same with the wrong database: what
        is sent there would be gone from here. Nothing waits for a server, so the journal is kept.
        """
        run, server = self._run(), self.record.server
        if server is not None:
            raise WorkspaceError(
                f"no MLflow run {run} at {server} to continue; name the server that holds it with --tracking-uri, or "
                f"remove {self.folder} and all that waits there to be sent"
            )
        log.warning("MLflow's store of %s does not hold the run %s; it goes on as a new one", self.workspace, run)
        self._begin(client, run_name(self.folder), int(time.time() * 1000))

    def _run(self) -> str:
        if self.record.run_id is None:
            raise WorkspaceError(f"{self.folder} begins in the middle of a run; remove it, it cannot be sent")
        return self.record.run_id

    def _child(self, name: str, time: int) -> str:
        client = self._mlflow()
        if name not in self._children and self._unanswered:
            self._children |= self._find_children(client)
        if name not in self._children:
            self._unanswered = True
            self._children[name] = self._make(client, name, {PARENT: self._run()}, time)
        self._unanswered = False
        return self._children[name]

    def _find_children(self, client: MlflowClient) -> dict[str, str]:
        found: dict[str, str] = {}
        token: str | None = None
        while True:  # MLflow tells a thousand at a time
            page = client.search_runs([self._experiment], f"tags.`{PARENT}` = '{self._run()}'", page_token=token)
            found |= {run.info.run_name: run.info.run_id for run in page}
            token = page.token
            if not token:
                return found

    def _make(self, client: MlflowClient, name: str, tags: dict[str, str], time: int) -> str:
        return str(client.create_run(self._experiment, time, tags, name).info.run_id)


def _knows(client: MlflowClient, run: str) -> bool:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        client.get_run(run)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _is_refusal(error: Any) -> bool:
    """Whether MLflow will say the same next time."""
    return bool(error.error_code == "INVALID_PARAMETER_VALUE")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, GennapeError) else brief(error)
