"""Graphs per second of the predictors beside the published k-GNN: ``python benchmarks/predictor_speed.py``.

The published k-GNN is made anew here of torch-geometric's layers: 6 GraphConv of width 32 on every node of the
published graphs, in batches of 32 graphs of equal size that are prepared ahead, or one by one, which is how it
evaluates. Beside it run ours, on batches of any mix of sizes: the k-GNN of the same layers and width, and the fuzzy
ensemble.

Each round runs every contender once, one after another, so that other work on the machine slows all alike; ratios are
medians of the ratios within rounds. "From graphs" counts what it takes to make a batch; "prepared" does not; "as
fitted" makes batches as often as ``fit_kgnn`` does. "Maths" is the part of a step's time inside operations of PyTorch,
by its profiler. On a busy machine take ``--threads 1 --clock processor``, which counts processor time only.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_geometric.nn import GraphConv

from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.encoder.deduplication import DistinctSteps
from gennape.predictors.encoder.features import GraphBatch, featurize
from gennape.predictors.encoder.kgnn import KGnn, deduplicate
from gennape.predictors.encoder.settings import ClusteringConfig, EncoderConfig, KGnnConfig, KGnnTraining
from gennape.predictors.ensemble.heads import ClusterHeads
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.graph import PackedGraphs
from gennape.search_spaces.published.graphs import VOCABULARY, PublishedFeatures, features, published_graph

#: As ``gennape fit`` trains it: dropout is for the views of pretraining.
FITTED = ClusteringConfig(encoder=EncoderConfig(dropout=0.0))
PUBLISHED_BATCH = 32
#: Batches of each kind that are prepared, and then taken in turn.
BATCHES = 4


class Heads(nn.Module):
    """Encoder, clusters and their heads: the member ``cl_fcm_t`` with all that it needs."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ClusteredEncoder(FITTED)
        self.network.centroids.normal_()
        self.heads = ClusterHeads(FITTED.clusters, FITTED.encoder.embedding, 64)

    def forward(self, batch: GraphBatch | DistinctSteps) -> Float[Tensor, " g"]:
        """Targets."""
        _, embedding, membership = self.network(batch)
        return self.heads(embedding, membership, batch.cost)


@dataclass(frozen=True, slots=True)
class PublishedBatch:
    """Graphs of one size, nodes with weights of all graphs first; edges name nodes of this order."""

    op_weighted: Tensor
    op_regular: Tensor
    resolution: Tensor
    kernel: Tensor
    bias: Tensor
    edge_index: Tensor
    owner: Tensor
    graphs: int


class PublishedKGnn(nn.Module):
    """GENNAPE's released baseline (families specification, section 12); 18,047 parameters."""

    def __init__(self, width: int = 32, layers: int = 6) -> None:
        super().__init__()
        self.op_weighted, self.op_regular = nn.Embedding(len(VOCABULARY), 14), nn.Embedding(len(VOCABULARY), 24)
        self.kernel, self.shape, self.bias = nn.Embedding(8, 4), nn.Linear(6, 8), nn.Linear(2, 2)
        self.layers = nn.ModuleList(GraphConv(width, width) for _ in range(layers))
        lines = (nn.Linear(width, width) for _ in range(4))
        self.head = nn.Sequential(next(lines), next(lines), nn.ReLU(), *lines, nn.Linear(width, 1))

    def forward(self, batch: PublishedBatch) -> Float[Tensor, " g"]:
        """Accuracies."""
        shape = self.shape(batch.resolution)
        n = len(batch.op_weighted)
        kernels = self.kernel(batch.kernel).flatten(1)
        weighted = torch.cat([self.op_weighted(batch.op_weighted), shape[:n], kernels, self.bias(batch.bias)], dim=1)
        x = torch.cat([weighted, torch.cat([self.op_regular(batch.op_regular), shape[n:]], dim=1)])
        for layer in self.layers:
            x = torch.tanh(layer(x, batch.edge_index))
        # Graphs are of one size, so that the mean needs no division by each one's own.
        pooled = x.new_zeros(batch.graphs, x.shape[1]).index_add_(0, batch.owner, x) / (len(x) / batch.graphs)
        return self.head(pooled).squeeze(1)


