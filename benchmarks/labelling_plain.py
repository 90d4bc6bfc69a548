"""Images per second of one training beside a plain loop: ``python benchmarks/labelling_plain.py --data DATA``.

The plain loop is what most would write: a data set of decoded images, changed one by one by torchvision (crop, mirror,
normalise, cut out), a DataLoader with a process for each core, the same network, cross-entropy and SGD with Nesterov's
momentum and one cycle, single precision; ours averages weights besides. Both take turns in one run.
``--data`` holds cifar10_train.parquet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from importing import load_torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from gennape.platform.labelling.training.device_images import put
from gennape.platform.labelling.training.images import Images, ImageSet, read_image_set
from gennape.platform.labelling.training.network_training import NetworkTraining
from gennape.platform.labelling.training.recipe import Recipe, Seed
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.module import compile_graph

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gennape.search_spaces.graphs.graph import ComputationGraph

load_torchvision()
from torchvision import transforms  # noqa: E402


class Plain(Dataset[tuple[torch.Tensor, int]]):
    """Decoded images, changed one by one."""

    def __init__(self, images: Images) -> None:
        self._pixels, self._labels = images.pixels.transpose(0, 2, 3, 1), images.labels
        self._change = transforms.Compose(
            [
                transforms.RandomCrop(images.size, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
                transforms.RandomErasing(1.0, (0.0625, 0.0625), (1.0, 1.0)),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self._change(Image.fromarray(self._pixels[row])), int(self._labels[row])


def plain_epochs(
    graph: ComputationGraph, images: Images, recipe: Recipe, device: torch.device, workers: int
) -> Iterator[int]:
    """Train epoch by epoch without an end, telling how many images each had."""
    network = compile_graph(graph).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=10**6)
    loader = DataLoader(
        Plain(images), recipe.batch, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    while True:
        for pixels, labels in loader:
            shown, told = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            loss = F.cross_entropy(network(shown).flatten(1), told, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        _wait(device)
        yield len(loader) * recipe.batch


def own_epochs(graph: ComputationGraph, images: Images, recipe: Recipe, device: torch.device) -> Iterator[int]:
    """The same by the recipe of ``gennape label``, with the little validation that it does after each epoch."""
    data = put(ImageSet(images, None), recipe, device)
    training = NetworkTraining(graph, data, recipe, Seed(0, "speed", 0), device.type == "cuda")
    while True:
        training.epoch()
        _wait(device)
        yield training.steps * recipe.batch


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Turns of one epoch each, the first of both thrown away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--space", default="two_path")
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the plain loop's DataLoader")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    with tempfile.TemporaryDirectory() as cache:
        images = read_image_set(asked.data / "cifar10_train.parquet", cache=Path(cache)).train
    images = images.take(np.arange(asked.images))
    precision = "bf16" if device.type == "cuda" else "fp32"
    recipe = Recipe(epochs=1000, batch=asked.batch, precision=precision, validation=0.02)
    space = family(asked.space)
    graph = space.graph(space.sample(np.random.default_rng(0), 1)[0])
    ways = {
        "plain": plain_epochs(graph, images, recipe, device, asked.workers),
        "own": own_epochs(graph, images, recipe, device),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(asked.turns + 1):
        for name, epochs in ways.items():
            begun = time.perf_counter()
            rate = next(epochs) / (time.perf_counter() - begun)
            if turn:
                found[name].append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    for name, rate in medians.items():
        sys.stdout.write(f"{name:<6}{rate:>10,.1f} images/s of {asked.space} on {device}\n")
    sys.stdout.write(f"own / plain {medians['own'] / medians['plain']:.2f}\n")


if __name__ == "__main__":
    main()
