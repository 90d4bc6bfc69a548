"""Input features of a graph: a row of numbers per step, and the edges between steps.

A step is an operation together with the normalisations and activations that it alone feeds, one after another
(conv-bn-relu is one step); a sum of many terms is one step too. Messages then pass between steps, at less than half
the cost of passing them between nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from gennape.predictors.encoder.grouping import grouped
from gennape.predictors.encoder.hashing import hash_rows, number, words
from gennape.predictors.target import flops_scale
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.graphs.graph import Column, PackedGraphs, offsets_of
from gennape.search_spaces.graphs.normal_form import normal_form
from gennape.search_spaces.graphs.ops import VOCABULARY_SIZE, WEIGHTED, Op

#: Operations that behave alike share a group, so that one never seen in training is read as its relatives are.
GROUPS: tuple[tuple[Op, ...], ...] = (
    (Op.INPUT,),
    (Op.OUTPUT,),
    (Op.CONV, Op.DEPTHWISE, Op.CONVTRANSPOSE),
    (Op.LINEAR, Op.MATMUL),
    (Op.BATCHNORM, Op.LAYERNORM, Op.GROUPNORM),
    (Op.RELU, Op.RELU6, Op.SIGMOID, Op.TANH, Op.SWISH, Op.GELU, Op.HARDSIGMOID, Op.LEAKYRELU, Op.SOFTMAX, Op.POWER),
    (Op.ADD, Op.MUL),
    (Op.CONCAT, Op.EXTEND),
    (Op.MAXPOOL, Op.AVGPOOL),
    (Op.MEAN, Op.GLOBAL),
    (Op.IDENTITY, Op.SLICE, Op.ZERO, Op.SCALE, Op.SHIFT, Op.PAD, Op.RESIZE, Op.RESHAPE, Op.PERMUTE, Op.UNKNOWN),
)
_ELEMENTWISE = (*GROUPS[4], *GROUPS[5], Op.IDENTITY, Op.SCALE, Op.SHIFT)

#: Names of the numeric features, in column order.
NUMERIC = (
    "channels in",
    "channels out",
    "height in",
    "height out",
    "width in",
    "width out",
    "weight input channels",
    "weight output channels",
    "kernel height",
    "kernel width",
    "stride height",
    "stride width",
    "bias",
    "no bias",
    "grouped",
)
#: The attributes of a step's first node that its features are made of.
_SEEN = [*range(Column.C_IN, Column.STRIDE_W + 1), Column.GROUPS, Column.BIAS]
#: Columns of :attr:`GraphBatch.features`: how often each operation occurs in a step, then each group, then the numbers.
N_FEATURES = VOCABULARY_SIZE + len(GROUPS) + len(NUMERIC)

_GROUP_OF = np.full(VOCABULARY_SIZE, len(GROUPS) - 1, np.int64)
for _index, _members in enumerate(GROUPS):
    _GROUP_OF[[int(op) for op in _members]] = _index


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Edges as rows of a sparse matrix: step ``i`` hears ``other[offsets[i]:offsets[i + 1]]``, each ``weight`` strong.

    ``back_*`` is the transposed matrix, which gradients flow through.
    """

    offsets: Int64[Tensor, " m1"]
    other: Int64[Tensor, " e"]
    weight: Float32[Tensor, " e"]
    back_offsets: Int64[Tensor, " m1"]
    back_other: Int64[Tensor, " e"]
    back_weight: Float32[Tensor, " e"]

    def to(self, device: torch.device) -> Neighbours:
        """The same on another device."""
        return Neighbours(*moved(self, device))

    def doubled(self) -> Neighbours:
        """The same again of other steps, which are numbered on."""
        steps = len(self.offsets) - 1
        return Neighbours(
            _went_on(self.offsets),
            torch.cat([self.other, self.other + steps]),
            self.weight.repeat(2),
            _went_on(self.back_offsets),
            torch.cat([self.back_other, self.back_other + steps]),
            self.back_weight.repeat(2),
        )


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """A packed set of graphs as tensors.

    ``kinds`` float32 [k, f], the features that occur; ``kind`` int64 [m], which of them a step has; ``producers`` and
    ``consumers``, whom a step hears along and against the data flow (weights sum to 1 per step); ``offsets`` int64
    [g + 1], the steps of each graph; ``cost`` float32 [g], 1 / (log10(GFLOPs + 1) + 1), which the target of each graph
    was multiplied by.
    """

    kinds: Float32[Tensor, "k f"]
    kind: Int64[Tensor, " m"]
    producers: Neighbours
    consumers: Neighbours
    offsets: Int64[Tensor, " g1"]
    cost: Float32[Tensor, " g"]

    @property
    def features(self) -> Float32[Tensor, "m f"]:
        """A row per step."""
        return self.kinds[self.kind]

    def to(self, device: torch.device) -> GraphBatch:
        """The same on another device."""
        return GraphBatch(*moved(self, device))

    def doubled(self) -> GraphBatch:
        """Two views of each graph: all graphs, and then all again. Making one batch of them takes twice as long."""
        return GraphBatch(
            self.kinds,
            self.kind.repeat(2),
            self.producers.doubled(),
            self.consumers.doubled(),
            _went_on(self.offsets),
            self.cost.repeat(2),
        )


