"""Labels of NAS-Bench-301 and the order of a node's inputs: ``python benchmarks/label_order.py --data FILE``.

FILE is a CSV file, perhaps gzipped, with columns ``architecture`` (``{"normal": [[operation, source] x 8], "reduce":
...}``) and ``acc`` in percent. Pairs 2i and 2i + 1 feed node i, which adds them: in either order it is the same network
and the same graph. Labels that a regression over places answered may differ nevertheless.

First table: Spearman's rank correlation (SRCC) of predictions with the labels of other rows, means over splits.

- ``by place`` sees operation and source of the first and of the second pair of each node; ``another order`` is the same
  fitted regression, asked about the rows with each node's pairs swapped or not by the flip of a coin.
- ``no order`` sees how often each operation and source stands in a node, by ridge also products of the operations'
  counts in a cell. What it could not see, no reader of graphs can.
- ``mean over orders`` learns by place, but answers the mean over all orders, so that it is no reader of orders either.

Second table: what the networks ``by place`` that learnt from most rows say of each other row in all of its 256 orders.
Their mean is the answer of least squared error that can be given without seeing the order. ``at most``: orders are
drawn by coins, so what the networks say of the written order, less that mean, is uncorrelated with all that is blind to
order. With r its correlation with the labels' ranks, nothing blind to order has an SRCC above the root of 1 - r^2, but
for chance in the sample. This holds however bad the networks are; better ones would lower it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.stats import rankdata
from sklearn.linear_model import RidgeCV

from gennape.predictors.metrics import srcc
from gennape.search_spaces.families.nb301 import CELLS, NODES, OPERATIONS, SAMPLED, NasBench301
from gennape.search_spaces.graphs.canonical import canonical_hashes

BLOCKS, STATES = 2 * NODES, NODES + 1
ORDERS = (np.arange(2**BLOCKS)[:, None] >> np.arange(BLOCKS) & 1).astype(bool)  # the first swaps nothing
ALPHAS = np.logspace(-1, 4, 16)
MEMBERS, WIDTH, BATCH, RATE = 5, 64, 64, 2e-3

Pairs = Int64[np.ndarray, "n blocks pair=2 what=2"]  # number of the operation, source
Matrix = Float64[np.ndarray, "n d"]
Vector = Float64[np.ndarray, " n"]


def read(path: Path) -> tuple[Pairs, Vector]:
    """The pairs of each row as they are written, and its label."""
    rows = pd.read_csv(path)
    cells = [json.loads(text) for text in rows["architecture"]]
    pairs = [[[OPERATIONS.index(op), source] for cell in CELLS for op, source in row[cell]] for row in cells]
    return np.array(pairs).reshape(-1, BLOCKS, 2, 2), rows["acc"].to_numpy(float)


def swap(pairs: Pairs, swapped: Bool[np.ndarray, "n blocks"]) -> Pairs:
    """Exchanges the pairs of the nodes that are ``swapped``."""
    return np.where(swapped[:, :, None, None], pairs[:, :, ::-1], pairs)


def check_same_graphs(pairs: Pairs, rng: np.random.Generator) -> None:
    """Raises where a network has another canonical hash after swaps."""
    space = NasBench301()
    hashes = []
    for rows in (pairs, swap(pairs, rng.random(pairs.shape[:2]) < 0.5)):
        cells = [np.split(row.reshape(-1, 2), len(CELLS)) for row in rows]
        written = [
            {
                name: [[OPERATIONS[op], int(source)] for op, source in cell]
                for name, cell in zip(CELLS, row, strict=True)
            }
            for row in cells
        ]
        hashes.append(canonical_hashes(space.graphs(np.stack([space.decode(row) for row in written]))))
    if hashes[0] != hashes[1]:
        raise AssertionError("swapped pairs make another graph")


def by_place(pairs: Pairs) -> Matrix:
    """One-hot operations and sources at each of the 16 places."""
    operations, sources = np.eye(len(SAMPLED))[pairs[..., 0]], np.eye(STATES)[pairs[..., 1]]
    return np.concatenate([operations, sources], axis=-1).reshape(len(pairs), -1)


def without_order(pairs: Pairs) -> Matrix:
    """Counts of operations and of sources in each node."""
    return by_place(pairs).reshape(len(pairs), BLOCKS, 2, -1).sum(axis=2).reshape(len(pairs), -1)


def with_products(pairs: Pairs) -> Matrix:
    """``without_order`` and all products of two operations' counts in a cell."""
    counts = np.eye(len(SAMPLED))[pairs[..., 0]].reshape(len(pairs), len(CELLS), -1, len(SAMPLED)).sum(axis=2)
    first, second = np.triu_indices(len(SAMPLED))
    products = (counts[..., first] * counts[..., second]).reshape(len(pairs), -1)
    return np.concatenate([without_order(pairs), products], axis=1)


def ridge(x: Matrix, labels: Vector) -> RidgeCV:
    """Ridge regression, its strength chosen by leaving one out."""
    return RidgeCV(ALPHAS).fit(x, labels)


