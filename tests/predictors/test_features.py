from __future__ import annotations

import numpy as np
import torch

from gennape.predictors.features import N_FEATURES, NUMERIC, featurize
from gennape.search_spaces.builder import GraphBuilder, conv_bn_relu
from gennape.search_spaces.graph import pack
from gennape.search_spaces.ops import Op


def _small_graph():
    b = GraphBuilder()
    x = b.input(3, 32, 32)
    y = conv_bn_relu(b, x, 16, 3, 2)
    z = b.add(y, b.hardswish(y))
    b.output(b.linear(b.mean(z), 10))
    return pack([b.build()])


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
    batch = featurize(_small_graph())
    side = batch.producers
    dense = torch.sparse_csr_tensor(side.offsets, side.other, side.weight, (8, 8), check_invariants=True).to_dense()
    assert dense[4].tolist() == [0, 0.5, 0, 0.5, 0, 0, 0, 0]  # add hears the convolution and the product
    back = torch.sparse_csr_tensor(
        side.back_offsets, side.back_other, side.back_weight, (8, 8), check_invariants=True
    ).to_dense()
    assert torch.equal(back, dense.T)


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
