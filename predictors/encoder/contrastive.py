"""Contrastive pretraining: graphs of similar Laplacian spectra shall have similar embeddings.

One loss, two configurations: ``GENNAPE`` as in "GENNAPE: Towards Generalized Neural Architecture Performance
Estimators" (Mills et al., AAAI 2023), ``GENERAL`` after "A General-Purpose Transferable Predictor for Neural
Architecture Search" (Han et al., SDM 2023), which is for batches of several families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, distributed, nn
from torch.nn import functional

from gennape.errors import ConfigError
from gennape.predictors.encoder.settings import ContrastiveConfig

#: Spectra no further apart than this are equally near: rounding may put equal ones as far from each other.
_ALIKE = 1e-5


@dataclass(frozen=True, slots=True)
class Views:
    """What the rows of a batch of embeddings are views of, in any order.

    ``graph``: equal where two views are of one graph; ``family``: equal where their graphs are of one family;
    ``spectra``: the smallest eigenvalues of the normalised Laplacian.
    """

    graph: Int64[Tensor, " v"]
    family: Int64[Tensor, " v"]
    spectra: Float[Tensor, "v q"]

    def to(self, device: torch.device) -> Views:
        """The same on another device."""
        return Views(self.graph.to(device), self.family.to(device), self.spectra.to(device))


def pair_weights(views: Views, config: ContrastiveConfig, anchors: slice = slice(None)) -> Float[Tensor, "a v"]:
    """How much each view shall be like each of the ``anchors``, which are some of the views; rows sum to 1.

    A view is no partner of itself, nor, where ``within_family``, of views of other families: their weights are 0. The
    others are weighted by a softmax over -(Euclidean distance of spectra) / ``spectral_temperature`` (GENNAPE, Eq. 1).
    Where that is None, the anchor's second view and the views of the nearest other graph share the weight equally, and
    so do all nearest ones where several are equally near; a graph alone in its family has its second view only.
    Raises :class:`ConfigError` for a view without any partner.
    """
    itself = _itself(len(views.graph), anchors, views.graph.device)
    partner = ~itself
    if config.within_family:
        partner = partner & (views.family[anchors, None] == views.family)
    if not partner.any(1).all():
        raise ConfigError("a view has no partner to be alike with; give every graph of a contrastive batch twice")
    if config.spectral_temperature is None:
        return _nearest(views, partner, anchors)
    distance = torch.cdist(views.spectra[anchors], views.spectra).masked_fill(~partner, torch.inf)
    return torch.softmax(-distance / config.spectral_temperature, dim=1)


def _nearest(views: Views, partner: Bool[Tensor, "a v"], anchors: slice) -> Float[Tensor, "a v"]:
    # Of products of matrices the distance of equal spectra would be any number up to a thousandth.
    exact = "donot_use_mm_for_euclid_dist"
    own = views.graph[anchors, None] == views.graph
    distance = torch.cdist(views.spectra[anchors], views.spectra, compute_mode=exact)
    distance = distance.masked_fill(own | ~partner, torch.inf)
    near = distance <= distance.amin(1, keepdim=True) + _ALIKE
    positive = (partner & (own | near)).to(views.spectra.dtype)
    return positive / positive.sum(1, keepdim=True)


def contrastive_loss(
    embeddings: Float[Tensor, "v d"], views: Views, config: ContrastiveConfig, anchors: slice = slice(None)
) -> Float[Tensor, ""]:
    """Cross-entropy between :func:`pair_weights` and the similarity of embeddings, over all other views of the batch.

    Mean over the ``anchors`` of minus the sum over views of weight x log-softmax (GENNAPE, Eq. 1), similarity being
    cosine / ``temperature``. Each graph is there twice, encoded under two dropout masks.
    """
    z = functional.normalize(embeddings, dim=1)
    similarity = (z[anchors] @ z.T) / config.temperature
    itself = _itself(len(z), anchors, z.device)
    log_probability = torch.log_softmax(similarity.masked_fill(itself, -torch.inf), dim=1)
    return -(pair_weights(views, config, anchors) * log_probability.masked_fill(itself, 0)).sum(1).mean()


def worker_loss(embeddings: Float[Tensor, "v d"], views: Views, config: ContrastiveConfig) -> Float[Tensor, ""]:
    """:func:`contrastive_loss` of one data-parallel worker, whose views are compared with those of all workers.

    Every worker of the default process group calls it with as many views of its own; ``graph`` numbers mean the same
    graph everywhere. The mean over its own anchors is returned: the mean of all workers' losses is the loss of the
    global batch, and the mean of their gradients, which is what data-parallel training makes, its gradient. Gradients
    flow back to the worker that an embedding came from. Without a process group it is the loss of the batch.

    What an encoder computes across its batch has to be synchronised, too: ``torch.nn.SyncBatchNorm`` on GPUs. Raises
    :class:`ConfigError` for workers with different numbers of views.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return contrastive_loss(embeddings, views, config)
    n = len(embeddings)
    counts = _gathered(torch.tensor([n], device=embeddings.device))
    if not (counts == n).all():
        raise ConfigError(f"workers need equally many views, got {counts.tolist()}; drop what is left over")
    together = Views(_gathered(views.graph), _gathered(views.family), _gathered(views.spectra))
    rank = distributed.get_rank()
    everyone: Tensor = _Gather.apply(embeddings)  # type: ignore[no-untyped-call]
    return contrastive_loss(everyone, together, config, slice(rank * n, (rank + 1) * n))


def _gathered(x: Shaped[Tensor, "v *_"]) -> Shaped[Tensor, "w *_"]:
    """The rows of all workers, in the order of their ranks."""
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """The rows of all workers; the gradient of a row is the sum of what all workers' losses make of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = slice(distributed.get_rank() * len(x), (distributed.get_rank() + 1) * len(x))
        return _gathered(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[ctx.rows]


def _itself(views: int, anchors: slice, device: torch.device) -> Bool[Tensor, "a v"]:
    return torch.eye(views, dtype=torch.bool, device=device)[anchors]


class ProjectionHead(nn.Module):
    """The layers between embedding and contrastive loss, dropped after pretraining."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(embedding, embedding), nn.ReLU(), nn.Linear(embedding, embedding))

    def forward(self, x: Float[Tensor, "g d"]) -> Float[Tensor, "g d"]:
        """Project embeddings."""
        return self.layers(x)
