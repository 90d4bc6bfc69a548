"""What the members of an ensemble read of networks, computed once for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from gennape.search_spaces.graph import PackedGraphs


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A set of graphs as a frozen encoder sees it, a row for each.

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

    def take(self, rows: Int64[np.ndarray, " k"] | Bool[np.ndarray, " g"]) -> View:
        """Some of the rows, in the order asked for."""
        chosen = np.arange(len(self))[rows]
        return View(
            self.graphs.take(chosen),
            self.pooled[chosen],
            self.embedding[chosen],
            self.memberships[chosen],
            self.cost[chosen],
            self.flops[chosen],
        )