def published_batch(graph: PublishedFeatures, copies: int) -> PublishedBatch:
    """One graph ``copies`` times: any other graphs of its size would take as long."""
    weighted, n = graph.weighted, len(graph.op)
    n_weighted = int(weighted.sum())
    shift = np.arange(copies)[:, None]
    # Node i of copy c: weighted nodes of all copies come first.
    position = np.where(
        np.arange(n) < n_weighted,
        np.arange(n) + shift * n_weighted,
        copies * n_weighted + np.arange(n) - n_weighted + shift * (n - n_weighted),
    )
    owner = np.empty(copies * n, np.int64)
    owner[position] = shift
    resolution = np.concatenate([np.tile(graph.resolution[w], (copies, 1)) for w in (weighted, ~weighted)])
    arrays = (
        np.tile(graph.op[weighted], copies),
        np.tile(graph.op[~weighted], copies),
        resolution,
        np.tile(graph.kernel[weighted], (copies, 1)),
        np.tile(graph.bias[weighted], (copies, 1)),
        np.stack([position[:, side].ravel() for side in graph.edge_index]),
        owner,
    )
    return PublishedBatch(*map(torch.from_numpy, arrays), graphs=copies)


Work = Callable[[], int]


def trainer(network: nn.Module, batches: Iterator[object]) -> Work:
    """A step of training on the next batch; answers the number of graphs. Labels do not matter for speed."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)

    def step() -> int:
        network.train()
        answer = network(next(batches))
        optimizer.zero_grad(set_to_none=True)
        answer.square().mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        return len(answer)

    return step


def answerer(network: nn.Module, batches: Iterator[object]) -> Work:
    """Predictions of the next batch; answers the number of graphs."""

    def step() -> int:
        network.eval()
        with torch.inference_mode():
            answer = network(next(batches))
        return len(answer)

    return step


def contenders(name: str, batch: int, sample: int) -> dict[str, Work]:
    """All that is timed for a family, by name."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    space = family(name)
    genomes = space.sample(rng, sample)
    published = [features(published_graph(space.graph(genome, published=True))) for genome in genomes[: 4 * BATCHES]]
    many = [published_batch(graph, PUBLISHED_BATCH) for graph in published]
    single = [published_batch(graph, 1) for graph in published]
    graphs = space.graphs(genomes)
    rows = [rng.choice(sample, batch, replace=False) for _ in range(BATCHES)]
    baseline, kgnn, ensemble = PublishedKGnn(), KGnn(KGnnConfig()), Heads()
    raw = [featurize(graphs.take(r)) for r in rows]
    distinct = [deduplicate(b, kgnn.config.layers) for b in raw]
    whole = [deduplicate(featurize(graphs), kgnn.config.layers)]
    steps = [ensemble.network.encoder.deduplicate(b) for b in raw]
    return {
        "published, train": trainer(baseline, cycle(many)),
        "published, infer": answerer(baseline, cycle(many)),
        "published, infer one": answerer(baseline, cycle(single)),
        "k-GNN, train prepared": trainer(kgnn, cycle(distinct)),
        "k-GNN, train as fitted": as_fitted(graphs, rows, kgnn, cycle(distinct)),
        "k-GNN, infer prepared": answerer(kgnn, cycle(whole)),
        "k-GNN, infer from graphs": from_graphs(answerer, kgnn, graphs, [np.arange(sample)]),
        "ensemble, train prepared": trainer(ensemble, cycle(steps)),
        "ensemble, train from graphs": from_graphs(trainer, ensemble, graphs, rows),
        "ensemble, infer prepared": answerer(ensemble, cycle(steps)),
        "ensemble, infer from graphs": from_graphs(answerer, ensemble, graphs, rows),
    }


