"""The graph encoder: computation graphs to embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.utils import segment

from gennape.predictors.features import N_FEATURES, NUMERIC, GraphBatch, Neighbours
from gennape.search_spaces.ops import VOCABULARY_SIZE


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes of a :class:`GraphEncoder`."""

    hidden: int = 64
    layers: int = 4
    embedding: int = 32
    dropout: float = 0.1


class GraphEncoder(nn.Module):
    """Message passing along and against the data flow, then mean and maximum over steps.

    Each layer adds to a step what a ReLU layer makes of itself and of the means over its producers and over its
    consumers (a two-directional variant of the k-GNN layer of Morris et al., 2019, that GENNAPE uses).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Linear(N_FEATURES, config.hidden)
        # Weights of operations and properties never seen in training stay 0: an unknown operation counts as its group.
        nn.init.zeros_(self.enter.weight[:, :VOCABULARY_SIZE])
        nn.init.zeros_(self.enter.weight[:, N_FEATURES - len(NUMERIC) + NUMERIC.index("grouped")])
        self.mix = nn.ModuleList(nn.Linear(3 * config.hidden, config.hidden) for _ in range(config.layers))
        self.norm = nn.ModuleList(nn.LayerNorm(config.hidden) for _ in range(config.layers))
        self.last_norm = nn.LayerNorm(config.hidden)
        self.readout = nn.Linear(2 * config.hidden, config.embedding)
        # Centred first: what graphs differ in is small beside what they share, and would drown in it.
        self.centre = nn.BatchNorm1d(2 * config.hidden, affine=False)

    def forward(self, batch: GraphBatch) -> Float[Tensor, "g d"]:
        """Embeddings of a batch. In training, channels are dropped graph by graph."""
        return self.readout(self.pool(batch))

    def pool(self, batch: GraphBatch) -> Float[Tensor, "g p"]:
        """What the embeddings are read from: means and maxima over steps, centred; p is twice the hidden size."""
        x = self.enter(batch.features.to(self.enter.weight.dtype))
        for mix, norm in zip(self.mix, self.norm, strict=True):
            y = norm(x)
            messages = torch.cat([y, _gather(y, batch.producers), _gather(y, batch.consumers)], dim=1)
            x = x + self._drop(torch.relu(mix(messages)), batch.offsets)
        x = self.last_norm(x)  # bounded, so that pooled values of unknown families are too
        # Not segment(..., "max"): where maxima tie, its gradient counts a negative one once per tied step.
        highest = functional.embedding_bag(
            torch.arange(len(x), device=x.device), x, batch.offsets, mode="max", include_last_offset=True
        )
        return self.centre(torch.cat([segment(x, batch.offsets, "mean"), highest], dim=1))

    def _drop(self, x: Float[Tensor, "m h"], offsets: Int64[Tensor, " g1"]) -> Float[Tensor, "m h"]:
        if not self.training or self.config.dropout == 0:
            return x
        kept = torch.full((len(offsets) - 1, x.shape[1]), 1 - self.config.dropout, dtype=x.dtype, device=x.device)
        mask = torch.bernoulli(kept) / (1 - self.config.dropout)
        return x * mask.repeat_interleave(offsets.diff(), dim=0)


class _SparseMean(torch.autograd.Function):
    """Sparse matrix times dense matrix; the gradient multiplies by the transposed matrix, which the batch brings."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *sides: Tensor) -> Tensor:
        ctx.save_for_backward(*sides[3:])
        return _matmul(x, *sides[:3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (_matmul(gradients[0], *ctx.saved_tensors), *(None,) * 6)


def _matmul(x: Tensor, offsets: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    # Two to four times as fast as a product of sparse matrices on processors.
    return functional.embedding_bag(
        other, x.contiguous(), offsets, mode="sum", per_sample_weights=weight.to(x.dtype), include_last_offset=True
    )


def _gather(x: Float[Tensor, "m h"], side: Neighbours) -> Float[Tensor, "m h"]:
    return _SparseMean.apply(  # type: ignore[no-untyped-call]
        x, side.offsets, side.other, side.weight, side.back_offsets, side.back_other, side.back_weight
    )
