"""Encoders that :mod:`encoders` compares: the shipped one with other messages, more beside them, or other sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATv2Conv, GINConv, GraphConv, TransformerConv
from torch_geometric.utils import segment

from gennape.predictors.encoder.deduplication import multiply
from gennape.predictors.encoder.features import N_FEATURES, NUMERIC, GraphBatch
from gennape.predictors.encoder.settings import EncoderConfig
from gennape.search_spaces.graphs.ops import VOCABULARY_SIZE

HEADS = 4
#: Columns of positional features.
POSITIONS = 8
#: More than in any network of the families.
MAX_STEPS = 512
_AT_ONCE = 16  # graphs padded to one length, of those sorted by length
_EQUAL = 1e-6  # eigenvalues no further apart are one

Adjacency = Float64[np.ndarray, "n n"]


@dataclass(frozen=True)
class Steps:
    """A batch with what other layers ask for: ``edges`` [2, e] from producers to consumers; ``owner`` [m], graphs."""

    batch: GraphBatch
    edges: Int64[Tensor, "2 e"]
    owner: Int64[Tensor, " m"]


def steps_of(batch: GraphBatch) -> Steps:
    """The batch with its edges and owners."""
    target = torch.arange(len(batch.kind)).repeat_interleave(batch.producers.offsets.diff())
    owner = torch.arange(len(batch.offsets) - 1).repeat_interleave(batch.offsets.diff())
    return Steps(batch, torch.stack([batch.producers.other, target]), owner)


# Messages ------------------------------------------------------------------------------------------------------------


class Means(nn.Module):
    """The shipped layer: a step, the mean of its producers and, ``two_way``, of its consumers, through one matrix."""

    def __init__(self, hidden: int, two_way: bool) -> None:
        super().__init__()
        self.two_way = two_way
        self.mix = nn.Linear((3 if two_way else 2) * hidden, hidden)

    def forward(self, y: Float[Tensor, "m h"], steps: Steps) -> Float[Tensor, "m h"]:
        """What each step hears."""
        heard = [y, multiply(steps.batch.producers, y)]
        return self.mix(torch.cat(heard + [multiply(steps.batch.consumers, y)] * self.two_way, dim=1))


class BothWays(nn.Module):
    """The sum of a convolution along the data flow and another one against it."""

    def __init__(self, along: nn.Module, against: nn.Module) -> None:
        super().__init__()
        self.along, self.against = along, against

    def forward(self, y: Float[Tensor, "m h"], steps: Steps) -> Float[Tensor, "m h"]:
        """What each step hears."""
        return self.along(y, steps.edges) + self.against(y, steps.edges.flip(0))


def two_way_means(hidden: int) -> nn.Module:
    """The shipped kind."""
    return Means(hidden, two_way=True)


def one_way_means(hidden: int) -> nn.Module:
    """Along the data flow alone."""
    return Means(hidden, two_way=False)


def gin(hidden: int) -> nn.Module:
    """Graph isomorphism network (Xu et al., 2019)."""
    networks = (nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)) for _ in range(2))
    return BothWays(*(GINConv(network, train_eps=True) for network in networks))


def gat(hidden: int) -> nn.Module:
    """Graph attention (Brody et al., 2022)."""
    return BothWays(*(GATv2Conv(hidden, hidden // HEADS, heads=HEADS) for _ in range(2)))


def k_gnn(hidden: int) -> nn.Module:
    """Sums over neighbours (Morris et al., 2019), as GENNAPE's own encoder."""
    return BothWays(*(GraphConv(hidden, hidden, aggr="add") for _ in range(2)))


