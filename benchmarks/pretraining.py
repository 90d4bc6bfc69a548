"""Graphs per second of a data-parallel pretraining: ``python benchmarks/pretraining.py --workers 1 2``.

Each worker has one processor. The figures are those that a pretraining logs to MLflow every so many steps: graphs of
all workers by the seconds between, checkpoint included; the first, in which caches fill, is left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from gennape.platform.cluster.connection import ENVIRONMENT
from gennape.platform.tracking.tracker import open_store
from gennape.platform.training.pretraining import Prepared, pretrain_on_workers
from gennape.platform.training.settings import WorkersConfig
from gennape.predictors.encoder.data_parallel import PretrainData
from gennape.predictors.encoder.settings import EncoderConfig, PretrainConfig
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.spectrum import laplacian_spectra


def prepared(name: str, networks: int) -> Prepared:
    """A sample of a family."""
    rng, space = np.random.default_rng(0), family(name)
    graphs = space.graphs(space.sample(rng, networks))
    return Prepared(PretrainData(graphs, laplacian_spectra(graphs, 21), np.zeros(networks, np.int64)), rng, {})


def rate(data: Prepared, workers: int, steps: int, batch: int) -> tuple[float, float, float]:
    """Median, least and most graphs per second."""
    every = max(1, steps // 6)
    networks = len(data.data.graphs)
    config = PretrainConfig(max(1, steps * batch // networks), batch)
    with tempfile.TemporaryDirectory() as folder:
        workspace, scale = Path(folder), WorkersConfig(workers, workers, checkpoint_every=every)
        pretrain_on_workers(Path(folder) / "encoder", workspace, {}, lambda: data, EncoderConfig(), config, scale)
        client, experiment = open_store(workspace)
        (run,) = client.search_runs([experiment])
        values = [metric.value for metric in client.get_metric_history(run.info.run_id, "graphs_per_second")][1:]
    return float(np.median(values)), min(values), max(values)


def main() -> None:
    """Print a table; efficiency is against the first row, worker by worker."""
    import os  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--family", default="nb101")
    parser.add_argument("--networks", type=int, default=2560)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    data, first = prepared(options.family, options.networks), 0.0
    sys.stdout.write(f"{'workers':>7} {'graphs/s':>9} {'least':>7} {'most':>7} {'efficiency':>10}\n")
    for workers in options.workers:
        median, least, most = rate(data, workers, options.steps, options.batch)
        first = first or median / workers
        efficiency = median / workers / first
        sys.stdout.write(f"{workers:>7} {median:>9,.0f} {least:>7,.0f} {most:>7,.0f} {efficiency:>10.2f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
