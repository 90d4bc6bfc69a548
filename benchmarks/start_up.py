"""How long the README's search takes, and until its first evaluations: ``python benchmarks/start_up.py --rounds 3``.

Each round runs the command once in every way, in this process and on a Ray that is started for it, each time in a new
workspace, so that MLflow's database is made too. ``--tree former=FOLDER`` adds the source tree of another version, run
by the same Python. ``first`` is when the first generation is in the log, seconds after the command; ``total`` is when
the command has ended. ``processor`` is the time of all processes that the command started, looked at every tenth of a
second; another program on the machine lengthens it less than the others. Fronts of all ways must be the same bytes.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parents[1]
#: Of Linux: what was started by those who have ended becomes a child of this process, which then finds it.
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Way:
    """A source tree and the options that choose how it searches."""

    name: str
    tree: Path
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of one search, and its front."""

    first: float
    total: float
    processor: float
    front: bytes


def search_once(way: Way, evaluations: int, workspace: Path) -> Measured:
    """Run the command, and look at what it has started until that has ended."""
    command = [
        *(sys.executable, "-P", "-m", "gennape", "search", "--space", "ofa_mbv3", "--evaluations", str(evaluations)),
        *("--workspace", str(workspace), *way.options),
    ]
    environment, used = {**os.environ, "PYTHONPATH": str(way.tree)}, dict[psutil.Process, float]()
    with (workspace / "output").open("wb") as output:
        began = time.time()
        driver = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=workspace)  # noqa: S603
        while driver.poll() is None:
            _look(used)
            time.sleep(_POLL_S)
    total = time.time() - began
    if driver.returncode:
        raise SystemExit(f"{way.name}: {(workspace / 'output').read_text()}")
    while _look(used):
        time.sleep(_POLL_S)
    (front,) = workspace.glob("runs/*/report/front.csv")
    (shard,) = workspace.glob("runs/*/evaluations/000000.parquet")
    return Measured(shard.stat().st_mtime - began, total, sum(used.values()), front.read_bytes())


def _look(used: dict[psutil.Process, float]) -> bool:
    """Note the processor time of every process below this one; whether there is any that still runs."""
    running = False
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[process] = times.user + times.system
            running |= process.status() != psutil.STATUS_ZOMBIE
    return running


def main() -> None:
    """Print the median and the range of every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=5000)
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=FOLDER")
    given = parser.parse_args()
    others = [Way(name, Path(folder).absolute()) for name, _, folder in (each.partition("=") for each in given.tree)]
    ways = [Way("local", HERE, ("--local",)), Way("cluster", HERE, ("--cluster",)), *others]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    found: dict[str, list[Measured]] = {way.name: [] for way in ways}
    for _ in range(given.rounds):
        for way in ways:
            with tempfile.TemporaryDirectory() as folder:
                found[way.name].append(search_once(way, given.evaluations, Path(folder)))
    if len({each.front for row in found.values() for each in row}) != 1:
        raise SystemExit("the fronts differ")
    say = sys.stdout.write
    say(f"{'way':12}{'first s':>22}{'total s':>22}{'processor s':>22}\n")
    for name, row in found.items():
        columns = ([each.first for each in row], [each.total for each in row], [each.processor for each in row])
        say(f"{name:12}" + "".join(f"{_summary(column):>22}" for column in columns) + "\n")


def _summary(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
