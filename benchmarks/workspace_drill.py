"""Real commands in one workspace: ``python benchmarks/workspace_drill.py --together 2 4 8 --row 60 --signals 20``.

``--together``: so many searches begin at the same moment in a new workspace; all have to succeed, each with a run in
MLflow. ``--row``: so many searches, one after another. ``--signals``: so many searches, each ended by SIGTERM, sent to
its group of processes at a random moment from its start to its end.

After each the drill looks for what is left: processes that the command started, ports that are listened on, and files
in the folder for temporary ones, which is one of the drill's own. The exit status tells whether it was passed.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psutil

SEARCH = ("--space", "nb201", "--evaluations", "60", "--population", "20", "--cluster")
PATIENCE_S = 900.0
#: A process of the system may end a moment after the one that waited for it.
SETTLE_S = 10.0


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Command:
    """A search in a process and a group of its own, and all that it starts."""

    def __init__(self, workspace: Path, temporary: Path, seed: int, *more: str) -> None:
        arguments = ["search", *SEARCH, "--seed", str(seed), "--workspace", str(workspace), *more]
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"  # inherited by whatever it starts, whoever adopts that
        environment = {**os.environ, "TMPDIR": str(temporary), "GENNAPE_DRILL": self.mark, "OMP_NUM_THREADS": "1"}
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `end`)
        self.process = subprocess.Popen(  # noqa: S603 (our own arguments)
            [sys.executable, "-m", "gennape", *arguments],
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said."""
        status = self.process.wait(PATIENCE_S)
        self.output.seek(0)
        with self.output:
            return status, self.output.read()

    def left(self) -> list[str]:
        """What it started and has not ended: names of processes, and the ports that these listen on."""
        deadline = time.monotonic() + SETTLE_S
        while (found := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [f"{process.pid} {process.name()}" for process in found]

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("GENNAPE_DRILL") == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def ports() -> set[int]:
    """The ports that are listened on by processes of this user."""
    return {
        connection.laddr.port
        for connection in psutil.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def recorded(workspace: Path) -> list[str]:
    """The status of each search in MLflow."""
    with closing(sqlite3.connect(workspace / "mlflow.db")) as connection:
        query = "SELECT status FROM runs WHERE name NOT LIKE 'island-%'"
        return [row[0] for row in connection.execute(query)]


class WorkspaceDrill:
    """Counts what is wrong."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder = folder
        self.temporary = temporary
        self.faults: list[str] = []

    def expect(self, truth: object, fault: str) -> None:
        """Note a fault unless something is true."""
        if not truth:
            self.faults.append(fault)
            say(f"FAULT {fault}")

    def nothing_left(self, command: Command) -> None:
        """Look for what a command has left behind."""
        left = command.left()
        self.expect(not left, f"processes left: {left}")
        cache = f"torchinductor_{getpass.getuser()}"  # PyTorch's own for all processes of a user: empty, and made once
        files = sorted(p.name for p in self.temporary.iterdir() if p.name != cache or list(p.iterdir()))
        self.expect(not files, f"temporary files left: {files}")

    def together(self, count: int) -> None:
        """So many at once."""
        workspace, began = self.folder / f"together-{count}", time.monotonic()
        commands = [Command(workspace, self.temporary, seed) for seed in range(count)]
        for command in commands:
            status, said = command.end()
            self.expect(status == 0, f"one of {count} at once ended with {status}: {said[-2000:]}")
        for command in commands:
            self.nothing_left(command)
        found = recorded(workspace)
        self.expect(found == ["FINISHED"] * count, f"in MLflow, of {count}: {found}")
        say(f"{count} at once: {time.monotonic() - began:.0f} s, runs in MLflow {found.count('FINISHED')}")

    def row(self, count: int) -> None:
        """One after another."""
        workspace, before, took = self.folder / "row", ports(), []
        for seed in range(count):
            began = time.monotonic()
            command = Command(workspace, self.temporary, seed)
            status, said = command.end()
            self.expect(status == 0, f"number {seed} in a row ended with {status}: {said[-2000:]}")
            self.nothing_left(command)
            took.append(time.monotonic() - began)
        say(
            f"{count} in a row: {sorted(took)[count // 2]:.1f} s each, {len(ports() - before)} ports more, "
            f"{len(recorded(workspace))} runs in MLflow"
        )

    def signals(self, count: int, seed: int) -> None:
        """Ended at random moments."""
        workspace, rng, lasts = self.folder / "signals", random.Random(seed), 0.0  # noqa: S311 (no secret)
        for number in range(count + 1):
            began = time.monotonic()
            command = Command(workspace, self.temporary, number, "--evaluations", "1000")
            if number == 0:  # to know how long one takes
                command.end()
                lasts = time.monotonic() - began
                continue
            moment = rng.uniform(0, lasts)
            try:
                command.process.wait(moment)
            except subprocess.TimeoutExpired:
                os.killpg(command.process.pid, signal.SIGTERM)
            sent = time.monotonic()
            status, said = command.end()
            drained = time.monotonic() - sent
            # Before its first line Python itself ends, and has begun nothing.
            self.expect(status in (143, -signal.SIGTERM, 0), f"SIGTERM after {moment:.1f} s: {status}, {said[-2000:]}")
            self.expect("*** SIG" not in said and "Traceback" not in said, f"after {moment:.1f} s: {said[-2000:]}")
            self.nothing_left(command)
            say(f"SIGTERM after {moment:5.1f} of {lasts:.1f} s: status {status}, drained in {drained:.1f} s")
        for status_file in workspace.glob("runs/*/status.json"):
            status = json.loads(status_file.read_text())["status"]
            self.expect(status in ("interrupted", "finished"), f"{status_file} says {status}")


def main() -> None:
    """Run the drill; the exit status tells whether it was passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--together", type=int, nargs="*", default=[])
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--signals", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # A short path, else Ray's sockets would lie elsewhere.
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(prefix="wd", dir="/tmp") as temporary:
        drill = WorkspaceDrill(Path(folder), Path(temporary))
        for count in options.together:
            drill.together(count)
        if options.row:
            drill.row(options.row)
        if options.signals:
            drill.signals(options.signals, options.seed)
    say(f"{len(drill.faults)} faults")
    if drill.faults:
        raise SystemExit("drill failed")


if __name__ == "__main__":
    main()
