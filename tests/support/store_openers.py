"""Processes that open the store of one new workspace at the same moment, and some that are killed meanwhile.

    python store_openers.py together FOLDER COUNT...
    python store_openers.py killed FOLDER TIMES SEED

They are forked from one process that has imported MLflow, which alone would keep them seconds apart.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
import traceback
from contextlib import closing
from pathlib import Path

from gennape.platform.tracking.store import ENVIRONMENT, open_store

os.environ.update(ENVIRONMENT)
import mlflow.store.tracking.sqlalchemy_store


def start(workspace: Path, run: str) -> int:
    """A process that opens the store and records a run; its exit status tells whether it could."""
    if child := os.fork():
        return child
    status = 1
    try:
        client, experiment = open_store(workspace)
        client.set_terminated(client.create_run(experiment, run_name=run).info.run_id)
        status = 0
    except Exception:  # noqa: BLE001 (told before this process ends without a word)
        traceback.print_exc()
    finally:
        os._exit(status)


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def runs(workspace: Path) -> int:
    with closing(sqlite3.connect(workspace / "mlflow.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0])


def together(folder: Path, count: int) -> None:
    """So many at once."""
    workspace = folder / str(count)
    workspace.mkdir()
    statuses = [status_of(child) for child in [start(workspace, f"run {i}") for i in range(count)]]
    assert statuses == [0] * count, statuses
    assert runs(workspace) == count


def killed(folder: Path, times: int, seed: int) -> None:
    """In each of some workspaces one is killed at a random moment of the making, then two succeed."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    began = time.monotonic()
    together(folder, 1)
    lasts, cut = time.monotonic() - began, 0
    for number in range(times):
        workspace = folder / f"killed-{number}"
        workspace.mkdir()
        victim = start(workspace, "victim")
        time.sleep(rng.uniform(0, lasts))
        os.kill(victim, signal.SIGKILL)
        status_of(victim)
        cut += not (workspace / "mlflow.db").exists()
        before = 0 if not (workspace / "mlflow.db").exists() else runs(workspace)
        assert [status_of(child) for child in [start(workspace, f"run {i}") for i in range(2)]] == [0, 0]
        assert runs(workspace) == before + 2
        assert not [path for path in workspace.iterdir() if path.name.startswith(".mlflow.") and ".db" in path.name]
    sys.stdout.write(f"{cut} of {times} were killed before the store was whole\n")


if __name__ == "__main__":
    assert mlflow.store.tracking.sqlalchemy_store
    if sys.argv[1] == "together":
        for how_many in sys.argv[3:]:
            together(Path(sys.argv[2]), int(how_many))
    else:
        killed(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