def from_graphs(
    kind: Callable[[nn.Module, Iterator[object]], Work],
    network: nn.Module,
    graphs: PackedGraphs,
    rows: list[np.ndarray],
) -> Work:
    """The work on batches that are made of packed graphs at each step."""
    return kind(network, (featurize(graphs.take(chosen)) for chosen in cycle(rows)))


def as_fitted(graphs: PackedGraphs, rows: list[np.ndarray], network: KGnn, distinct: Iterator[object]) -> Work:
    """As ``fit_kgnn`` does it: a batch is made anew once in so many epochs."""
    again, step = KGnnTraining().regroup, trainer(network, distinct)
    turns = cycle(rows)

    def steps() -> int:
        deduplicate(featurize(graphs.take(next(turns))), network.config.layers)
        return sum(step() for _ in range(again))

    return steps


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def measure(works: dict[str, Work], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Graphs per second of each in each round; the first, which warms up, is left out."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start, done = clock(), 0
            while (taken := clock() - start) < 0.05 or done == 0:
                done += work()
            rates[name].append(done / taken)
    return {name: values[1:] for name, values in rates.items()}


def share_of_maths(work: Work, steps: int) -> float:
    """Part of the time of a step that is spent inside operations of PyTorch, by its profiler."""
    work()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile, torch.profiler.record_function("steps"):
        for _ in range(steps):
            work()
    events = profile.key_averages()
    inside = sum(event.self_cpu_time_total for event in events if event.key.startswith("aten::"))
    return inside / next(event.cpu_time_total for event in events if event.key == "steps")


#: The published figure that each of ours stands beside.
COMPARISONS = {
    "k-GNN, train prepared": "published, train",
    "k-GNN, train as fitted": "published, train",
    "k-GNN, infer prepared": "published, infer",
    "k-GNN, infer from graphs": "published, infer",
    "ensemble, train prepared": "published, train",
    "ensemble, train from graphs": "published, train",
    "ensemble, infer prepared": "published, infer",
    "ensemble, infer from graphs": "published, infer",
}
PROFILED = ("published, train", *(name for name in COMPARISONS if "train" in name))


def report(name: str, batch: int, sample: int, rounds: int, clock: str) -> list[str]:
    """Rows of the table for a family."""
    works = contenders(name, batch, sample)
    rates = measure(works, rounds, CLOCKS[clock])
    rows = []
    for work, values in rates.items():
        beside = rates.get(COMPARISONS.get(work, ""), [])
        ratio = f"{statistics.median(a / b for a, b in zip(values, beside, strict=True)):.2f}" if beside else ""
        maths = f"{share_of_maths(works[work], 5):.0%}" if work in PROFILED else ""
        quarter, middle, three = statistics.quantiles(values, n=4)
        rows.append(f"| {name} | {work} | {middle:,.0f} | {quarter:,.0f}-{three:,.0f} | {ratio} | {maths} |")
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=["nb101", "hiaml", "ofa_mbv3"])
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default 2)")
    parser.add_argument("--batch", type=int, default=128, help="graphs of our batches in training (default 128)")
    parser.add_argument("--sample", type=int, default=512, help="graphs of a family (default 512)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of all contenders (default 9)")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="what is counted (default wall)")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    parameters = sum(p.numel() for p in PublishedKGnn().parameters())
    sys.stdout.write(
        f"PyTorch {torch.__version__}, {a.threads} threads, {a.clock} time; "
        f"published k-GNN of {parameters:,} parameters\n\n"
        "| family | work | graphs/s | quartiles | times published | maths |\n|---|---|---:|---:|---:|---:|\n"
    )
    for name in a.families:
        sys.stdout.write("\n".join(report(name, a.batch, a.sample, a.rounds, a.clock)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
