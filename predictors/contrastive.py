"""Contrastive pretraining: graphs of similar Laplacian spectra shall have similar embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def spectral_weights(spectra: Float[Tensor, "b q"], temperature: float) -> Float[Tensor, "b b"]:
    """Weights of all pairs, rows summing to 1: softmax over -(Euclidean distance of spectra) / temperature.

    The diagonal is 0: a view is no partner of itself. The weight grows as spectra come closer. GENNAPE, Eq. 1.
    """
    distance = torch.cdist(spectra, spectra)
    distance.fill_diagonal_(torch.inf)
    return torch.softmax(-distance / temperature, dim=1)


def contrastive_loss(
    views: Float[Tensor, "v d"], spectra: Float[Tensor, "v q"], temperature: float, spectral_temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy between spectral similarity and embedding similarity over all other views of the batch.

    ``views`` holds each graph twice, encoded under two dropout masks, and ``spectra`` the matching rows. Similarity of
    embeddings is cosine / ``temperature``. GENNAPE, Eq. 1: minus the sum over pairs of weight x log-softmax.
    """
    z = functional.normalize(views, dim=1)
    similarity = (z @ z.T) / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_probability = torch.log_softmax(similarity.masked_fill(itself, -torch.inf), dim=1)
    weights = spectral_weights(spectra, spectral_temperature)
    return -(weights * log_probability.masked_fill(itself, 0)).sum(1).mean()


class ProjectionHead(nn.Module):
    """The layers between embedding and contrastive loss, dropped after pretraining."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(embedding, embedding), nn.ReLU(), nn.Linear(embedding, embedding))

    def forward(self, x: Float[Tensor, "g d"]) -> Float[Tensor, "g d"]:
        """Project embeddings."""
        return self.layers(x)
