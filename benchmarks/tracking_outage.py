"""An outage drill of tracking: ``python benchmarks/tracking_outage.py --seconds 60 --kills 4 --seed 0``.

A real MLflow server with its own database and artifact store is killed (SIGKILL) and started again at seeded moments,
while a run logs 50 values a second, of itself and of a child run, and a file at its end. Then the server's database is
read: every value has to be there once, in the order it was logged, and the file whole. A second drill has a server that
is away when the run begins and away when it ends. Figures are how long a call of ``metrics`` took.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np

from gennape.platform.tracking.resend import resend_pending
from gennape.platform.tracking.store import ENVIRONMENT
from gennape.platform.tracking.tracker import Tracker, track

HOST, START_S = "127.0.0.1", 180.0
RATE, VALUES = 12.5, 4  # calls a second, and values of each: 50 values a second
CHILD = "island-0"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """An MLflow server of its own in a folder, always at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.address = f"http://{HOST}:{self.port}"
        self.database = folder / "server.db"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it where it does not run, and wait until it answers."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self.folder / "files"), "--serve-artifacts", "--workers", "1"]
        command += ["--host", HOST, "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as words:
            self._process = subprocess.Popen(  # noqa: S603 (our own arguments)
                command, cwd=self.folder, env={**os.environ, **ENVIRONMENT}, stdout=words, stderr=words,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"no MLflow server; see {self.folder / 'server.log'}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, with the processes it started, whatever they are doing."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        connection = HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def steps(self, run_name: str, metric: str) -> list[int]:
        """The steps of a metric in the order in which the database took them."""
        question = (
            "select step from metrics join runs on runs.run_uuid = metrics.run_uuid "
            "where runs.name = ? and key = ? order by metrics.rowid"
        )
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=60)
        try:
            return [step for (step,) in connection.execute(question, (run_name, metric))]
        finally:
            connection.close()

    def files(self, name: str) -> list[bytes]:
        """The contents of all files of a name in the artifact store."""
        return [path.read_bytes() for path in sorted((self.folder / "files").rglob(name))]


@dataclass(frozen=True)
class Load:
    """What was logged, and how long each call took, in seconds."""

    calls: int
    took: np.ndarray


def log_for(tracker: Tracker, seconds: float, first: int = 0) -> Load:
    """Log at the rate of the drill: half of the values of the run, half of its child."""
    took, begin, step = [], time.monotonic(), first
    while time.monotonic() - begin < seconds:
        values = {f"value_{i}": float(step) for i in range(VALUES // 2)}
        for child in (None, CHILD):
            before = time.perf_counter()
            tracker.metrics(step, values, child)
            took.append(time.perf_counter() - before)
        step += 1
        time.sleep(max(0.0, begin + (step - first) / RATE - time.monotonic()))
    return Load(step - first, np.array(took))


def check(server: Server, run_name: str, calls: int) -> None:
    """Fail unless each value was taken once, in order."""
    for name in (run_name, CHILD):
        for i in range(VALUES // 2):
            found = server.steps(name, f"value_{i}")
            if found != list(range(calls)):
                missing, doubled = len(set(range(calls)) - set(found)), len(found) - len(set(found))
                raise SystemExit(f"{name}: {missing} of {calls} values lost, {doubled} doubled, or out of order")


def drill(folder: Path, seconds: float, kills: int, rng: np.random.Generator) -> Load:
    """Log while the server is killed and started again; then check what it has."""
    server = Server(folder)
    server.start()
    moments = np.sort(rng.uniform(0.1, 0.9, kills)) * seconds
    pauses = rng.uniform(0, 5, kills)
    report = folder / "report"
    report.mkdir()
    (report / "front.csv").write_bytes(rng.bytes(1 << 20))

    def disturb() -> None:
        begin = time.monotonic()
        for moment, pause in zip(moments, pauses, strict=True):
            time.sleep(max(0.0, begin + moment - time.monotonic()))
            server.kill()
            time.sleep(pause)
            server.start()

    disturber = threading.Thread(target=disturb)
    try:
        with track(folder / "workspace", "drill", {"kills": str(kills)}, server=server.address) as t:
            disturber.start()
            load = log_for(t, seconds)
            t.artifacts(report)
            disturber.join()
        check(server, "drill", load.calls)
        if server.files("front.csv") != [(report / "front.csv").read_bytes()]:
            raise SystemExit("the file is not in the artifact store as it was")
    finally:
        disturber.join() if disturber.is_alive() else None
        server.kill()
    return load


def away_first_and_last(folder: Path, seconds: float) -> Load:
    """A server that comes after the run began and is gone before it ends; the journal is caught up with."""
    server = Server(folder)
    try:
        with track(folder / "workspace", "drill", {}, server=server.address) as tracker:
            first = log_for(tracker, seconds)
            server.start()
            second = log_for(tracker, seconds, first.calls)
            while not tracker.run_id:
                time.sleep(0.1)
            server.kill()
            third = log_for(tracker, seconds, first.calls + second.calls)
        loads = (first, second, third)
        calls = sum(load.calls for load in loads)
        server.start()
        (found,) = resend_pending(folder / "workspace")
        if found.problem or not found.values:
            raise SystemExit(f"nothing was left to send, or it was not taken: {found}")
        check(server, "drill", calls)
    finally:
        server.kill()
    return Load(calls, np.concatenate([load.took for load in loads]))


def main() -> None:
    """Run both drills and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    sys.stdout.write(
        "| outage | values | lost | doubled | metrics() p50, ms | p99 | longest |\n|---|--:|--:|--:|--:|--:|--:|\n"
    )
    for name in ("killed", "away at first and at last"):
        with tempfile.TemporaryDirectory() as path:
            folder, rng = Path(path), np.random.default_rng(a.seed)
            load = (
                drill(folder, a.seconds, a.kills, rng)
                if name == "killed"
                else away_first_and_last(folder, a.seconds / 6)
            )
        p50, p99, longest = 1000 * np.array([*np.percentile(load.took, [50, 99]), load.took.max()])
        words = f"{name} {a.kills} times" if name == "killed" else name
        sys.stdout.write(f"| {words} | {load.calls * VALUES:,} | 0 | 0 | {p50:.3f} | {p99:.3f} | {longest:.3f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
