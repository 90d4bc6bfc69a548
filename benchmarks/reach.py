"""How far each family lies from what a checkpoint was fitted on: ``python benchmarks/reach.py``.

Distances of embeddings from the nearest centroid in units of the checkpoint's reach, over 400 sampled networks, and how
much of what the heads add is believed there (see docs/adr/0008-belief-near-what-was-fitted.md).
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from gennape.predictors.checkpoint import load_checkpoint
from gennape.search_spaces.families.registry import FAMILIES

SAMPLES = 400


def main() -> None:
    """Print a row per family."""
    predictor = load_checkpoint()
    network = predictor.network
    sys.stdout.write(f"{'family':<12}{'5 %':>8}{'median':>8}{'95 %':>8}{'believed':>10}\n")
    for space in FAMILIES:
        embeddings = torch.from_numpy(predictor.embed(space.graphs(space.sample(np.random.default_rng(0), SAMPLES))))
        distance = (torch.cdist(embeddings, network.centroids).amin(1) / network.reach).numpy()
        low, middle, high = np.percentile(distance, [5, 50, 95])
        believed = float(network.trust(embeddings).mean())
        sys.stdout.write(f"{space.name:<12}{low:>8.2f}{middle:>8.2f}{high:>8.2f}{believed:>10.2f}\n")


if __name__ == "__main__":
    main()
