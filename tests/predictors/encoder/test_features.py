from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch

from gennape.predictors.encoder.features import N_FEATURES, NUMERIC, featurize
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.graphs.blocks import conv_bn_relu
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import concatenate, pack
from gennape.search_spaces.graphs.ops import Op


def _small_graph():
    b = GraphBuilder()
    x = b.input(3, 32, 32)
    y = conv_bn_relu(b, x, 16, 3, 2)
    z = b.add(y, b.hardswish(y))
    b.output(b.linear(b.mean(z), 10))
    return pack([b.build()])


def _dense(offsets: torch.Tensor, other: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    at = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
    return torch.zeros(len(offsets) - 1, len(offsets) - 1).index_put((at, other), weight, accumulate=True)


def test_a_convolution_and_what_it_alone_feeds_are_one_step() -> None:
    batch = featurize(_small_graph())
    # input, conv+bn+relu, hardsigmoid (its producer feeds others too), mul, add, mean, linear, output
    assert batch.features.shape == (8, N_FEATURES)
    step = batch.features[1]
    assert [step[op] for op in (Op.CONV, Op.BATCHNORM, Op.RELU, Op.LINEAR)] == [1, 1, 1, 0]


def test_numeric_features_by_hand() -> None:
    batch = featurize(_small_graph())
    numeric = dict(zip(NUMERIC, batch.features[1, -len(NUMERIC) :].tolist(), strict=True))
    assert numeric["channels in"] == np.float32(np.log2(3) / 8)
    assert numeric["channels out"] == 4 / 8
    assert numeric["height in"] == 0.0  # as large as the image
    assert numeric["height out"] == -1 / 4  # half of it
    assert numeric["kernel height"] == np.float32(np.log2(3))
    assert numeric["stride width"] == 1.0
    assert (numeric["bias"], numeric["no bias"]) == (0.0, 1.0)


def test_messages_average_over_producers() -> None:
    side = featurize(_small_graph()).producers
    dense = _dense(side.offsets, side.other, side.weight)
    assert dense[4].tolist() == [0, 0.5, 0, 0.5, 0, 0, 0, 0]  # add hears the convolution and the product
    assert torch.equal(_dense(side.back_offsets, side.back_other, side.back_weight), dense.T)


def test_resolution_does_not_leave_the_scale() -> None:
    def image(size: int):
        b = GraphBuilder()
        b.output(b.mean(b.conv(b.input(3, size, size), 8, 3, 2)))
        return pack([b.build()])

    assert torch.equal(featurize(image(32)).features, featurize(image(224)).features)


def test_order_of_additions_does_not_matter() -> None:
    batches = []
    for association in range(3):
        b = GraphBuilder()
        x = b.input(3, 8, 8)
        p, q, r, s = (b.relu(b.conv(x, 4, kernel)) for kernel in (1, 3, 5, 7))
        if association == 0:
            total = b.add(p, q, r, s)
        elif association == 1:
            total = b.add(b.add(p, q), b.add(r, s))
        else:
            total = b.add(s, b.add(q, b.add(p, r)))
        b.output(total)
        batches.append(featurize(pack([b.build()])))
    for batch in batches:
        assert len(batch.features) == 7  # input, four convolutions with their activations, the sum, the output
        assert sorted(batch.features.tolist()) == sorted(batches[0].features.tolist())
        sums = batch.features[:, Op.ADD].nonzero().item()
        assert batch.producers.offsets[sums + 1] - batch.producers.offsets[sums] == 4
        assert batch.features[sums, Op.ADD] == 1


def test_features_do_not_depend_on_other_graphs_and_are_made_once() -> None:
    graphs = concatenate([space.graphs(space.sample(np.random.default_rng(2), 3)) for space in FAMILIES])
    batch = featurize(graphs)
    alone = [featurize(graphs.take(np.array([i]))) for i in range(len(graphs))]
    assert torch.equal(batch.features, torch.cat([one.features for one in alone]))
    assert batch.kind.unique().tolist() == list(range(len(batch.kinds)))


def test_a_doubled_batch_is_that_of_all_graphs_twice() -> None:
    graphs = concatenate([space.graphs(space.sample(np.random.default_rng(3), 3)) for space in FAMILIES])
    doubled = featurize(graphs).doubled()
    made = featurize(graphs.take(np.tile(np.arange(len(graphs)), 2)))
    tensors = [("kinds", "kind", "offsets", "cost"), *[[f.name for f in fields(made.producers)]] * 2]
    for names, one, other in zip(
        tensors,
        (doubled, doubled.producers, doubled.consumers),
        (made, made.producers, made.consumers),
        strict=True,
    ):
        for name in names:
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_steps_of_other_operations_are_of_another_kind() -> None:
    """Steps that differ only in what follows the convolution, and two that do not differ."""
    b = GraphBuilder()
    x = b.input(3, 8, 8)
    convolved = [b.conv(x, 8, 3) for _ in range(4)]
    b.output(b.concat(b.relu(convolved[0]), b.relu6(convolved[1]), convolved[2], convolved[3]))
    kind = featurize(pack([b.build()])).kind.tolist()
    assert len(set(kind[1:5])) == 3
    assert kind[3] == kind[4]
