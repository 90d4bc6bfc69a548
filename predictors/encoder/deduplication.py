"""Deduplication: equal steps of a batch are computed once.

Steps with equal neighbourhoods up to depth ``l`` have equal values after ``l`` layers, in whichever graph they are.
:func:`deduplicate` finds them, so that a layer computes each distinct value once: for 128 networks of a family a small
part of all rows. The result is that of computing every row, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, UInt64
from torch import Tensor
from torch.nn import functional

from gennape.predictors.encoder.features import GraphBatch, Neighbours, moved
from gennape.predictors.encoder.grouping import grouped
from gennape.predictors.encoder.hashing import hash_rows, mix, number, words
from gennape.search_spaces.graphs.graph import offsets_of


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A sparse matrix: row ``i`` sums ``other[offsets[i]:offsets[i + 1]]``, each ``weight`` strong, or once if None.

    ``back_*`` is the transposed matrix, which gradients flow through.
    """

    offsets: Int32[Tensor, " r1"]
    other: Int32[Tensor, " e"]
    back_offsets: Int32[Tensor, " c1"]
    back_other: Int32[Tensor, " e"]
    weight: Float32[Tensor, " e"] | None = None
    back_weight: Float32[Tensor, " e"] | None = None

    def to(self, device: torch.device) -> SparseRows:
        """The same on another device."""
        return SparseRows(*moved(self, device))


@dataclass(frozen=True, slots=True)
class DistinctSteps:
    """A batch that holds each distinct step once.

    ``features`` float32 [u, f], the distinct steps. For each layer, ``before`` int64 [u after] tells which row each row
    was before it, and ``messages`` [u after, k x u before] what it hears: column k i is row i's word to itself, k i + 1
    to its consumers, and k i + 2, where k is 3, to its producers. ``pool`` [g, u], the sum over the steps of each
    graph; ``sizes`` float32 [g], how many these are; ``cost`` float32 [g], as in :class:`GraphBatch`.
    """

    features: Float32[Tensor, "u f"]
    before: tuple[Int64[Tensor, " _"], ...]
    messages: tuple[SparseRows, ...]
    pool: SparseRows
    sizes: Float32[Tensor, " g"]
    cost: Float32[Tensor, " g"]

    def to(self, device: torch.device) -> DistinctSteps:
        """The same on another device."""
        return DistinctSteps(*moved(self, device))


@dataclass(frozen=True, slots=True)
class _Side:
    """Whom steps hear on one side: :class:`Neighbours` without its way back."""

    starts: Int64[np.ndarray, " m1"]
    other: Int64[np.ndarray, " e"]
    weight: Float32[np.ndarray, " e"]


def deduplicate(batch: GraphBatch, layers: int, *, two_way: bool = False) -> DistinctSteps:
    """Merge the steps that ``layers`` rounds of message passing cannot tell apart.

    A step hears the sum of its producers or, ``two_way``, the means of its producers and of its consumers.

    Colour refinement: a 64-bit colour stands for a step's features and, round by round, for its colour and the multiset
    of its neighbours' colours. Collisions have a probability below 1e-9 per batch.

    Computed on the CPU; the result is on the device of the batch.
    """
    device, batch = batch.kinds.device, batch.to(torch.device("cpu"))
    neighbours = (batch.producers, batch.consumers) if two_way else (batch.producers,)
    sides = [_Side(n.offsets.numpy(), n.other.numpy(), n.weight.numpy()) for n in neighbours]
    colour, first = number(hash_rows(batch.kinds.numpy())[batch.kind.numpy()])
    features = batch.kinds[batch.kind[torch.from_numpy(first)]]
    before, messages = [], []
    for _ in range(layers):
        refined, chosen = number(_refine(colour, len(first), sides))
        before.append(torch.from_numpy(colour[chosen]))
        messages.append(_messages(colour, chosen, sides, (1 + len(sides)) * len(first), weighted=two_way))
        colour, first = refined, chosen
    pool = _sparse_rows(batch.offsets.numpy(), colour, len(first))
    sizes = batch.offsets.diff().float()
    return DistinctSteps(features, tuple(before), tuple(messages), pool, sizes, batch.cost).to(device)


