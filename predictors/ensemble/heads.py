"""One small regressor per fuzzy cluster, weighted by membership."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn


class ClusterHeads(nn.Module):
    """``clusters`` MLPs of one hidden layer each, evaluated together.

    The prediction of a graph is a line in its cost plus sum_c membership_c x MLP_c(embedding, cost) on the scale of
    what the line leaves unexplained (GENNAPE, "FCM-based ensemble"). The cost is 1 / (log10(GFLOPs + 1) + 1),
    standardised: the target is nearly proportional to it, and an embedding, being made of means over the graph, does
    not know how large the graph is. In accuracy the line reads a + b x (log10(GFLOPs + 1) + 1).
    """

    #: Mean and deviation of the cost in training; slope and intercept of the line; deviation from the line.
    cost_statistics: Tensor

    def __init__(self, clusters: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("cost_statistics", torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
        self.first = nn.Parameter(torch.empty(clusters, embedding + 1, hidden))
        self.first_bias = nn.Parameter(torch.zeros(clusters, 1, hidden))
        self.second = nn.Parameter(torch.empty(clusters, hidden, 1))
        self.second_bias = nn.Parameter(torch.zeros(clusters, 1, 1))
        nn.init.normal_(self.first, std=(2 / (embedding + 1)) ** 0.5)
        nn.init.normal_(self.second, std=(1 / hidden) ** 0.5)

    def start(
        self,
        cost: Float64[np.ndarray, " g"],
        target: Float64[np.ndarray, " g"],
        unit: Float64[np.ndarray, " g"],
    ) -> None:
        """Set the line to the least squared error in accuracy, ``unit`` being percent per unit of target."""
        mean, deviation = cost.mean(), max(cost.std(), 1e-6)
        standard = (cost - mean) / deviation
        slope, intercept = np.polyfit(standard, target, 1, w=unit)
        left = max((target - slope * standard - intercept).std(), 1e-6)
        self.cost_statistics.copy_(torch.tensor([mean, deviation, slope, intercept, left]))

    def copy_from(self, single: ClusterHeads) -> None:
        """Begin all clusters as copies of heads of one cluster."""
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), single.parameters(), strict=True):
                mine.copy_(theirs.expand_as(mine))
            self.cost_statistics.copy_(single.cost_statistics)

    def forward(
        self,
        embedding: Float[Tensor, "g d"],
        membership: Float[Tensor, "g c"],
        cost: Float[Tensor, " g"],
    ) -> Float[Tensor, " g"]:
        """Membership-weighted predictions on the scale of the target."""
        mean, deviation, slope, intercept, left = self.cost_statistics
        standard = ((cost - mean) / deviation)[:, None]
        known = torch.cat([embedding, standard], dim=1)
        hidden = torch.relu(torch.baddbmm(self.first_bias, known.expand(len(self.first), -1, -1), self.first))
        per_cluster = torch.baddbmm(self.second_bias, hidden, self.second).squeeze(2)
        return slope * standard[:, 0] + intercept + left * (per_cluster.T * membership).sum(1)