def transformer_convolutions(hidden: int) -> nn.Module:
    """Attention to neighbours by keys and queries (Shi et al., 2021)."""
    return BothWays(*(TransformerConv(hidden, hidden // HEADS, heads=HEADS) for _ in range(2)))


# Positions -----------------------------------------------------------------------------------------------------------


def walks(adjacency: Adjacency) -> Float64[np.ndarray, "n q"]:
    """Probabilities that a random walk is back after 2, 3, ... steps (Dwivedi et al., 2022)."""
    step = adjacency / np.maximum(adjacency.sum(1, keepdims=True), 1)
    power, columns = step, []
    for _ in range(POSITIONS):
        power = power @ step
        columns.append(power.diagonal())
    return np.stack(columns, axis=1)


def eigenvectors(adjacency: Adjacency) -> Float64[np.ndarray, "n q"]:
    """How large each of the first eigenvectors of the normalised Laplacian is at a step, after the constant one.

    Its length in the whole space of an eigenvalue: neither signs nor the choice among eigenvectors of one eigenvalue,
    which depend on the order of steps, play a part. Times the root of the number of steps.
    """
    n = len(adjacency)
    scale = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
    values, vectors = np.linalg.eigh(np.eye(n) - scale[:, None] * adjacency * scale)
    space = np.cumsum(np.diff(values, prepend=values[:1]) > _EQUAL)
    squares = np.zeros((n, max(POSITIONS + 1, space[-1] + 1)))
    np.add.at(squares.T, space, vectors.T**2)
    return np.sqrt(n * squares[:, 1 : POSITIONS + 1])


@cache
def _placed(
    positions: Callable[[Adjacency], Float64[np.ndarray, "n q"]], n: int, edges: bytes
) -> Float64[np.ndarray, "n q"]:
    """Networks of a family often have the same edges."""
    source, target = np.frombuffer(edges, np.int64).reshape(2, -1)
    adjacency = np.zeros((n, n))
    adjacency[source, target] = adjacency[target, source] = 1
    return positions(adjacency)


def _positions(positions: Callable[[Adjacency], Float64[np.ndarray, "n q"]], steps: Steps) -> Float64[Tensor, "m q"]:
    offsets, edges = steps.batch.offsets.numpy(), steps.edges.numpy()
    starts = steps.batch.producers.offsets.numpy()[offsets]
    places = [
        _placed(positions, int(end - first), (edges[:, start:stop] - first).tobytes())
        for first, end, start, stop in zip(offsets[:-1], offsets[1:], starts[:-1], starts[1:], strict=True)
    ]
    return torch.from_numpy(np.concatenate(places))


# More beside the messages --------------------------------------------------------------------------------------------


class VirtualNode(nn.Module):
    """A step that hears all steps of its graph and that all of them hear (Gilmer et al., 2017)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))

    def forward(self, y: Float[Tensor, "m h"], state: Float[Tensor, "g h"], steps: Steps) -> Float[Tensor, "g h"]:
        """Its next state."""
        return state + self.layers(torch.cat([state, segment(y, steps.batch.offsets, "mean")], dim=1))


class GraphAttention(nn.Module):
    """A transformer layer over the steps of each graph, norms first; graphs of more than ``most`` steps hear none."""

    def __init__(self, hidden: int, most: int = MAX_STEPS) -> None:
        super().__init__()
        self.most = most
        self.norm, self.last_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.ask, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden))

    def forward(self, x: Float[Tensor, "m h"], steps: Steps) -> Float[Tensor, "m h"]:
        """Steps that heard all steps of their graph."""
        asked = self.ask(self.norm(x)).unflatten(1, (3, HEADS, -1))
        offsets, sizes = steps.batch.offsets, steps.batch.offsets.diff()
        order = sizes.argsort()
        order = order[(sizes[order] > 0) & (sizes[order] <= self.most)]
        places, heard = [order[:0]], [x[:0]]
        for part in torch.split(order, _AT_ONCE):
            column = torch.arange(int(sizes[part].max()))
            inside: Bool[Tensor, "p w"] = column < sizes[part, None]
            rows = (offsets[part, None] + column).clamp(max=len(x) - 1)
            query, key, value = asked[rows].permute(2, 0, 3, 1, 4)
            found = functional.scaled_dot_product_attention(query, key, value, attn_mask=inside[:, None, None])
            places.append(rows[inside])
            heard.append(found.transpose(1, 2).flatten(2)[inside])
        x = x + self.out(torch.zeros_like(x).index_copy(0, torch.cat(places), torch.cat(heard)))
        return x + self.mlp(self.last_norm(x))


@dataclass(frozen=True)
class Kind:
    """Which messages, what beside them, and sizes."""

    message: Callable[[int], nn.Module] = two_way_means
    sizes: EncoderConfig = field(default_factory=EncoderConfig)
    positions: Callable[[Adjacency], Float64[np.ndarray, "n q"]] | None = None
    virtual_node: bool = False
    attention: bool = False


class VariantEncoder(nn.Module):
    """As :class:`GraphEncoder`, which it is for the kind ``Kind()``: every step computed."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind, self.config = kind, kind.sizes
        self.dropout = kind.sizes.dropout
        hidden, layers = kind.sizes.hidden, kind.sizes.layers
        self.enter = nn.Linear(N_FEATURES, hidden)
        nn.init.zeros_(self.enter.weight[:, :VOCABULARY_SIZE])
        nn.init.zeros_(self.enter.weight[:, N_FEATURES - len(NUMERIC) + NUMERIC.index("grouped")])
        self.place = None if kind.positions is None else nn.Linear(POSITIONS, hidden, bias=False)
        self.message = nn.ModuleList(kind.message(hidden) for _ in range(layers))
        self.virtual = nn.ModuleList(VirtualNode(hidden) for _ in range(layers * kind.virtual_node))
        self.norm = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.attention = GraphAttention(hidden) if kind.attention else None
        self.last_norm = nn.LayerNorm(hidden)
        self.readout = nn.Linear(2 * hidden, kind.sizes.embedding)
        self.centre = nn.BatchNorm1d(2 * hidden, affine=False)

    def forward(self, batch: GraphBatch) -> Float[Tensor, "g d"]:
        """Embeddings; in training, channels are dropped graph by graph."""
        return self.readout(self.pool(batch))

    def pool(self, batch: GraphBatch) -> Float[Tensor, "g p"]:
        """Means and maxima over steps, centred."""
        steps = steps_of(batch)
        x = self._entered(steps)
        state = x.new_zeros(len(batch.offsets) - 1, x.shape[1])
        for i, (message, norm) in enumerate(zip(self.message, self.norm, strict=True)):
            y = norm(x)
            if self.kind.virtual_node:
                state = self.virtual[i](y, state, steps)
                y = y + state[steps.owner]
            x = x + self._drop(torch.relu(message(y, steps)), steps)
        if self.attention is not None:
            x = self.attention(x, steps)
        x = self.last_norm(x)
        rows = torch.arange(len(x))
        highest = functional.embedding_bag(rows, x, batch.offsets, mode="max", include_last_offset=True)
        return self.centre(torch.cat([segment(x, batch.offsets, "mean"), highest], dim=1))

    def _entered(self, steps: Steps) -> Float[Tensor, "m h"]:
        x = self.enter(steps.batch.kinds.to(self.enter.weight.dtype)).index_select(0, steps.batch.kind)
        if self.place is None or self.kind.positions is None:
            return x
        return x + self.place(_positions(self.kind.positions, steps).to(x.dtype))

    def _drop(self, x: Float[Tensor, "m h"], steps: Steps) -> Float[Tensor, "m h"]:
        if not self.training or self.dropout == 0:
            return x
        kept = x.new_full((len(steps.batch.offsets) - 1, x.shape[1]), 1 - self.dropout)
        return x * (torch.bernoulli(kept) / (1 - self.dropout))[steps.owner]


SHIPPED, AGAIN, UNTRAINED = "two-way means, 64 wide, 4 layers (shipped)", "again", "not pretrained"
#: In the order that they are measured in.
VARIANTS = {
    SHIPPED: Kind(),
    AGAIN: Kind(),
    UNTRAINED: Kind(),
    "one-way means": Kind(one_way_means),
    "GIN": Kind(gin),
    "GAT (v2)": Kind(gat),
    "k-GNN (GraphConv)": Kind(k_gnn),
    "TransformerConv": Kind(transformer_convolutions),
    "+ virtual node": Kind(virtual_node=True),
    "+ Laplacian eigenvectors": Kind(positions=eigenvectors),
    "+ random walks": Kind(positions=walks),
    "+ transformer on top": Kind(attention=True),
    "32 wide": Kind(sizes=EncoderConfig(hidden=32)),
    "128 wide": Kind(sizes=EncoderConfig(hidden=128)),
    "2 layers": Kind(sizes=EncoderConfig(layers=2)),
    "6 layers": Kind(sizes=EncoderConfig(layers=6)),
    "8 layers": Kind(sizes=EncoderConfig(layers=8)),
}
