"""MLflow's user interface on the runs of a workspace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from gennape.errors import ServiceError
from gennape.platform.ports import claim_port
from gennape.platform.tracking_store import ENVIRONMENT, open_store, store_uri

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0


@contextmanager
def serve_ui(workspace: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """MLflow's web interface on loopback for the length of the block: its address and its process.

    The store is made if there is none yet; runs that begin later appear. ``port`` 0 takes a free one.
    Raises :class:`ServiceError` for a port in use or a server that does not answer, and :class:`WorkspaceError` for a
    store that cannot be opened.
    """
    port = claim_port(HOST, port)
    open_store(workspace)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store_uri(workspace)]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(  # noqa: S603 (our own arguments)
            command,
            cwd=workspace,  # MLflow may make folders where it is started
            env={**os.environ, **ENVIRONMENT},
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
        try:
            _await_answer(process, port, words)
            yield f"http://{HOST}:{port}", process
        finally:
            _end(process)


def _await_answer(process: subprocess.Popen[bytes], port: int, words: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        connection = HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            time.sleep(0.2)
        finally:
            connection.close()
    status = "does not answer" if process.returncode is None else f"ended with status {process.returncode}"
    words.seek(0)
    last = " / ".join(words.read().decode(errors="replace").strip().splitlines()[-3:])
    raise ServiceError(f"MLflow's interface {status} on port {port}; its last words: {last}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and the workers that it started: its whole session."""
    for how, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        if process.poll() is None:
            os.killpg(process.pid, how)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
