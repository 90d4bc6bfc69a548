"""Labels of NAS-Bench-301 and the numbers of a cell's nodes.

    python benchmarks/node_order.py --data nb301.csv.gz --surrogate nb301.onnx --encoding encoding.json

``--data`` has columns ``architecture`` and ``acc``. ``--surrogate`` is YAHPO Gym's model of the benchmark (ONNX,
Pfisterer et al., 2022), which learnt from its trained networks apart from the model behind ``acc``; ``--encoding``
tells its inputs. A configuration names edges by the numbers of a cell's nodes. Nodes that do not feed one another may
be numbered either way: the network is the same, but for the order in which channels lie beside each other at the end
of a cell, of which the convolutions after it know nothing. The surrogate's answer is not.

The table has the rows of ``--data`` under three kinds of labels: ``acc``; the surrogate's answers; and the means of its
answers over up to ``--numberings`` numberings of both cells, drawn at random where there are more, which a graph can
tell. Columns: the rank correlation (SRCC) of the labels with these means, that of FLOPs, and those of the predictor
without labels and fine-tuned on some of the rows, measured on all others, as means over ``--seeds`` draws.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from jaxtyping import Int32
from rich.console import Console
from rich.progress import track

from gennape.predictors.evaluation.protocol import draw_labelled
from gennape.predictors.metrics import srcc
from gennape.predictors.model.checkpoint import load_pretrained
from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
from gennape.search_spaces.families.nb301 import CELLS, NODES, NasBench301
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.cost import flops

_PREFIX = "NetworkSelectorDatasetInfo_COLON_darts_COLON_"
_EPOCHS = 98.0
Cell = Sequence[Sequence[Any]]  # operation and source, twice for each node


def numberings(cell: Cell) -> Iterator[Cell]:
    """The cell under all numbers of its nodes by which each is fed by lower ones only, as it is written first."""
    for order in permutations(range(NODES)):
        state = {0: 0, 1: 1} | {old + 2: new + 2 for new, old in enumerate(order)}
        pairs = [[op, state[source]] for old in order for op, source in cell[2 * old : 2 * old + 2]]
        if all(source < i // 2 + 2 for i, (_, source) in enumerate(pairs)):
            yield pairs


class Surrogate:
    """YAHPO Gym's answers."""

    def __init__(self, model: Path, encoding: Path) -> None:
        self._session = onnxruntime.InferenceSession(model)
        self._encoding: dict[str, dict[str, int]] = json.loads(encoding.read_text())

    def accuracy(self, cells: Sequence[Cell]) -> float:
        """Percent, of a normal and a reduction cell, after 98 epochs."""
        settings: dict[str, str] = {}
        for name, cell in zip(CELLS, cells, strict=True):
            first_edge = 0
            for node in range(NODES):
                pairs = cell[2 * node : 2 * node + 2]
                settings |= {f"edge_{name}_{first_edge + source}": op for op, source in pairs}
                if node:
                    sources = "_".join(str(source) for _, source in sorted(pairs, key=lambda pair: pair[1]))
                    settings[f"inputs_node_{name}_{node + 2}"] = sources
                first_edge += node + 2
        row: Int32[np.ndarray, "1 c"] = np.array(
            [[codes[settings.get(name.removeprefix(_PREFIX), "#na#")] for name, codes in self._encoding.items()]],
            np.int32,
        )
        answer = self._session.run(None, {"x_cat": row, "x_cont": np.array([[_EPOCHS]], np.float32)})
        return float(answer[0][0, 0])

    def mean(self, cells: Sequence[Cell], most: int, rng: np.random.Generator) -> tuple[float, float]:
        """Mean and deviation of the answers over the numberings of both cells, or ``most`` of them."""
        every = list(product(*map(numberings, cells)))
        chosen = rng.choice(len(every), min(most, len(every)), replace=False)
        answers = [self.accuracy(every[i]) for i in chosen]
        return float(np.mean(answers)), float(np.std(answers))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--surrogate", type=Path, required=True)
    parser.add_argument("--encoding", type=Path, required=True, help="JSON: the codes of each input, by its name")
    parser.add_argument("--numberings", type=int, default=16)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 50, 200, 750])
    parser.add_argument("--seeds", type=int, default=5)
    a = parser.parse_args()
    rows, rng, space = pd.read_csv(a.data), np.random.default_rng(0), NasBench301()
    written = [json.loads(text) for text in rows["architecture"]]
    both = [[architecture[name] for name in CELLS] for architecture in written]
    surrogate = Surrogate(a.surrogate, a.encoding)
    means, spread = np.array(
        [surrogate.mean(cells, a.numberings, rng) for cells in track(both, "surrogate", console=Console(stderr=True))]
    ).T
    graphs = space.graphs(np.stack([space.decode(architecture) for architecture in written]))
    labels = {
        "acc": rows["acc"].to_numpy(float),
        "the surrogate's": np.array([surrogate.accuracy(cells) for cells in both]),
        "the surrogate's, mean over numberings": means,
    }
    predictor = load_pretrained()
    check_same_network(predictor, space, both[0])
    heads = ["SRCC with the means", "FLOPs", "zero-shot", *(f"{n:,} labels" for n in a.labels)]
    sys.stdout.write("| labels | " + " | ".join(heads) + " |\n|---" + "|---:" * len(heads) + "|\n")
    identity = canonical_hashes(graphs)
    for name, accuracy in labels.items():
        figures = [srcc(accuracy, other) for other in (means, flops(graphs), predictor.predict(graphs).accuracy)]
        for n in a.labels:
            found = []
            for seed in range(a.seeds):
                known = draw_labelled(identity, seed, n)
                tuned = copy.copy(predictor).fit(graphs.take(known), accuracy[known])
                others = np.setdiff1d(np.arange(len(graphs)), known)
                found.append(srcc(tuned.predict(graphs).accuracy[others], accuracy[others]))
            figures.append(float(np.mean(found)))
        sys.stdout.write(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |\n")
        sys.stdout.flush()
    sys.stdout.write(
        f"\nDeviation of a network over its numberings {np.sqrt(np.mean(spread**2)):.2f} percent, "
        f"of the means over networks {means.std():.2f}.\n"
    )


def check_same_network(predictor: FuzzyEnsemble, space: NasBench301, cells: Sequence[Cell]) -> None:
    """Raises where a numbering makes another network to the predictor."""
    every = [dict(zip(CELLS, numbered, strict=True)) for numbered in product(*map(numberings, cells))]
    found = predictor.predict(space.graphs(np.stack([space.decode(one) for one in every]))).accuracy
    if np.ptp(found) > 1e-6:
        raise AssertionError(f"other numbers make another network: {found}")


if __name__ == "__main__":
    main()
