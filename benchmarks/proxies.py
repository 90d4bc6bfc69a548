"""How our zero-cost proxies rank beside published scores: ``python benchmarks/proxies.py SCORES IMAGES``.

SCORES is a CSV file with a column ``arch`` of NAS-Bench-201 strings and columns of scores named as the proxies (such as
NAS-Bench-Suite-Zero's on CIFAR-10); IMAGES a Parquet file of CIFAR-10 with columns ``image`` (a JPEG) and ``label``.

For a random sample of the rows: Spearman's rank correlation of our scores with the file's, over all rows and over those
with and without the operation ``none``. What it could be at most shows beside it: the correlation of ours with ours
under other weights and images, over fewer rows (``again``), and that of the file with itself over rows whose networks
are the same graph under two names (``file``). ``accuracy`` is the correlation of our scores with ``--accuracy``, ``ms``
the median of milliseconds of processor time, in one thread, for a network and 64 images.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image
from scipy.stats import spearmanr

from gennape.predictors.proxies.proxies import BATCH, PROXIES, Proxy, proxy_scores
from gennape.search_spaces.families.nb201 import NasBench201
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import PackedGraphs

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64
    from torch import Tensor

    from gennape.search_spaces.graphs.module import GraphModule

#: Mean and deviation of CIFAR-10's red, green and blue, for pixels from 0 to 1.
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read_batch(path: Path, rng: np.random.Generator) -> tuple[Float32[Tensor, "b 3 h w"], Int64[Tensor, " b"]]:
    """A random batch of normalised images and their labels."""
    table = pq.read_table(path, columns=["image", "label"])
    table = table.take(np.sort(rng.choice(len(table), BATCH, replace=False)))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in table["image"].to_pylist()])
    images = (pixels / np.float32(255) - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    labels = table["label"].to_numpy().astype(np.int64)
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)


def timed(proxy: Proxy, seconds: list[float]) -> Proxy:
    """The same proxy, which also notes how long it takes."""

    def measured(module: GraphModule, images: Tensor, labels: Tensor) -> float:
        start = time.process_time()
        score = proxy(module, images, labels)
        seconds.append(time.process_time() - start)
        return score

    return measured


def score(graphs: PackedGraphs, path: Path, seed: int, proxies: Mapping[str, Proxy]) -> pd.DataFrame:
    """Scores under weights and images of ``seed``, a row per graph."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(proxy_scores(graphs, *read_batch(path, rng), rng, proxies), columns=list(proxies))


def agreement(ours: pd.Series[float], theirs: pd.Series[float], rows: Bool[np.ndarray, " n"] | None = None) -> float:
    """Spearman's rank correlation over rows that have both."""
    pairs = pd.DataFrame({"ours": ours.to_numpy(), "theirs": theirs.to_numpy()})
    pairs = (pairs if rows is None else pairs[rows]).dropna()
    return float(spearmanr(pairs.ours, pairs.theirs).statistic)


def repeats(scored: pd.DataFrame, space: NasBench201) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two rows of each network that stands in the file under several names."""
    graphs = space.graphs(np.stack([space.decode(arch) for arch in scored.arch]))
    named = scored.assign(network=[str(network) for network in canonical_hashes(graphs)]).sort_values(by="arch")
    second = named[named.duplicated("network")].drop_duplicates("network").set_index("network")
    return named.drop_duplicates("network").set_index("network").loc[second.index], second


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rows", type=int, default=120, help="rows of the sample (default 120)")
    parser.add_argument("--again", type=int, default=40, help="of these scored again (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accuracy", default="c10_test200", help="column of accuracies (default c10_test200)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = NasBench201()
    published = pd.read_csv(arguments.scores)
    published = published.dropna(subset=[name for name in PROXIES if name in published])
    sample = published.sample(arguments.rows, random_state=arguments.seed)
    graphs = space.graphs(np.stack([space.decode(arch) for arch in sample.arch]))
    seconds: dict[str, list[float]] = {name: [] for name in PROXIES}
    clocks = {name: timed(proxy, seconds[name]) for name, proxy in PROXIES.items()}
    ours = score(graphs, arguments.images, 2 * arguments.seed, clocks)
    few = graphs.take(np.arange(min(arguments.again, len(graphs))))
    again = score(few, arguments.images, 2 * arguments.seed + 1, clocks)
    first, second = repeats(published, space)
    with_none = sample.arch.str.contains("none").to_numpy()
    sys.stdout.write(
        f"{len(sample)} rows, {with_none.sum()} with none; {len(first)} networks twice in the file\n"
        f"{'proxy':<10}{'all':>8}{'none':>8}{'without':>9}{'again':>8}{'file':>8}{'accuracy':>10}{'ms':>8}\n"
    )
    for name in PROXIES:
        figures = [agreement(ours[name], sample[name], rows) for rows in (None, with_none, ~with_none)]
        figures += [agreement(ours[name][: len(again)], again[name]), agreement(first[name], second[name])]
        figures.append(agreement(ours[name], sample[arguments.accuracy]))
        cells = "".join(f"{figure:>{width}.3f}" for figure, width in zip(figures, (8, 8, 9, 8, 8, 10), strict=True))
        sys.stdout.write(f"{name:<10}{cells}{1000 * np.median(seconds[name]):>8.0f}\n")


if __name__ == "__main__":
    main()
