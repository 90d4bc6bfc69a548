"""An encoder, the fuzzy clusters of what it was fitted on, and how familiar it is with a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from gennape.predictors.bounds import Size
from gennape.predictors.encoder.deduplication import DistinctSteps
from gennape.predictors.encoder.encoder import EncoderConfig, GraphEncoder
from gennape.predictors.encoder.features import GraphBatch
from gennape.predictors.encoder.fuzzy_c_means import memberships
from gennape.predictors.encoder.in_distribution import Familiarity


@dataclass(frozen=True, slots=True)
class ClusteringConfig:
    """Sizes of a :class:`ClusteredEncoder`: the encoder's, the number of clusters C, and the fuzzifier m, above 1."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    clusters: Size = 6
    fuzzifier: Annotated[float, Field(gt=1, le=100)] = 1.5


class ClusteredEncoder(nn.Module):
    """Graphs to pooled features, embeddings and memberships.

    Centroids [c, d] are a buffer: fuzzy c-means sets them, gradients do not. So is what the network is familiar with:
    memberships sum to one however far away a graph is, and do not tell whether members ever saw the like.
    """

    centroids: Tensor

    def __init__(self, config: ClusteringConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = GraphEncoder(config.encoder)
        self.familiarity = Familiarity(2 * config.encoder.hidden)
        self.register_buffer("centroids", torch.zeros(config.clusters, config.encoder.embedding))

    def forward(
        self, batch: GraphBatch | DistinctSteps
    ) -> tuple[Float[Tensor, "g p"], Float[Tensor, "g d"], Float[Tensor, "g c"]]:
        """What the encoder pools a batch to, embeddings and memberships."""
        pooled = self.encoder.pool(batch)
        embedding = self.encoder.readout(pooled)
        return pooled, embedding, memberships(embedding, self.centroids, self.config.fuzzifier)
