"""MLflow's user interface on the runs of a workspace, for its owner alone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from gennape.errors import ServiceError
from gennape.platform.serving.http.server import bound_socket, url_of
from gennape.platform.tracking.store import ENVIRONMENT, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Ui:
    """A running web interface: where it listens, its process, and the links that open it."""

    address: str
    process: subprocess.Popen[bytes]
    first: str
    told: IO[bytes]

    @property
    def links(self) -> Iterator[str]:
        """A link, and one more each time that the one before was used: each works once. Ends when the server does."""
        yield self.first
        for line in self.told:
            yield self.address + line.decode().strip()


@contextmanager
def serve_ui(workspace: Path, port: int) -> Iterator[Ui]:
    """MLflow's web interface on loopback for the length of the block, for whoever opens one of its links.

    The store is made if there is none yet; runs that begin later appear. ``port`` 0 takes a free one.
    Raises :class:`ServiceError` for a port in use or a server that does not answer, and :class:`WorkspaceError` for a
    store that cannot be opened.
    """
    with bound_socket(HOST, port) as bound, tempfile.TemporaryFile() as words:
        address = url_of(bound)
        _, experiment = open_store(workspace)
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as told:
            process = _start(workspace.absolute(), bound.fileno(), writing, experiment, words)
            try:
                first = _await_link(process, told, words)
                yield Ui(address, process, address + first, told)
            finally:
                _end(process)


def _start(workspace: Path, listening: int, writing: int, experiment: str, words: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "gennape.platform.tracking.ui.server",
        str(workspace),
        str(listening),
        str(writing),
        experiment,
    ]
    try:
        return subprocess.Popen(  # noqa: S603 (our own arguments)
            command,
            cwd=workspace,  # MLflow may make folders where it is started
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,  # it ends when this does
            stdout=words,
            stderr=words,
            pass_fds=(listening, writing),
            start_new_session=True,
        )
    finally:
        os.close(writing)


def _await_link(process: subprocess.Popen[bytes], told: IO[bytes], words: IO[bytes]) -> str:
    """The first link, which is told once the server answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([told], [], [], 0.5)[0] and (line := told.readline()):
            return line.decode().strip()
    status = "does not answer" if process.poll() is None else f"ended with status {process.returncode}"
    words.seek(0)
    last = " / ".join(words.read().decode(errors="replace").strip().splitlines()[-3:])
    raise ServiceError(f"MLflow's interface {status}; its last words: {last}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and what it started: its whole session."""
    if process.stdin is not None:
        process.stdin.close()
    for how, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
