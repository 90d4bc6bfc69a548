"""Runs in MLflow: a process of its own owns the client, behind a journal, so that logging never holds up a search."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gennape.errors import WorkspaceError
from gennape.platform.tracking.journal import (
    Journal,
    JournalRecord,
    clear,
    journal_folder,
    keep_image,
    lock_journal,
    new_token,
    read_offset,
    read_record,
    values_after,
    write_record,
)
from gennape.platform.tracking.sender import State
from gennape.platform.tracking.sender_process import SenderLostError, SenderProcess
from gennape.platform.tracking.store import brief, open_store, provenance, server_address, store_uri
from gennape.platform.workspace.hints import command, workspace_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Tracker", "open_store", "provenance", "store_uri", "track"]

START_TIMEOUT_S = 180.0  # the first run of a workspace creates the database: some 10 s, more on a busy machine
#: At the end: how long a server that fails is still tried, and how long is waited while nothing moves.
GRACE_S, STILL_S = 5.0, 180.0
TOLD_AFTER = 3  # failures to open the store of the workspace: it may be locked for a moment
LOOK_S, POLL_S = 1.0, 0.05
REVIVALS = 5
log = logging.getLogger(__name__)


class Tracker:
    """A run in MLflow, from the side of the search. Nothing here raises because of MLflow, except ``run_id``."""

    def __init__(self, folder: Path, workspace: Path, server: str | None, start: Mapping[str, Any]) -> None:
        self._folder, self._workspace, self._server = folder, workspace, server
        self._journal = Journal(folder)
        self._lost: list[str] = []
        self._revived, self._known, self._closed = 0, "", False
        self._looked = self._asked = time.monotonic()
        self._append(start)  # before the sender looks
        self._start_sender()

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty while a server has not answered yet, for no run waits for that.

        Waits for the store of the workspace, and raises :class:`WorkspaceError` when that cannot be opened.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._closed:
            state = self._ask()
            if state.run_id or self._server is not None:
                return state.run_id
            if state.failures >= TOLD_AFTER or time.monotonic() > deadline:
                raise WorkspaceError(state.error or f"MLflow did not open its store in {START_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        return self._known

    def run_id_so_far(self) -> str:
        """MLflow's id of the run if it is known by now, else empty. Does not wait, and asks at most every second.

        Raises :class:`WorkspaceError` when the store of the workspace cannot be opened.
        """
        if not self._known and time.monotonic() - self._asked > LOOK_S:
            self._asked = time.monotonic()
            state = self._ask()
            if self._server is None and not state.run_id and state.failures >= TOLD_AFTER:
                raise WorkspaceError(state.error)
            self._known = state.run_id
        return self._known

    def metrics(self, step: int, values: Mapping[str, float], child: str | None = None) -> None:
        """Log ``values`` at ``step``, of the run or of its child run called ``child``. Never waits for MLflow."""
        self._append({"metrics": {name: float(value) for name, value in values.items()}, "step": step, "child": child})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run: unlike a parameter, a tag may be set anew."""
        self._append({"tag": dict(values)})

    def artifacts(self, folder: Path) -> None:
        """Copy the files of ``folder`` into the run, from where they stay: soon, or once the server is back."""
        self._append({"artifacts": str(folder.absolute())})

    def image(self, path: Path, step: int) -> None:
        """Show a picture (PNG) as it is now among those of its name, at ``step``."""
        name = f"{path.stem}-{step}{path.suffix}"
        try:
            keep_image(self._folder, path, name)
        except OSError as error:
            self._lost.append(brief(error))
            return
        self._append({"image": name, "key": path.stem, "step": step})

    def _append(self, entry: Mapping[str, Any]) -> None:
        try:
            self._journal.append({**entry, "time": int(time.time() * 1000)})
        except OSError as error:
            self._lost.append(brief(error))
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            self._revive()

    # The sender ------------------------------------------------------------------------------------------------------

    def _start_sender(self) -> None:
        self._sender = SenderProcess(self._folder.absolute(), self._workspace.absolute())

    def _revive(self) -> str:
        """Start another sender where the first was lost, a few times; why it was lost, if it was."""
        if not (why := self._sender.lost()):
            return ""
        if self._revived < REVIVALS:
            self._revived += 1
            self._sender.end()
            self._start_sender()
        return f"the tracker was lost: {why}"

    def _ask(self) -> State:
        try:
            return self._sender.state(START_TIMEOUT_S)
        except SenderLostError as error:
            given_up = self._revived >= REVIVALS
            return State(failures=TOLD_AFTER if given_up else 1, error=self._revive() or str(error))

    def _close(self, status: str) -> None:
        if not self._folder.is_dir():
            self._abandon(status)
            return
        self._append({"end": status})
        try:
            self._journal.close()
        except OSError as full:  # a disk may say so only now
            self._lost.append(brief(full))
        try:
            error = self._drain()
            self._known, self._closed = self._ask().run_id, True
        finally:
            self._sender.end()
        if error is None:
            clear(self._folder, status == "FINISHED")
        else:
            send = command("ui", workspace=workspace_option(self._workspace), tracking_uri=self._server)
            left = values_after(self._folder, read_offset(self._folder))
            log.warning(
                "tracking is incomplete: %s values and what else MLflow did not take wait in %s until the run is "
                "resumed, or `%s` sends them; %s", left, self._folder, send, error,
            )  # fmt: skip
        if self._lost:
            log.warning("tracking is incomplete: %s calls lost, as %s was not writable: %s", len(self._lost),
                        self._folder, self._lost[0])  # fmt: skip

    def _abandon(self, status: str) -> None:
        """End a run whose journal was deleted while it was written: MLflow has what it had got by then."""
        try:
            self._sender.abandon(status, GRACE_S)
        except SenderLostError as error:
            log.warning("the run in MLflow is not ended, its journal %s is gone: %s", self._folder, error)
        self._closed = True
        self._sender.end()

    def _drain(self) -> str | None:
        """Wait until MLflow has everything; else why not. A server that fails is given up soon, one that works not."""
        began = moved = time.monotonic()
        position, end = None, self._journal.position
        while read_offset(self._folder) < end:
            state, now = self._ask(), time.monotonic()
            if state.position != position:
                position, moved = state.position, now
            if (state.failures and now - began > GRACE_S) or now - moved > STILL_S:
                return state.error or f"nothing moved for {STILL_S:.0f} s"
            with suppress(SenderLostError):  # the next question finds out, and starts another
                self._sender.send_now()
            time.sleep(POLL_S)
        return None


