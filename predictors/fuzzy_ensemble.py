"""The predictor: encoder, fuzzy clusters and one head per cluster, on the FLOPs-transformed target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from gennape.errors import InvalidGraphError
from gennape.predictors.encoder import EncoderConfig, GraphEncoder
from gennape.predictors.features import GraphBatch, featurize
from gennape.predictors.fuzzy import memberships
from gennape.predictors.heads import ClusterHeads
from gennape.predictors.predictor import Prediction, Predictor
from gennape.predictors.target import FlopsTarget
from gennape.search_spaces.cost import flops
from gennape.search_spaces.graph import PackedGraphs, offsets_of

_NODES_AT_ONCE = 8192  # keeps the activations of a batch in the processor's cache


@dataclass(frozen=True, slots=True)
class EnsembleConfig:
    """Sizes of a :class:`FuzzyEnsembleNetwork`: the encoder, the fuzzy clusters and their heads."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    clusters: int = 6
    fuzzifier: float = 1.5
    head_hidden: int = 64


class FuzzyEnsembleNetwork(nn.Module):
    """Graphs to standardised targets.

    Centroids [c, d] are a buffer: fuzzy c-means sets them, gradients do not. So is the reach, the distance from the
    nearest centroid within which the training graphs lie. Memberships sum to one however far away a graph is; so that
    heads are not believed where they never saw a graph, what they add fades as (reach / distance)^2 outside the reach,
    and a network infinitely far from all seen would be answered by its cost alone.
    """

    centroids: Tensor
    reach: Tensor

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = GraphEncoder(config.encoder)
        self.heads = ClusterHeads(config.clusters, config.encoder.embedding, config.head_hidden)
        self.register_buffer("centroids", torch.zeros(config.clusters, config.encoder.embedding))
        self.register_buffer("reach", torch.tensor(torch.inf))

    def trust(self, embedding: Float[Tensor, "g d"]) -> Float[Tensor, " g"]:
        """1 within the reach of the nearest centroid, then falling with the square of the distance."""
        distance = torch.cdist(embedding.detach(), self.centroids, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        return torch.where(distance <= self.reach, 1.0, (self.reach / distance).square())

    def forward(self, batch: GraphBatch) -> tuple[Float[Tensor, " g"], Float[Tensor, "g c"]]:
        """Standardised targets and memberships."""
        embedding = self.encoder(batch)
        membership = memberships(embedding, self.centroids, self.config.fuzzifier)
        return self.heads(embedding, membership, batch.cost.to(embedding.dtype), self.trust(embedding)), membership


class FuzzyEnsemble(Predictor):
    """A trained network as a :class:`Predictor`.

    Computes in double precision and rounds accuracies to 1e-6 percent, so that an answer does not depend on which
    other graphs it was computed with: the same architecture gets the same bytes from any batch.
    """

    def __init__(self, network: FuzzyEnsembleNetwork, target: FlopsTarget, sha256: str) -> None:
        self.network = network.double().eval()
        self.target = target
        self.sha256 = sha256

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Accuracy in percent and memberships, see :meth:`Predictor.predict`."""
        _refuse_empty(graphs)
        targets, rows = np.zeros(len(graphs)), np.zeros((len(graphs), self.network.config.clusters))
        with torch.inference_mode():
            for chosen in batches_of_nodes(graphs, _NODES_AT_ONCE):
                target, membership = self.network(featurize(graphs.take(chosen)))
                targets[chosen], rows[chosen] = target.numpy(), membership.numpy()
        return Prediction(np.round(self.target.invert(targets, flops(graphs)), 6), np.round(rows, 9))

    def embed(self, graphs: PackedGraphs) -> Float64[np.ndarray, "g d"]:
        """Embeddings of graphs."""
        _refuse_empty(graphs)
        out = np.zeros((len(graphs), self.network.config.encoder.embedding))
        with torch.inference_mode():
            for chosen in batches_of_nodes(graphs, _NODES_AT_ONCE):
                out[chosen] = self.network.encoder(featurize(graphs.take(chosen))).numpy()
        return out


def batches_of_nodes(graphs: PackedGraphs, nodes: int) -> Iterator[Int64[np.ndarray, " k"]]:
    """Consecutive indices of graphs that hold about ``nodes`` nodes together, at least one graph each."""
    batch = graphs.node_offsets[:-1] // nodes
    bounds = offsets_of(np.unique(batch, return_counts=True)[1])
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        yield np.arange(start, end)


def _refuse_empty(graphs: PackedGraphs) -> None:
    empty = np.diff(graphs.node_offsets) == 0
    if empty.any():
        raise InvalidGraphError(f"graph {int(np.flatnonzero(empty)[0])} holds no nodes; nothing can be predicted of it")
