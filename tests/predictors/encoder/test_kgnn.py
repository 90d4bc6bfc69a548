from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import GraphConv, global_mean_pool

from gennape.errors import ConfigError, InvalidGraphError
from gennape.predictors.encoder.features import N_FEATURES, GraphBatch, Neighbours, featurize
from gennape.predictors.encoder.kgnn import KGnn, fine_tune, fit_kgnn, predict_accuracy
from gennape.predictors.encoder.settings import KGnnConfig, KGnnTraining
from gennape.predictors.metrics import srcc
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import params
from gennape.search_spaces.graphs.graph import N_COLUMNS, ComputationGraph, PackedGraphs, concatenate, pack

SMALL = KGnnConfig(hidden=8, layers=3)


def _nothing(_: int, __: float) -> None:
    pass


def _network(config: KGnnConfig) -> KGnn:
    torch.manual_seed(5)
    network = KGnn(config).double().eval()
    network.cost_statistics.copy_(torch.tensor([0.6, 0.2]))
    for parameter in network.parameters():  # also those that start at 0
        torch.nn.init.normal_(parameter, std=0.4)
    return network


def _by_torch_geometric(network: KGnn, batch: GraphBatch) -> torch.Tensor:
    """The same network of torch-geometric's layers, every step computed."""
    side = batch.producers
    target = torch.arange(len(batch.features)).repeat_interleave(side.offsets.diff())
    x = network.enter(batch.features.double())
    width = network.config.hidden
    for parts, bias in zip(network.parts, network.bias, strict=True):
        layer = GraphConv(width, width, aggr="add").double()
        weights = {
            "lin_root.weight": parts.weight[:width],
            "lin_rel.weight": parts.weight[width:],
            "lin_rel.bias": bias,
        }
        x = torch.tanh(torch.func.functional_call(layer, weights, (x, torch.stack([side.other, target]))))
    owner = torch.arange(len(batch.offsets) - 1).repeat_interleave(batch.offsets.diff())
    mean, deviation = network.cost_statistics
    cost = (batch.cost.double() - mean) / deviation
    return network.head(torch.cat([global_mean_pool(x, owner), cost[:, None]], dim=1)).squeeze(1)


def _gradients(network: KGnn, answers: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, len(answers), dtype=answers.dtype)
    return list(torch.autograd.grad((answers * weights).sum(), list(network.parameters())))


@st.composite
def _batches(draw: st.DrawFn) -> GraphBatch:
    """Random acyclic graphs whose steps are of few kinds, so that many look alike."""
    rng = np.random.default_rng(seed := draw(st.integers(0, 2**32)))
    torch.manual_seed(seed)
    sizes = rng.integers(1, 9, draw(st.integers(1, 6)))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    edges = [
        (target, source)
        for start, end in zip(offsets[:-1], offsets[1:], strict=True)
        for target in range(start, end)
        for source in range(start, target)
        for _ in range(rng.choice(3, p=[0.6, 0.3, 0.1]))  # the same producer may feed twice
    ]
    at, other = np.array(edges, np.int64).reshape(-1, 2).T
    rows = torch.from_numpy(np.concatenate([[0], np.cumsum(np.bincount(at, minlength=offsets[-1]))]))
    producers = Neighbours(*(rows, torch.from_numpy(other.copy()), torch.ones(len(other))) * 2)
    kinds = torch.from_numpy(rng.normal(size=(2, N_FEATURES)).astype(np.float32))
    kind = torch.from_numpy(rng.integers(0, 2, offsets[-1]))
    return GraphBatch(kinds, kind, producers, producers, torch.from_numpy(offsets), torch.rand(len(sizes)))


