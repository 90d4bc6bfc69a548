"""An encoder with the fuzzy clusters and the in-distribution score of the networks that it was fitted on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gennape.predictors.encoder.deduplication import DistinctSteps
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import GraphBatch
from gennape.predictors.encoder.fuzzy_c_means import memberships
from gennape.predictors.encoder.in_distribution import InDistribution
from gennape.predictors.encoder.settings import ClusteringConfig


class ClusteredEncoder(nn.Module):
    """Graphs to pooled features, embeddings and memberships.

    Centroids [c, d] are a buffer: fuzzy c-means sets them, gradients do not. The in-distribution score is fitted
    beside: memberships sum to one however far away a graph is, and do not show whether the graph resembles the
    training's.
    """

    centroids: Tensor

    def __init__(self, config: ClusteringConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = GraphEncoder(config.encoder)
        self.familiarity = InDistribution(2 * config.encoder.hidden)  # its name in checkpoints
        self.register_buffer("centroids", torch.zeros(config.clusters, config.encoder.embedding))

    @property
    def in_distribution(self) -> InDistribution:
        """The in-distribution score of pooled features."""
        return self.familiarity

    def forward(
        self, batch: GraphBatch | DistinctSteps
    ) -> tuple[Float[Tensor, "g p"], Float[Tensor, "g d"], Float[Tensor, "g c"]]:
        """Pooled features, embeddings and memberships of a batch."""
        pooled = self.encoder.pool(batch)
        embedding = self.encoder.readout(pooled)
        return pooled, embedding, memberships(embedding, self.centroids, self.config.fuzzifier)
