"""The graph encoder: computation graphs to embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn
from torch.nn import functional

from gennape.errors import ConfigError
from gennape.predictors.encoder.deduplication import DistinctSteps, deduplicate, mean_of_steps, multiply
from gennape.predictors.encoder.features import N_FEATURES, NUMERIC, GraphBatch
from gennape.predictors.encoder.settings import EncoderConfig
from gennape.search_spaces.graphs.ops import VOCABULARY_SIZE

_FEW_STEPS = 700  # fewer are computed sooner than equal ones are found


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
        # Centred first: differences between graphs are small compared with their common mean.
        self.centre = nn.BatchNorm1d(2 * config.hidden, affine=False)

    def forward(self, batch: GraphBatch | DistinctSteps) -> Float[Tensor, "g d"]:
        """Embeddings of a batch. In training, channels are dropped graph by graph."""
        return self.readout(self.pool(batch))

    def pool(self, batch: GraphBatch | DistinctSteps) -> Float[Tensor, "g p"]:
        """Pooled features, the input of the readout: means and maxima over steps, centred; p is twice the hidden size.

        Equal steps are computed once, unless channels are dropped: that makes equal steps of two graphs differ. Raises
        :class:`ConfigError` for deduplicated steps while channels are dropped.
        """
        dropping = self.training and self.config.dropout > 0
        if isinstance(batch, GraphBatch) and (dropping or len(batch.kind) < _FEW_STEPS):
            return self.centre(self._pool_all(batch))
        if dropping:
            raise ConfigError("channels are dropped graph by graph, got steps that graphs share; pass the GraphBatch")
        return self.centre(self._pool_distinct(batch if isinstance(batch, DistinctSteps) else self.deduplicate(batch)))

    def deduplicate(self, batch: GraphBatch) -> DistinctSteps:
        """The distinct steps of a batch, which :meth:`pool` computes first; worth keeping where a batch is reused."""
        return deduplicate(batch, self.config.layers, two_way=True)

    def _pool_all(self, batch: GraphBatch) -> Float[Tensor, "g p"]:
        x = self.enter(batch.kinds.to(self.enter.weight.dtype)).index_select(0, batch.kind)
        for mix, norm in zip(self.mix, self.norm, strict=True):
            y = norm(x)
            messages = torch.cat([y, multiply(batch.producers, y), multiply(batch.consumers, y)], dim=1)
            x = x + self._drop(torch.relu(mix(messages)), batch.offsets)
        x = self.last_norm(x)  # bounded, so that pooled values of unknown families are too
        highest = _maxima(x, torch.arange(len(x), device=x.device), batch.offsets)
        return torch.cat([_means(x, batch.offsets), highest], dim=1)

    def _pool_distinct(self, steps: DistinctSteps) -> Float[Tensor, "g p"]:
        """As :meth:`_pool_all`; a layer multiplies before it gathers, since rows are fewer then."""
        hidden = self.config.hidden
        x = self.enter(steps.features.to(self.enter.weight.dtype))
        for mix, norm, before, messages in zip(self.mix, self.norm, steps.before, steps.messages, strict=True):
            weight, bias = mix.parameters()
            # A row's words to itself, to its consumers and to its producers, one below the other.
            words = weight.view(hidden, 3, hidden).transpose(0, 1).reshape(3 * hidden, hidden)
            heard = multiply(messages, functional.linear(norm(x), words).view(-1, hidden))
            x = x.index_select(0, before) + torch.relu(heard + bias)
        x = self.last_norm(x)
        return torch.cat([mean_of_steps(steps, x), _maxima(x, steps.pool.other, steps.pool.offsets)], dim=1)

    def _drop(self, x: Float[Tensor, "m h"], offsets: Int64[Tensor, " g1"]) -> Float[Tensor, "m h"]:
        if not self.training or self.config.dropout == 0:
            return x
        kept = torch.full((len(offsets) - 1, x.shape[1]), 1 - self.config.dropout, dtype=x.dtype, device=x.device)
        mask = torch.bernoulli(kept) / (1 - self.config.dropout)
        return x * mask.repeat_interleave(offsets.diff(), dim=0)


def _means(x: Float[Tensor, "m h"], offsets: Int64[Tensor, " g1"]) -> Float[Tensor, "g h"]:
    """Means over the rows of each graph."""
    return torch.segment_reduce(x, "mean", offsets=offsets, initial=0)


def _maxima(
    x: Float[Tensor, "u h"], members: Integer[Tensor, " m"], offsets: Integer[Tensor, " g1"]
) -> Float[Tensor, "g h"]:
    # Not segment_reduce(..., "max"): where maxima tie, its gradient counts a negative one once per tied step.
    return functional.embedding_bag(members, x, offsets, mode="max", include_last_offset=True)
