"""The inputs of an ensemble's members: encoded graphs, computed once for all members."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.encoder.features import batches_of_nodes, featurize
from gennape.predictors.target import flops_scale
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.graphs.graph import PackedGraphs

_NODES_AT_ONCE = 2**15  # more graphs share more of their steps, and tables still fit a processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class EncodedGraphs:
    """Graphs encoded by a frozen encoder, one row per graph.

    ``pooled`` [g, p], ``embedding`` [g, d] and ``memberships`` [g, c], which sum to 1, are the encoder's and the fuzzy
    clusters'; ``cost`` [g] is 1 / (log10(GFLOPs + 1) + 1), see :func:`gennape.predictors.target.flops_scale`;
    ``flops`` [g] are 2 x MACs.
    """

    graphs: PackedGraphs
    pooled: Float64[np.ndarray, "g p"]
    embedding: Float64[np.ndarray, "g d"]
    memberships: Float64[np.ndarray, "g c"]
    cost: Float64[np.ndarray, " g"]
    flops: Int64[np.ndarray, " g"]

    def __len__(self) -> int:
        return len(self.cost)

    def take(self, rows: Int64[np.ndarray, " k"] | Bool[np.ndarray, " g"]) -> EncodedGraphs:
        """Some of the rows, in the order asked for."""
        chosen = np.arange(len(self))[rows]
        return EncodedGraphs(
            self.graphs.take(chosen),
            self.pooled[chosen],
            self.embedding[chosen],
            self.memberships[chosen],
            self.cost[chosen],
            self.flops[chosen],
        )


def encode(network: ClusteredEncoder, graphs: PackedGraphs, formed: bool = False) -> EncodedGraphs:
    """Encode graphs by ``network``, in its own precision and on its own device; the result is in double precision.

    ``formed`` states that graphs are in normal form already.
    """
    config, n = network.config, len(graphs)
    widths = (2 * config.encoder.hidden, config.encoder.embedding, config.clusters)
    found = [np.zeros((n, width)) for width in widths]
    device = network.centroids.device
    with torch.inference_mode():
        for rows in batches_of_nodes(graphs, _NODES_AT_ONCE):
            for table, part in zip(found, network(featurize(graphs.take(rows), formed).to(device)), strict=True):
                table[rows] = part.cpu().numpy()
    count = flops(graphs)
    pooled, embedding, memberships = found
    return EncodedGraphs(graphs, pooled, embedding, memberships, 1 / flops_scale(count), count)
