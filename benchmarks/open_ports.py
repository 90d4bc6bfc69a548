"""Who can reach the sockets that each verb opens: all that it and its processes listen on while it runs.

    python benchmarks/open_ports.py
    python benchmarks/open_ports.py --verb search --verb serve

Needs nothing but gennape: labels, images and networks are small and made here. One line a verb: listening sockets that
other machines can reach, and those on loopback.
"""

from __future__ import annotations

import argparse
import io
import ipaddress
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LABELS = Path(__file__).resolve().parent / "labels" / "hiaml.csv"
TIMEOUT_S = 400.0
LOOK_EVERY_S = 0.3
STOP_AFTER_S = 3.0  # once a verb that does not end by itself says that it is ready

TRAINING = "--images images.parquet --epochs 1 --batch 32 --device cpu --workers 1 --workspace ws"
#: Small forms of the verbs that start something that listens; ``verify`` goes on from what ``search`` left.
VERBS = {
    "search": "--space hiaml --evaluations 60 --population 10 --islands 2 --workspace ws --cluster",
    "serve": "--port 0",
    "convert": "--space hiaml --sample 60 --shard-size 20 --workers 2 --to graphs",
    "pretrain": "--space hiaml --sample 200 --epochs 2 --batch 16 --hidden 8 --layers 1 --embedding 4 --workers 2 "
    "--out encoder --workspace ws",
    "label": f"{TRAINING} --space hiaml --sample 1 --out labels.csv",
    "tune": f"--data {LABELS} --space hiaml --trials 2 --rows 60 --epochs 1 --pretrain-epochs 1 --rungs 1 --batch 16 "
    "--minimum-accuracy 0 --out tuned.json --workspace ws",
    "verify": f"{TRAINING} --run latest --points 2 --trainings 1 --out verified",
    "ui": "--port 0 --workspace ws",
}
#: A local Ray and one task, as any program that imports Ray first has it.
RAY = """
import time
import ray
from gennape.platform.cluster.connection import local_ray
with local_ray(None, 2):
    ray.get(ray.remote(lambda: time.sleep(2)).remote())
"""
PROGRAMS = {"local_ray": RAY}
READY = {"serve": "serving checkpoint", "ui": "MLflow: "}


@dataclass(frozen=True)
class Listening:
    """A socket that waits for connections."""

    process: str
    address: str
    port: int

    @property
    def open(self) -> bool:
        """Whether other machines can reach it."""
        ip = ipaddress.ip_address(self.address)
        mapped = getattr(ip, "ipv4_mapped", None)
        return not (mapped or ip).is_loopback


def measure(verb: str, folder: Path) -> set[Listening]:
    """Run a verb in ``folder``; all that listened while it ran. Raises :class:`RuntimeError` where it failed."""
    words = ["-c", PROGRAMS[verb]] if verb in PROGRAMS else ["-m", "gennape", verb, *VERBS[verb].split()]
    command = [sys.executable, *words]
    with (folder / f"{verb}.log").open("w+") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)  # noqa: S603 (our own words)
        try:
            found = _watch(process, READY.get(verb), folder / f"{verb}.log")
        finally:
            if process.poll() is None:
                process.terminate()  # Ctrl-C would not do where this was started with that ignored
            process.wait(60)
        if process.returncode != (128 + signal.SIGTERM if verb in READY else 0):
            said.seek(0)
            raise RuntimeError(f"{verb} ended with {process.returncode}: {said.read()[-2000:]}")
    return found


def _watch(process: subprocess.Popen[bytes], ready: str | None, log: Path) -> set[Listening]:
    found: dict[tuple[str, int], Listening] = {}
    deadline, stop = time.monotonic() + TIMEOUT_S, float("inf")
    while process.poll() is None and time.monotonic() < min(deadline, stop):
        found |= {(socket.address, socket.port): socket for socket in listening(process.pid)}
        if ready is not None and stop == float("inf") and ready in log.read_text():
            stop = time.monotonic() + STOP_AFTER_S
        time.sleep(LOOK_EVERY_S)
    return set(found.values())


def listening(pid: int) -> set[Listening]:
    """What a process and all below it listen on at present."""
    try:
        root = psutil.Process(pid)
        names = {process.pid: process.name() for process in [root, *root.children(recursive=True)]}
    except psutil.NoSuchProcess:  # one of them ended meanwhile: the next look tells
        return set()
    return {
        Listening(names[socket.pid], socket.laddr.ip, socket.laddr.port)
        for socket in psutil.net_connections("inet")
        if socket.pid in names and (socket.status == psutil.CONN_LISTEN or (socket.type == 2 and not socket.raddr))
    }


def prepare(folder: Path) -> None:
    """Images that tell their class by their brightness."""
    rng, rows = np.random.default_rng(0), []
    for label in [0, 1] * 48:
        out = io.BytesIO()
        Image.fromarray(rng.integers(100 * label, 100 * label + 100, (32, 32, 3), dtype=np.uint8)).save(out, "PNG")
        rows.append((out.getvalue(), label))
    table = pa.table({"image": pa.array([i for i, _ in rows], pa.binary()), "label": pa.array([n for _, n in rows])})
    pq.write_table(table.replace_schema_metadata({"classes": "dark,bright"}), folder / "images.parquet")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--verb", action="append", choices=[*PROGRAMS, *VERBS], help="may be repeated; all of them by default"
    )
    parser.add_argument("--names", action="store_true", help="also the processes that listen, with their addresses")
    options = parser.parse_args()
    out = sys.stdout.write
    out("| verb | reachable from other machines | on loopback |\n|---|--:|--:|\n")
    with tempfile.TemporaryDirectory(prefix="gennape-") as name:
        prepare(Path(name))
        for verb in options.verb or [*PROGRAMS, *VERBS]:
            found = measure(verb, Path(name))
            out(f"| `{verb}` | {sum(s.open for s in found)} | {sum(not s.open for s in found)} |\n")
            if options.names:
                out("".join(f"    {s.process} {s.address} {s.port}\n" for s in sorted(found, key=repr)))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
