"""In-distribution scores of each family under a checkpoint: ``python benchmarks/in_distribution.py``.

Mahalanobis distances of 400 sampled networks to the training's, in units of the checkpoint's radius, and the
mean weight of its heads there (see docs/adr/0012-scaling-law.md).
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from gennape.predictors.encoder.features import featurize
from gennape.predictors.model.checkpoint import load_pretrained
from gennape.search_spaces.families.registry import FAMILIES

SAMPLES = 400


def main() -> None:
    """Print a row per family."""
    network = load_pretrained().network
    sys.stdout.write(f"{'family':<14}{'1 %':>8}{'median':>8}{'99 %':>8}{'weight':>10}\n")
    for space in FAMILIES:
        graphs = space.graphs(space.sample(np.random.default_rng(0), SAMPLES))
        with torch.inference_mode():
            pooled = network.encoder.pool(featurize(graphs))
            distance = (network.in_distribution.distance(pooled) / network.in_distribution.radius).numpy()
            weight = float(network.in_distribution(pooled).mean())
        low, middle, high = np.percentile(distance, [1, 50, 99])
        sys.stdout.write(f"{space.name:<14}{low:>8.2f}{middle:>8.2f}{high:>8.2f}{weight:>10.2f}\n")


if __name__ == "__main__":
    main()
