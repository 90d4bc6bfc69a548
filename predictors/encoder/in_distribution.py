"""Whether a network is like those that a model was trained on: how far heads may be believed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: Whom heads are believed for entirely: this share of the training networks.
_SHARE = 0.99
#: From this many reaches on they are not believed at all.
_END = 2.0


class Familiarity(nn.Module):
    """1 for networks like the training's, falling to 0 for others, by Mahalanobis distance (Lee et al., 2018).

    Distances are between what graphs are pooled to, [p]; the reach is the distance within which 99 % of the training
    networks lie. Trust is 1 up to one reach and 0 from two reaches on. Untrained, everything is familiar.
    """

    mean: Tensor
    whitening: Tensor
    reach: Tensor

    def __init__(self, pooled: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(pooled))
        self.register_buffer("whitening", torch.eye(pooled))
        self.register_buffer("reach", torch.tensor(torch.inf))

    def learn(self, pooled: Float[Tensor, "g p"]) -> None:
        """Remember what the training networks are like."""
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
        """Trust, from 0 to 1."""
        return ((_END - self.distance(pooled) / self.reach) / (_END - 1)).clamp(0, 1)
