"""Fault drill of a conversion: ``python benchmarks/fault_drill_conversion.py --kills 9``.

As ``fault_drill_pretraining.py``, of ``gennape convert``: when a worker, a node or the command was killed often enough,
has every file of the data set the bytes of an undisturbed conversion, and are there no others?
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from fault_drill_pretraining import NODES, Drill, say, schedule, start_cluster

from gennape.platform.cluster.connection import ENVIRONMENT, LOOPBACK

SHARD = 200


def conversion(rows: int, address: str, to: Path) -> list[str]:
    """The command."""
    return [
        sys.executable, "-m", "gennape", "convert", "--space", "nb301", "--sample", str(rows), "--shard-size",
        str(SHARD), "--workers", str(NODES), "--seed", "3", "--address", address, "--to", str(to),
    ]  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    """All files of a data set by name, but for the one that locks it."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def main() -> None:
    """Run the drill; the exit status tells whether it was passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Before Ray starts; on loopback, and tokens would be written to ~.
    os.environ.update(ENVIRONMENT | LOOPBACK | {"RAY_AUTH_MODE": "disabled"})
    rng, began, shards = np.random.default_rng(options.seed), time.monotonic(), 8 * (options.kills + 1)
    with tempfile.TemporaryDirectory(prefix="gennape-") as name, ExitStack() as stack:
        folder = Path(name)
        cluster = start_cluster(stack)

        def drill(out: str) -> Drill:
            command = conversion(shards * SHARD, cluster.address, folder / out)
            done = lambda: len(list((folder / out).glob("*.parquet")))  # noqa: E731
            made = Drill(cluster, command, done, "ShardWriter", folder / "log")
            stack.callback(made.close)
            return made

        first = drill("undisturbed")
        first.run([], [], rng)
        first.close()
        expected = files(folder / "undisturbed")
        say(f"undisturbed: {len(expected)} files, {time.monotonic() - began:.0f} s")
        drill("disturbed").run(*schedule(options.kills, int(0.7 * shards), rng), rng)
        found = files(folder / "disturbed")
    differing = sorted(name for name in {**expected, **found} if expected.get(name) != found.get(name))
    say(
        f"{options.kills} kills in {time.monotonic() - began:.0f} s: {len(found)} files, "
        f"same bytes {not differing}{' but for ' if differing else ''}{', '.join(differing)}"
    )
    if differing:
        raise SystemExit("drill failed")


if __name__ == "__main__":
    main()
