"""Fine-tune the predictor on 50 labels of a search space, and measure the rank correlation on other networks.

The labels are synthetic, so that it runs anywhere. Your own come from a file: gp.read_labels(path, space).

python examples/few_labels.py --space ofa_mbv3 --labels 50 --networks 1000
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import spearmanr

import gennape as gp


def measured(graphs: gp.PackedGraphs, rng: np.random.Generator) -> np.ndarray:
    """Stands for training: accuracy in percent grows with FLOPs, falls with parameters, and is noisy."""
    size = np.log10(gp.flops(graphs)) - 0.5 * np.log10(gp.params(graphs))
    return 70 + 5 * (size - size.mean()) / size.std() + rng.normal(0, 0.5, len(graphs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nb201")
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--networks", type=int, default=200)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    space = gp.family(arguments.space)
    graphs = space.graphs(space.sample(rng, arguments.networks))
    accuracy = measured(graphs, rng)
    few, rest = np.split(rng.permutation(len(graphs)), [arguments.labels])

    predictor = gp.load_pretrained()
    before = predictor.predict(graphs.take(rest)).accuracy
    predictor.fit(graphs.take(few), accuracy[few])
    after = predictor.predict(graphs.take(rest))
    print(f"Spearman on {len(rest)} other networks, zero-shot: {spearmanr(before, accuracy[rest])[0]:.3f}")
    print(f"after {len(few)} labels: {spearmanr(after.accuracy, accuracy[rest])[0]:.3f}")
    print(f"deviation, the median: {np.median(after.deviation):.2f} %")


if __name__ == "__main__":
    main()