def _went_on(offsets: Int64[Tensor, " n1"]) -> Int64[Tensor, " m1"]:
    """The offsets of all runs, and then of as many again of the same lengths."""
    return torch.cat([offsets[:-1], offsets + offsets[-1]])


def moved(batch: Any, device: torch.device) -> Iterator[Any]:
    """The fields of a batch on another device: tensors, parts that know how to move, tuples of both, None."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, tuple):
            yield tuple(part.to(device) for part in value)
        else:
            yield None if value is None else value.to(device)


def featurize(graphs: PackedGraphs, formed: bool = False) -> GraphBatch:
    """The features of published computation graphs (operation, shapes, kernel, weight shape, bias), by step.

    They are those of the normal form (:mod:`gennape.search_spaces.graphs.normal_form`), but the cost;
    ``formed`` says that graphs have it already.

    Sizes are logarithms: channels as log2(c) / 8, kernels as log2(k), heights and widths relative to the graph's own
    input image, since a family of 224 pixels would otherwise lie outside all that a family of 32 pixels teaches.
    """
    count = flops(graphs)
    graphs = graphs if formed else normal_form(graphs)
    op = operations(graphs)
    leads, step_of = steps(graphs, op)
    owner = graphs.graph_index
    image = _images(graphs, op, owner)
    # A sum is one operation, in whatever order its terms are added.
    counted = np.flatnonzero((op != Op.ADD) | (leads[step_of] == np.arange(len(op))))
    kind, first = _kinds(graphs.nodes[leads], op[leads], image[owner[leads]], step_of[counted], op[counted])
    # The features of the first step of each kind, of the operations in these steps.
    row_of = np.full(len(leads), -1)
    row_of[first] = np.arange(len(first))
    counted = counted[row_of[step_of[counted]] >= 0]
    kinds = np.zeros((len(first), N_FEATURES), np.float32)
    for column in (op[counted], VOCABULARY_SIZE + _GROUP_OF[op[counted]]):
        np.add.at(kinds, (row_of[step_of[counted]], column), np.float32(1))
    shown = leads[first]
    kinds[:, -len(NUMERIC) :] = _numeric(graphs.nodes[shown], op[shown], owner[shown], image)
    source, target = step_of[graphs.edges[:, 0]], step_of[graphs.edges[:, 1]]
    between = source != target
    source, target = source[between], target[between]
    return GraphBatch(
        torch.from_numpy(kinds),
        torch.from_numpy(kind),
        _neighbours(target, source, len(leads)),
        _neighbours(source, target, len(leads)),
        torch.from_numpy(offsets_of(np.bincount(owner[leads], minlength=len(graphs)))),
        torch.from_numpy((1 / flops_scale(count)).astype(np.float32)),
    )


def batches_of_nodes(graphs: PackedGraphs, nodes: int) -> Iterator[Int64[np.ndarray, " k"]]:
    """Consecutive indices of graphs that hold about ``nodes`` nodes together, at least one graph each."""
    batch = graphs.node_offsets[:-1] // nodes
    bounds = offsets_of(np.unique(batch, return_counts=True)[1])
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        yield np.arange(start, end)


def operations(graphs: PackedGraphs) -> Int64[np.ndarray, " n"]:
    """The operation of each node, those outside the vocabulary being unknown."""
    op = graphs.nodes[:, Column.OP].astype(np.int64)
    return np.where((op >= 0) & (op < VOCABULARY_SIZE), op, int(Op.UNKNOWN))


def steps(graphs: PackedGraphs, op: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " n"]]:
    """The first node of each step, and for each node the step that it belongs to."""
    n = len(op)
    source, target = graphs.edges.T
    producer = np.arange(n)
    alone = np.bincount(source, minlength=n)[source] == 1
    follows: Bool[np.ndarray, " e"] = np.isin(op[target], _ELEMENTWISE) & alone
    terms = (op[target] == Op.ADD) & (op[source] == Op.ADD) & alone
    producer[source[terms]] = target[terms]  # the last addition leads, whatever the order of the others
    producer[target[follows]] = source[follows]
    while not np.array_equal(producer, further := producer[producer]):
        producer = further
    leads = np.flatnonzero(producer == np.arange(n))
    position = np.empty(n, np.int64)
    position[leads] = np.arange(len(leads))
    return leads, position[producer]


def _kinds(
    nodes: Int32[np.ndarray, "m a"],
    op: Int64[np.ndarray, " m"],
    image: Float32[np.ndarray, "m 2"],
    step_of: Int64[np.ndarray, " n"],
    counted: Int64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " k"]]:
    """Steps with equal features numbered alike, and the first step of each kind.

    By hashes of 64 bits of all that features are made of: some attributes of the first node, the image, and which
    operations are ``counted`` in a step.
    """
    table = np.zeros((len(nodes), 16), np.int32)
    table[:, 0], table[:, 1:3] = op, image.view(np.int32)
    table[:, 3 : 3 + len(_SEEN)] = nodes[:, _SEEN]
    hashes = hash_rows(table)
    np.add.at(hashes, step_of, words(VOCABULARY_SIZE)[counted])
    return number(hashes)


def _images(
    graphs: PackedGraphs, op: Int64[np.ndarray, " n"], owner: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "g 2"]:
    image = np.ones((len(graphs), 2), np.float32)
    is_input = op == Op.INPUT
    image[owner[is_input]] = graphs.nodes[is_input][:, [Column.H_OUT, Column.W_OUT]]
    return image


def _numeric(
    nodes: Int32[np.ndarray, "m a"],
    op: Int64[np.ndarray, " m"],
    owner: Int64[np.ndarray, " m"],
    image: Float32[np.ndarray, "g 2"],
) -> Float32[np.ndarray, "m k"]:
    out = np.zeros((len(nodes), len(NUMERIC)), np.float32)
    channels = nodes[:, [Column.C_IN, Column.C_OUT]].astype(np.float32)
    out[:, 0:2] = np.log2(channels) / 8
    sizes = nodes[:, [Column.H_IN, Column.H_OUT, Column.W_IN, Column.W_OUT]].astype(np.float32)
    # A map of 1x1 is a vector, whatever the image was; 1/32 is what it is in networks for images of 32 pixels.
    share = np.where(sizes == 1, np.float32(1 / 32), sizes / image[owner][:, [0, 0, 1, 1]])
    out[:, 2:6] = np.log2(share) / 4
    weighted = np.isin(op, WEIGHTED)
    fan = channels[:, 0] / np.maximum(nodes[:, Column.GROUPS], 1)
    out[:, 6] = np.where(weighted, np.log2(np.maximum(fan, 1)) / 8, 0)
    out[:, 7] = np.where(weighted, out[:, 1], 0)
    window = nodes[:, [Column.KERNEL_H, Column.KERNEL_W, Column.STRIDE_H, Column.STRIDE_W]].astype(np.float32)
    out[:, 8:12] = np.log2(np.maximum(window, 1))
    out[:, 12] = weighted & (nodes[:, Column.BIAS] == 1)
    out[:, 13] = weighted & (nodes[:, Column.BIAS] == 0)
    out[:, 14] = nodes[:, Column.GROUPS] > 1
    return out


def _neighbours(at: Int64[np.ndarray, " e"], other: Int64[np.ndarray, " e"], n: int) -> Neighbours:
    """Row ``at`` averages over its ``other``s."""
    offsets, order = grouped(at, n)
    back_offsets, back = grouped(other, n)
    weight = (1 / np.maximum(np.diff(offsets), 1)).astype(np.float32)[at]
    arrays = offsets, other[order], weight[order], back_offsets, at[back], weight[back]
    return Neighbours(*(torch.from_numpy(array) for array in arrays))