class Networks:
    """The mean of some perceptrons of two hidden layers, trained side by side from different weights and batches."""

    def __init__(self, x: Matrix, labels: Vector, rng: np.random.Generator, epochs: int, decay: float) -> None:
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        self.mean, self.deviation = labels.mean(), labels.std()
        inputs, targets = torch.from_numpy(x).float(), torch.from_numpy((labels - self.mean) / self.deviation).float()
        sizes = [x.shape[1], WIDTH, WIDTH, 1]
        self.layers = [
            (torch.randn(MEMBERS, a, b, generator=generator) * (2 / a) ** 0.5, torch.zeros(MEMBERS, 1, b))
            for a, b in zip(sizes, sizes[1:], strict=False)
        ]
        weights = [weight.requires_grad_() for layer in self.layers for weight in layer]
        steps = max(epochs * len(labels) // BATCH, 600)
        optimiser = torch.optim.AdamW(weights, RATE, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
        for _ in range(steps):
            batch = torch.randint(len(labels), (MEMBERS, min(BATCH, len(labels))), generator=generator)
            optimiser.zero_grad()
            (self._forward(inputs[batch]) - targets[batch]).square().mean(dim=1).sum().backward()
            optimiser.step()
            schedule.step()

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight, bias in self.layers[:-1]:
            x = torch.nn.functional.silu(x @ weight + bias)
        return (x @ self.layers[-1][0] + self.layers[-1][1])[..., 0]

    def predict(self, x: Matrix) -> Vector:
        """Accuracies in percent."""
        with torch.inference_mode():
            return self._forward(torch.from_numpy(x).float()).mean(dim=0).double().numpy() * self.deviation + self.mean


def blind_limit(by_order: Vector, labels: Vector) -> float:
    """The SRCC that is left when ``by_order`` explains its share of the labels' ranks."""
    return float(np.sqrt(1 - np.corrcoef(by_order, rankdata(labels))[0, 1] ** 2))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 200, 750, 2500], help="rows to learn from")
    parser.add_argument("--others", type=int, default=500, help="other rows of a split (default 500)")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    pairs, labels = read(options.data)
    check_same_graphs(pairs[:20], rng)
    curves: dict[str, list[list[float]]] = {}
    orders: dict[str, list[float]] = {}
    for _ in range(options.splits):
        shuffled = rng.permutation(len(labels))
        others, rest = shuffled[: options.others], shuffled[options.others :]
        asked, truth = pairs[others], labels[others]
        coin = swap(asked, rng.random(asked.shape[:2]) < 0.5)
        scores: dict[str, list[float]] = {}
        for n in sorted(options.labels):
            known, y = pairs[rest[:n]], labels[rest[:n]]
            fitted, places = ridge(by_place(known), y), Networks(by_place(known), y, rng, 60, 1.0)
            every = np.stack([places.predict(by_place(swap(asked, np.tile(o, (len(asked), 1))))) for o in ORDERS])
            answers = {
                "ridge, by place": fitted.predict(by_place(asked)),
                "ridge, by place, another order": fitted.predict(by_place(coin)),
                "ridge, no order": ridge(with_products(known), y).predict(with_products(asked)),
                "networks, by place": every[0],
                "networks, by place, another order": places.predict(by_place(coin)),
                "networks, no order": Networks(without_order(known), y, rng, 40, 1.5).predict(without_order(asked)),
                "networks, mean over orders": every.mean(axis=0),
            }
            for name, answer in answers.items():
                scores.setdefault(name, []).append(srcc(answer, truth))
        for name, row in scores.items():
            curves.setdefault(name, []).append(row)
        mean = every.mean(axis=0)  # by the networks that learnt from most rows
        for name, value in (
            ("SRCC of one order with the mean over orders", srcc(every[0], mean)),
            ("SRCC of one order with another", srcc(every[0], every[rng.integers(1, len(ORDERS))])),
            ("SRCC of anything blind to order with the labels, at most", blind_limit(every[0] - mean, truth)),
            ("deviation of a network over its orders, percent", float(np.sqrt(every.var(axis=0).mean()))),
            ("deviation of means over networks, percent", float(mean.std())),
        ):
            orders.setdefault(name, []).append(value)
    sys.stdout.write("| SRCC by labels | " + " | ".join(f"{n:,}" for n in sorted(options.labels)) + " |\n")
    sys.stdout.write("|---" * (1 + len(options.labels)) + "|\n")
    for name, rows in curves.items():
        sys.stdout.write(f"| {name} | " + " | ".join(f"{value:.3f}" for value in np.mean(rows, axis=0)) + " |\n")
    sys.stdout.write("\n| 256 orders of a network | mean | least | most |\n|---|---|---|---|\n")
    for name, values in orders.items():
        sys.stdout.write(f"| {name} | {np.mean(values):.3f} | {min(values):.3f} | {max(values):.3f} |\n")


if __name__ == "__main__":
    main()
