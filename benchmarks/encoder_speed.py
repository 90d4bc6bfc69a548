"""Graphs per second of pretraining, fitting and asking: ``python benchmarks/encoder_speed.py --device cuda``.

Pretraining and fitting are those of ``gennape pretrain`` and ``gennape fit``, with all that goes into a step: graphs
become batches in other processes where a GPU computes. The first fifth of the steps, in which these start and memory is
found, is left out. "Prepared" answers batches that lie on the device, "from graphs" makes them first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import featurize
from gennape.predictors.encoder.optimisation import chosen_device
from gennape.predictors.encoder.pretraining import pretrain
from gennape.predictors.encoder.settings import GENERAL, GENNAPE, ClusteringConfig, EncoderConfig, PretrainConfig
from gennape.predictors.model.fitting import Progress, fit
from gennape.predictors.model.settings import FitConfig
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.graph import PackedGraphs
from gennape.search_spaces.graphs.spectrum import laplacian_spectra


class EnoughError(Exception):
    """What is to be timed has been."""


def rate(work: Callable[[Progress], object], graphs: int) -> float:
    """Graphs per second of ``work``, which is broken off after so many."""
    seen, started, done = 0, (0.0, 0), (0.0, 0)

    def progress(count: int, loss: float) -> None:  # noqa: ARG001 (its callers give it)
        nonlocal seen, started, done
        seen += count
        if not started[1] and seen >= graphs / 5:
            started = time.perf_counter(), seen
        if seen >= graphs:
            done = time.perf_counter(), seen
            raise EnoughError

    try:
        work(progress)
    except EnoughError:
        return (done[1] - started[1]) / (done[0] - started[0])
    raise ValueError(f"the work saw {seen} graphs, fewer than {graphs}")


def answers(graphs: PackedGraphs, batch: int, device: torch.device, seconds: float, prepared: bool) -> float:
    """Embeddings and memberships per second."""
    network = ClusteredEncoder(ClusteringConfig()).eval().to(device)
    network.centroids.normal_()
    parts = np.array_split(np.arange(len(graphs)), max(1, len(graphs) // batch))
    ready = [network.encoder.deduplicate(featurize(graphs.take(rows))).to(device) for rows in parts] if prepared else []
    done, begun = 0, 0.0
    with torch.inference_mode():
        for turn in range(10**6):
            i = turn % len(parts)
            made = ready[i] if prepared else featurize(graphs.take(parts[i])).to(device)
            network(made)[2].cpu()
            if turn == 2:
                done, begun = 0, time.perf_counter()
            done += len(parts[i])
            if turn > 2 and time.perf_counter() - begun > seconds:
                break
    return done / (time.perf_counter() - begun)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--family", default="nb101")
    parser.add_argument("--networks", type=int, default=8192)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--graphs", type=int, default=32768, help="of each training that is timed")
    parser.add_argument("--seconds", type=float, default=3.0, help="of answering")
    a = parser.parse_args()
    device, space = chosen_device(a.device), family(a.family)
    graphs = space.graphs(space.sample(np.random.default_rng(0), a.networks))
    spectra, accuracy = laplacian_spectra(graphs, 21), np.random.default_rng(1).uniform(85, 95, len(graphs))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    sys.stdout.write(f"{name}, PyTorch {torch.__version__}, {a.family}\n")
    epochs = 1 + a.graphs // len(graphs)
    for batch in a.batches:
        for contrast, what in ((GENNAPE, "GENNAPE's loss"), (GENERAL, "the general-purpose loss")):
            config = PretrainConfig(epochs, batch, contrast=contrast)

            def pretraining(progress: Progress, config: PretrainConfig = config) -> object:
                rng = np.random.default_rng(0)
                return pretrain(graphs, spectra, EncoderConfig(), config, rng, progress, device=device)

            show(f"pretraining, {what}", batch, rate(pretraining, a.graphs))

        def fitting(progress: Progress, batch: int = batch) -> object:
            encoder, rng = GraphEncoder(EncoderConfig()), np.random.default_rng(0)
            settings = FitConfig(epochs=4 * epochs, batch=batch)
            return fit(encoder, graphs, accuracy, ClusteringConfig(), settings, rng, progress, device=device)

        show("fitting the encoder", batch, rate(fitting, 4 * a.graphs))
        for prepared in (True, False):
            speed = answers(graphs, batch, device, a.seconds, prepared)
            show(f"answers, {'prepared' if prepared else 'from graphs'}", batch, speed)


def show(what: str, batch: int, speed: float) -> None:
    """One line, at once."""
    sys.stdout.write(f"{what:<40} batches of {batch:>5} {speed:>12,.0f} graphs/s\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
