"""In-distribution score: how far a network lies within the training distribution, and heads apply to it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: Share of the training networks within the radius: their score is 1.
_SHARE = 0.99
#: From this many radii on the score is 0.
_END = 2.0


class InDistribution(nn.Module):
    """The weight of heads: 1 for networks like the training's, 0 for others, by Mahalanobis distance (Lee et al.,
    2018).

    Distances are between pooled features [p]; the radius is the distance within which 99 % of the training networks
    lie. The score is 1 up to one radius, 0 from two radii on, and linear between. Untrained, every network scores 1.
    """

    mean: Tensor
    whitening: Tensor
    reach: Tensor

    def __init__(self, pooled: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(pooled))
        # Not torch.eye, which on the device "meta" (see made_of) imports PyTorch's compiler and takes a second.
        self.register_buffer("whitening", torch.zeros(pooled, pooled).fill_diagonal_(1))
        self.register_buffer("reach", torch.tensor(torch.inf))  # the radius, by its name in checkpoints

    @property
    def radius(self) -> Float[Tensor, ""]:
        """The distance within which 99 % of the training networks lie; infinite until :meth:`fit`."""
        return self.reach

    def fit(self, pooled: Float[Tensor, "g p"]) -> None:
        """Estimate mean, covariance and radius from the training networks."""
        pooled = pooled.double()
        mean, deviation = pooled.mean(0), pooled.std(0, correction=0) + 1e-6
        standard = (pooled - mean) / deviation
        # A thousandth of the unit matrix, for directions in which no training network differs from another.
        covariance = standard.T @ standard / len(standard) + 1e-3 * torch.eye(len(mean), dtype=pooled.dtype)
        self.mean.copy_(mean)
        self.whitening.copy_(torch.linalg.cholesky(torch.linalg.inv(covariance)) / deviation[:, None])
        self.reach.copy_(torch.quantile(self.distance(pooled.to(self.mean.dtype)), _SHARE))

    def distance(self, pooled: Float[Tensor, "g p"]) -> Float[Tensor, " g"]:
        """Mahalanobis distance to the training networks' mean."""
        return ((pooled - self.mean) @ self.whitening).norm(dim=1)

    def forward(self, pooled: Float[Tensor, "g p"]) -> Float[Tensor, " g"]:
        """In-distribution scores, from 0 to 1."""
        return ((_END - self.distance(pooled) / self.radius) / (_END - 1)).clamp(0, 1)