def multiply(rows: SparseRows | Neighbours, x: Float[Tensor, "c h"]) -> Float[Tensor, "r h"]:
    """Sparse matrix times dense matrix."""
    return _Product.apply(x, rows)  # type: ignore[no-untyped-call]


def mean_of_steps(steps: DistinctSteps, x: Float[Tensor, "u h"]) -> Float[Tensor, "g h"]:
    """Means over the steps of each graph, of what their distinct values are."""
    return multiply(steps.pool, x) / steps.sizes[:, None].to(x.dtype)


class _Product(torch.autograd.Function):
    """Sparse matrix times dense matrix; the gradient multiplies by the transposed matrix, which the rows bring."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: SparseRows | Neighbours) -> Tensor:
        ctx.rows = rows  # held as it is: no gradient flows into it
        return _bag(x, rows.offsets, rows.other, rows.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _bag(gradients[0], ctx.rows.back_offsets, ctx.rows.back_other, ctx.rows.back_weight), None


def _bag(x: Tensor, offsets: Tensor, other: Tensor, weight: Tensor | None) -> Tensor:
    # Twice to four times as fast as a product of sparse matrices, on processors.
    weight = weight if weight is None else weight.to(x.dtype)
    return functional.embedding_bag(
        other, x.contiguous(), offsets, mode="sum", per_sample_weights=weight, include_last_offset=True
    )


def _refine(colour: Int64[np.ndarray, " m"], colours: int, sides: list[_Side]) -> UInt64[np.ndarray, " m"]:
    """Hashes of each step's colour and, side by side, of the colours that it hears."""
    word = words(colours)[colour]
    hashes = word * np.uint64(3)
    for place, side in enumerate(sides):
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(word[side.other], dtype=np.uint64)])
        heard = sums[side.starts[1:]] - sums[side.starts[:-1]]
        hashes += mix(heard + np.uint64(place)) * np.uint64(2 * place + 5)
    return hashes


def _messages(
    colour: Int64[np.ndarray, " m"],
    chosen: Int64[np.ndarray, " u"],
    sides: list[_Side],
    columns: int,
    *,
    weighted: bool,
) -> SparseRows:
    """One row for each of the ``chosen`` steps: itself and whom it hears, by their colours."""
    kinds = 1 + len(sides)
    counts = [side.starts[chosen + 1] - side.starts[chosen] for side in sides]
    offsets = offsets_of(1 + sum(counts))
    other, weight = np.empty(offsets[-1], np.int64), np.ones(offsets[-1], np.float32)
    place = offsets[:-1]
    other[place] = kinds * colour[chosen]
    place = place + 1
    for kind, (side, count) in enumerate(zip(sides, counts, strict=True), start=1):
        starts = offsets_of(count)
        along = np.arange(starts[-1])
        put = along + np.repeat(place - starts[:-1], count)
        take = along + np.repeat(side.starts[chosen] - starts[:-1], count)
        other[put] = kinds * colour[side.other[take]] + kind
        weight[put] = side.weight[take]
        place = place + count
    return _sparse_rows(offsets, other, columns, weight if weighted else None)


def _sparse_rows(
    offsets: Int64[np.ndarray, " r1"],
    other: Int64[np.ndarray, " e"],
    columns: int,
    weight: Float32[np.ndarray, " e"] | None = None,
) -> SparseRows:
    at = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    back_offsets, back = grouped(other, columns)
    indices = [torch.from_numpy(a.astype(np.int32, copy=False)) for a in (offsets, other, back_offsets, at[back])]
    weights = [] if weight is None else [torch.from_numpy(a) for a in (weight, weight[back])]
    return SparseRows(*indices, *weights)
