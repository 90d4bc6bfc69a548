from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_geometric.utils import segment

from gennape.errors import ConfigError
from gennape.predictors.encoder.encoder import GraphEncoder, _means
from gennape.predictors.encoder.features import featurize
from gennape.predictors.encoder.settings import EncoderConfig
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import PackedGraphs, pack
from gennape.search_spaces.graphs.ops import VOCABULARY_SIZE, Op

SIZES = EncoderConfig(hidden=16, layers=4, embedding=8)


def test_embedding_does_not_depend_on_node_order(encoder: GraphEncoder, cells: PackedGraphs) -> None:
    encoder.double().eval()
    rng = np.random.default_rng(0)
    shuffled = pack([cells[i].relabel(rng.permutation(cells[i].n_nodes)) for i in range(8)])
    with torch.inference_mode():
        first = encoder(featurize(cells.take(np.arange(8))))
        second = encoder(featurize(shuffled))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


# Channels are dropped graph by graph, of which every step is then computed, but in fact none ever is.
_EVERY_STEP = 1e-300


def _gradients(encoder: GraphEncoder, answers: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, answers.numel(), dtype=answers.dtype).view(answers.shape)
    return list(torch.autograd.grad((answers * weights).sum(), list(encoder.parameters())))


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_equal_steps_computed_once_give_what_every_step_gives(space: SearchSpace) -> None:
    every, once = (GraphEncoder(replace(SIZES, dropout=rate)).double().train() for rate in (_EVERY_STEP, 0.0))
    torch.manual_seed(6)
    for parameter in every.parameters():  # also those that start at 0, where different steps would tie
        torch.nn.init.normal_(parameter, std=0.3)
    once.load_state_dict(every.state_dict())
    batch = featurize(space.graphs(space.sample(np.random.default_rng(0), 9)))
    expected = every(batch)
    for found in (once(batch), once(once.deduplicate(batch))):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(_gradients(once, found), _gradients(every, every(batch)), rtol=1e-10, atol=1e-10)
    once.load_state_dict(every.state_dict())
    for encoder in (every.eval(), once.eval()):  # answers share whatever training does
        torch.testing.assert_close(encoder(batch), encoder.readout(encoder.centre(every._pool_all(batch))))


def test_steps_that_graphs_share_cannot_be_dropped(encoder: GraphEncoder, cells: PackedGraphs) -> None:
    steps = encoder.deduplicate(featurize(cells.take(np.arange(2))))
    encoder.eval()(steps)
    with pytest.raises(ConfigError, match="graph by graph"):
        encoder.train()(steps)


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


def test_means_are_those_of_torch_geometric_bit_by_bit() -> None:
    """So that checkpoints, and what is trained anew, stay what they were."""
    torch.manual_seed(0)
    offsets = torch.tensor([0, 1, 7, 7, 40, 41])
    x, weights = torch.randn(41, 16, requires_grad=True), torch.randn(5, 16)
    expected, found = segment(x, offsets, "mean"), _means(x, offsets)
    assert torch.equal(found, expected)
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("rate", [0.0, _EVERY_STEP])
def test_gradients_of_tied_maxima_only_change_sign_with_the_loss(rate: float) -> None:
    """PyTorch's segment_reduce counts a negative gradient once for each of the steps that tie."""
    b = GraphBuilder()
    x = b.input(3, 8, 8)
    b.output(b.concat(*(b.conv(x, 64, 5) for _ in range(4))))
    torch.manual_seed(4)
    batch, exact = featurize(pack([b.build()])), GraphEncoder(replace(SIZES, dropout=rate)).double().train()
    exact.centre.eval()  # one graph has no deviation
    gradients = []
    for sign in (1.0, -1.0):
        exact.zero_grad()
        (sign * exact.pool(batch)[:, exact.config.hidden :]).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(torch.cat([p.grad.flatten() for p in exact.mix.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], -gradients[1], rtol=1e-9, atol=1e-12)
