from __future__ import annotations

import numpy as np
import torch

from gennape.predictors.encoder import GraphEncoder, _gather
from gennape.predictors.features import featurize
from gennape.search_spaces.builder import GraphBuilder
from gennape.search_spaces.graph import PackedGraphs, pack
from gennape.search_spaces.ops import VOCABULARY_SIZE, Op


def test_embedding_does_not_depend_on_node_order(encoder: GraphEncoder, cells: PackedGraphs) -> None:
    encoder.double().eval()
    rng = np.random.default_rng(0)
    shuffled = pack([cells[i].relabel(rng.permutation(cells[i].n_nodes)) for i in range(8)])
    with torch.inference_mode():
        first = encoder(featurize(cells.take(np.arange(8))))
        second = encoder(featurize(shuffled))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_gradient_of_neighbour_means_is_that_of_a_dense_product(cells: PackedGraphs) -> None:
    side = featurize(cells.take(np.arange(3))).consumers
    n = len(side.offsets) - 1
    x = torch.randn(n, 4, dtype=torch.float64, requires_grad=True)
    at = torch.repeat_interleave(torch.arange(n), side.offsets.diff())
    dense = torch.zeros(n, n, dtype=torch.float64).index_put((at, side.other), side.weight.double(), accumulate=True)
    weights = torch.randn(n, 4, dtype=torch.float64)
    (expected,) = torch.autograd.grad(((dense @ x) * weights).sum(), x)
    (found,) = torch.autograd.grad((_gather(x, side) * weights).sum(), x)
    torch.testing.assert_close(found, expected)


def test_an_operation_never_trained_on_reads_as_its_group(encoder: GraphEncoder) -> None:
    assert encoder.enter.weight[:, :VOCABULARY_SIZE].abs().max() == 0
    assert encoder.enter.weight[:, VOCABULARY_SIZE:].abs().max() > 0
    assert len(Op) <= VOCABULARY_SIZE


def test_dropout_makes_two_views_only_in_training(encoder: GraphEncoder, cells: PackedGraphs) -> None:
    batch = featurize(cells.take(np.zeros(2, np.int64)))
    encoder.train()
    torch.manual_seed(0)
    first, second = encoder(batch)
    assert not torch.allclose(first, second)
    encoder.eval()
    first, second = encoder(batch)
    torch.testing.assert_close(first, second)


def test_gradients_of_tied_maxima_only_change_sign_with_the_loss(encoder: GraphEncoder) -> None:
    """PyTorch's segment_reduce counts a negative gradient once for each of the steps that tie."""
    b = GraphBuilder()
    x = b.input(3, 8, 8)
    b.output(b.concat(*(b.conv(x, 64, 5) for _ in range(4))))
    batch, exact = featurize(pack([b.build()])), encoder.double().eval()
    gradients = []
    for sign in (1.0, -1.0):
        exact.zero_grad()
        (sign * exact.pool(batch)[:, exact.config.hidden :]).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(torch.cat([p.grad.flatten() for p in exact.mix.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], -gradients[1], rtol=1e-9, atol=1e-12)
