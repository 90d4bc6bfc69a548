"""Resends pending journals: of runs that ended while MLflow was unreachable, or were killed; the latter are ended."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gennape.errors import GennapeError, WorkspaceError
from gennape.platform.tracking.journal import (
    clear,
    entries,
    journals,
    lock_journal,
    read_offset,
    segments,
    values_after,
)
from gennape.platform.tracking.sender import Sender
from gennape.platform.tracking.store import brief

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resent:
    """The result for one journal: its folder and server, the values sent, and the ``problem`` if some are left."""

    folder: Path
    server: str | None
    values: int
    problem: str


def resend_pending(workspace: Path) -> Iterator[Resent]:
    """Send every journal of a workspace that no process writes, each to where its run is recorded, one after another.

    A server is tried once; what it does not take stays. A run that MLflow still calls running becomes KILLED.
    """
    for folder in journals(workspace):
        with ExitStack() as stack:
            try:
                stack.enter_context(lock_journal(folder))
            except WorkspaceError:  # its run is under way, and sends it
                continue
            if segments(folder):  # else its run has ended, and sent it
                yield _send(folder, workspace)


def _send(folder: Path, workspace: Path) -> Resent:
    before, server, problem = values_after(folder, read_offset(folder)), None, ""
    try:
        sender = Sender(folder, workspace)
        server = sender.record.server
        sender.send()
        if next(entries(folder, sender.position), None) is None:
            if not sender.ended:
                sender.close_killed(int(segments(folder)[-1].stat().st_mtime * 1000))
            clear(folder, sender.ended == "FINISHED")
    except GennapeError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 (whatever MLflow raises: it is told)
        problem = brief(error)
    left = values_after(folder, read_offset(folder)) if folder.is_dir() else 0
    return Resent(folder, server, before - left, problem)