@given(_batches())
@settings(deadline=None, max_examples=60)
def test_layers_are_graph_convolutions(batch: GraphBatch) -> None:
    network = _network(SMALL)
    found, expected = network(batch), _by_torch_geometric(network, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(_gradients(network, found), _gradients(network, expected), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["nb101", "ofa_mbv3", "hiaml"])
def test_real_networks_get_what_graph_convolutions_make_of_them(name: str) -> None:
    space = family(name)
    batch = featurize(space.graphs(space.sample(np.random.default_rng(0), 12)))
    network = _network(KGnnConfig())
    found, expected = network(batch), _by_torch_geometric(network, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(_gradients(network, found), _gradients(network, expected), rtol=0, atol=1e-10)


def test_published_size() -> None:
    """6 layers of 32: 2 x 32 x 32 + 32 numbers each, 12,480 together."""
    network = KGnn(KGnnConfig())
    assert sum(p.numel() for p in network.parts.parameters()) + network.bias.numel() == 12_480
    assert sum(p.numel() for p in network.parameters()) < 18_047


def test_no_answer_depends_on_node_order_or_company(cells: PackedGraphs) -> None:
    network = _network(KGnnConfig())
    network.statistics.copy_(torch.tensor([90.0, 3.0]))
    space = family("hiaml")
    rng = np.random.default_rng(1)
    mixed = concatenate([cells, space.graphs(space.sample(rng, 20))])
    alone = np.concatenate([predict_accuracy(network, mixed.take(np.array([i]))) for i in range(len(mixed))])
    assert np.array_equal(predict_accuracy(network, mixed), alone)
    shuffled = pack([mixed[i].relabel(rng.permutation(mixed[i].n_nodes)) for i in range(len(mixed))])
    np.testing.assert_allclose(predict_accuracy(network, shuffled), alone, rtol=0, atol=2e-6)
    assert alone.std() > 0.01
    assert predict_accuracy(network, pack([])).shape == (0,)


def test_training_learns_a_rule_repeats_bit_for_bit_and_counts_graphs(cells: PackedGraphs) -> None:
    accuracy = 70 + 4 * np.log10(params(cells) / 1e5)
    seen = []

    def run() -> KGnn:
        settings = KGnnTraining(epochs=60, batch=20, regroup=7)
        rng = np.random.default_rng(0)
        return fit_kgnn(cells, accuracy, KGnnConfig(16, 3), settings, rng, lambda n, _: seen.append(n))

    first, second = run(), run()
    assert sum(seen) == 2 * 60 * len(cells)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    predicted = predict_accuracy(first, cells)
    assert srcc(accuracy, predicted) > 0.9
    assert np.abs(predicted - accuracy).mean() < accuracy.std() / 3


def test_fine_tuning_adapts_a_copy(cells: PackedGraphs) -> None:
    network = _network(SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    accuracy = 80 - 4 * np.log10(params(cells) / 1e5)
    settings = KGnnTraining(epochs=60, batch=16)
    tuned = fine_tune(network, cells, accuracy, settings, np.random.default_rng(0), _nothing)
    assert torch.equal(tuned.cost_statistics, before["cost_statistics"].float())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert tuned.statistics.tolist() == pytest.approx([accuracy.mean(), accuracy.std()])
    assert srcc(accuracy, predict_accuracy(tuned, cells)) > 0.9


def test_a_graph_without_nodes_is_refused(cells: PackedGraphs) -> None:
    empty = ComputationGraph(np.zeros((0, N_COLUMNS), np.int32), np.zeros(0), np.zeros((0, 2), np.int32))
    with pytest.raises(InvalidGraphError, match="no nodes"):
        predict_accuracy(_network(SMALL), pack([cells[0], empty]))


def test_labels_that_cannot_be_learnt_are_refused(cells: PackedGraphs) -> None:
    accuracy = np.full(len(cells), 90.0)
    settings, rng = KGnnTraining(epochs=1), np.random.default_rng(0)
    fit_kgnn(cells, accuracy, SMALL, settings, rng, _nothing)  # a constant is learnt
    with pytest.raises(ConfigError, match="64 without"):
        fit_kgnn(cells, accuracy * np.nan, SMALL, settings, rng, _nothing)
    with pytest.raises(ConfigError, match="0 graphs"):
        fit_kgnn(pack([]), np.zeros(0), SMALL, replace(settings, batch=2), rng, _nothing)