@contextmanager
def track(
    workspace: Path, run_name: str, parameters: Mapping[str, str], run_id: str | None = None, server: str | None = None
) -> Iterator[Tracker]:
    """A run of the experiment "gennape", begun or, where there is one of that name, continued.

    It is recorded at ``server``; without one, where it was recorded before, else at $MLFLOW_TRACKING_URI, else in the
    store of ``workspace``. ``run_id`` names the run to continue where only MLflow knows it; what the workspace's store
    does not hold any more is begun anew. Returns at once: the store opens while the search starts. The run ends
    FINISHED, KILLED on ``KeyboardInterrupt`` and FAILED on any other exception. What MLflow has not taken at the end
    stays in the run's journal and is told once, as a warning of this module's logger; the next run of that name sends
    it first, or :func:`resend_pending`.

    Raises :class:`ConfigError` for an address of no server, :class:`WorkspaceError` for a workspace whose path MLflow
    cannot use, and for a run that another process tracks.
    """
    folder = journal_folder(workspace, run_name)
    server_address(server)  # before a folder is made
    with lock_journal(folder):
        record = _record(folder, run_id, server)
        if record.server is None:
            store_uri(workspace)
        start = {"start": run_name, "parameters": dict(parameters), "tags": provenance()}
        tracker = Tracker(folder, workspace, record.server, start)
        status = "FAILED"
        try:
            yield tracker
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracker._close(status)


def _record(folder: Path, run_id: str | None, server: str | None) -> JournalRecord:
    record = read_record(folder)
    if record is None:
        record = JournalRecord(server_address(server), new_token())
    elif server is not None:
        record.server = server_address(server)
    record.run_id = run_id or record.run_id
    write_record(folder, record)
    return record
