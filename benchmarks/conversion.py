"""Conversion of NAS-Bench-101 architectures to Parquet with 1 and 2 workers: ``python benchmarks/conversion.py``.

One Ray serves all runs and is started before the clock; the start of the workers is on the clock. Efficiency is the
graphs per second and worker relative to one worker. Memory is the most that a worker, and this driver, ever had.
Sampled architectures repeat (each is built once per file); ``--labels FILE`` converts a labelled file instead, whose
rows may all differ.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from gennape.platform.cluster.connection import local_ray
from gennape.platform.conversion.convert import ConversionConfig, convert
from gennape.platform.conversion.inputs import FamilySample, Inputs, labelled_file
from gennape.search_spaces.graphs.parquet import GRAPH_COLUMNS


def run(inputs: Inputs, folder: Path, config: ConversionConfig, workers: int) -> tuple[float, int]:
    """Seconds, and the most bytes of memory of a worker."""
    start = time.perf_counter()
    result = convert(inputs, folder, config, workers)
    return time.perf_counter() - start, result.peak_bytes


def bytes_per_graph(folder: Path) -> dict[str, float]:
    """On disk: all, and the share of the graphs themselves, of spectra and of the other columns."""
    sizes = dict.fromkeys(("file", "graph", "spectrum", "others"), 0.0)
    rows = 0
    for path in folder.glob("*.parquet"):
        footer = pq.read_metadata(path)
        rows += footer.num_rows
        sizes["file"] += path.stat().st_size
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                name = column.path_in_schema.removesuffix(".list.element")
                kind = "graph" if name in GRAPH_COLUMNS else "spectrum" if name == "spectrum" else "others"
                sizes[kind] += column.total_compressed_size
    return {kind: size / rows for kind, size in sizes.items()}


def distinct(folder: Path) -> int:
    """Networks that differ."""
    return len(set(pq.read_table(folder, columns=["hash"])["hash"].to_pylist()))


def contents(folder: Path) -> list[bytes]:
    """Of every shard."""
    return [path.read_bytes() for path in sorted(folder.glob("*.parquet"))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="nb101", help="family (default nb101)")
    parser.add_argument("--graphs", type=int, default=100_000, help="architectures to sample (default 100,000)")
    parser.add_argument("--labels", type=Path, help="convert this labelled file instead")
    parser.add_argument("--shard-size", type=int, help="rows of a file (default that of the verb)")
    parser.add_argument("--spectrum", type=int, default=21, help="eigenvalues of each graph (default 21)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers (default 1 2)")
    a = parser.parse_args()
    inputs = labelled_file(a.labels, a.space) if a.labels else FamilySample(a.space, a.graphs, 0)
    config = ConversionConfig(a.spectrum, a.shard_size or inputs.shard_size)
    with tempfile.TemporaryDirectory() as scratch, local_ray(num_cpus=max(a.workers)):
        sys.stdout.write(f"{'workers':>7} {'seconds':>8} {'graphs/s':>9} {'efficiency':>10} {'MiB a worker':>12}\n")
        rates = {}
        for workers in a.workers:
            seconds, peak = run(inputs, Path(scratch, str(workers)), config, workers)
            rates[workers] = len(inputs) / seconds / workers
            efficiency = rates[workers] / rates[a.workers[0]]
            sys.stdout.write(
                f"{workers:>7} {seconds:>8.1f} {len(inputs) / seconds:>9,.0f} {efficiency:>10.2f} "
                f"{peak / 2**20:>12,.0f}\n"
            )
            sys.stdout.flush()
        folders = [Path(scratch, str(workers)) for workers in a.workers]
        sizes = bytes_per_graph(folders[0])
        same = all(contents(folder) == contents(folders[0]) for folder in folders)
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        sys.stdout.write(
            f"{len(inputs):,} graphs, {distinct(folders[0]):,} of them distinct, in {len(contents(folders[0]))} files; "
            f"driver {driver / 2**20:,.0f} MiB\n"
            f"bytes per graph {sizes['file']:.0f}: graph {sizes['graph']:.0f}, spectrum {sizes['spectrum']:.0f}, "
            f"other columns {sizes['others']:.0f}\n"
            f"same bytes with every number of workers: {'yes' if same else 'NO'}\n"
        )
        if not same:
            sys.exit(1)


if __name__ == "__main__":
    main()
