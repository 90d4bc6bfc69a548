"""Three ways of a pretraining's graphs to its workers: ``python benchmarks/pretraining_data.py --networks 50000``.

Files: each worker reads all Parquet shards. Store: the driver reads them and puts the packed arrays into Ray's object
store, which the workers of a machine share. Ray Data: reads the shards, shuffles them all and hands batches to a
worker, anew each epoch. Of each: seconds until the first batch can be taken, seconds to take the graphs of every batch
of an epoch, memory that the worker has of its own, and whether the batches are those that the seed decides.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gennape.platform.cluster.connection import ENVIRONMENT, local_ray
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.parquet import read_graphs, write_shards

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH, SEED = 256, 0


class Worker:
    """Takes batches, in a process of its own."""

    def __init__(self) -> None:
        import pyarrow as pa  # noqa: PLC0415

        pa.set_cpu_count(1)
        self.before = 0

    def warm_up(self, folder: Path) -> None:
        """Load what a way needs, so that it is not counted."""
        self.packed(folder)
        self.streamed(folder)
        self.before = self.own()

    def own(self) -> int:
        """Bytes that belong to this process alone."""
        import psutil  # noqa: PLC0415

        return int(psutil.Process().memory_full_info().uss)

    def packed(self, source: Any) -> tuple[float, float, int, list[int]]:
        """From files or from the store: seconds to begin, seconds of an epoch, bytes, rows of the first batch."""
        began = time.perf_counter()
        graphs = read_graphs(source, check=False)[0] if isinstance(source, Path) else source
        ready = time.perf_counter()
        order = np.random.default_rng(SEED).permutation(len(graphs))
        for i in range(len(graphs) // BATCH):
            graphs.take(order[i * BATCH : (i + 1) * BATCH])
        return ready - began, time.perf_counter() - ready, self.own() - self.before, order[:BATCH].tolist()

    def streamed(self, folder: Path) -> tuple[float, float, int, list[int]]:
        """By Ray Data, the same; its batches are tables, of which graphs would have to be made."""
        import ray  # noqa: PLC0415

        ray.data.DataContext.get_current().enable_progress_bars = False
        began = time.perf_counter()
        batches = ray.data.read_parquet(str(folder)).random_shuffle(seed=SEED).iter_batches(
            batch_size=BATCH, batch_format="pyarrow", drop_last=True
        )  # fmt: skip
        first = next(iter_ := iter(batches))
        ready = time.perf_counter()
        for _ in iter_:
            pass
        return ready - began, time.perf_counter() - ready, self.own() - self.before, first["row"].to_pylist()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=50_000)
    parser.add_argument("--family", default="nb101")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    import ray  # noqa: PLC0415

    space = family(options.family)
    graphs = space.graphs(space.sample(np.random.default_rng(1), options.networks))
    expected = np.random.default_rng(SEED).permutation(options.networks)[:BATCH].tolist()
    with tempfile.TemporaryDirectory() as name, local_ray(num_cpus=2):
        folder = Path(name)
        few = folder / "few"
        few.mkdir()
        write_shards(few, graphs.take(np.arange(2 * BATCH)), {"row": np.arange(2 * BATCH)})
        folder = folder / "all"
        folder.mkdir()
        write_shards(folder, graphs, {"row": np.arange(options.networks)})
        size = sum(path.stat().st_size for path in folder.iterdir())
        say(f"{options.networks:,} graphs of {options.family}, {size / 2**20:.1f} MiB of Parquet")
        say(f"{'way':10} {'first batch':>11} {'an epoch':>9} {'own memory':>11}  batches of the seed")
        ways: dict[str, Callable[[Any], Any]] = {
            "files": lambda worker: worker.packed.remote(folder),
            "store": lambda worker: worker.packed.remote(ray.put(read_graphs(folder, check=False)[0])),
            "Ray Data": lambda worker: worker.streamed.remote(folder),
        }
        for way, ask in ways.items():
            worker = ray.remote(num_cpus=0)(Worker).remote()
            ray.get(worker.warm_up.remote(few))
            began = time.perf_counter()
            start, epoch, memory, rows = ray.get(ask(worker))
            if way == "store":  # the driver's reading counts
                start = time.perf_counter() - began - epoch
            say(f"{way:10} {start:>9.2f} s {epoch:>7.2f} s {memory / 2**20:>7.0f} MiB  {rows == expected}")
            ray.kill(worker)


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
