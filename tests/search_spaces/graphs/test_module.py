from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gennape.errors import InvalidGraphError
from gennape.search_spaces.families.conformance import fill_weights
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack, validate
from gennape.search_spaces.graphs.module import compile_graph, execution_plan, initialise
from gennape.search_spaces.graphs.ops import Op

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = st.integers(0, 2**32 - 1)


def _run(graph: ComputationGraph, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = compile_graph(graph).eval().to(x)(x)
    return result


def _unary(op: Op) -> ComputationGraph:
    b = GraphBuilder()
    b.output(b.relu(b.input(2, 3, 3)))
    graph = b.build()
    graph.nodes[1, Column.OP] = op
    return graph


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Op.RELU, lambda x: x.clamp(min=0)),
        (Op.RELU6, lambda x: x.clamp(0, 6)),
        (Op.SIGMOID, lambda x: 1 / (1 + torch.exp(-x))),
        (Op.TANH, lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))),
        (Op.SWISH, lambda x: x / (1 + torch.exp(-x))),
        (Op.GELU, lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
        (Op.HARDSIGMOID, lambda x: (x + 3).clamp(0, 6) / 6),
        (Op.IDENTITY, lambda x: x),
        (Op.ZERO, torch.zeros_like),
    ],
)
def test_activations(op: Op, expected: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-8, 8, 2 * 2 * 9, dtype=torch.float64).view(2, 2, 3, 3)
    torch.testing.assert_close(_run(_unary(op), x), expected(x))


def test_merges_keep_the_order_of_their_inputs() -> None:
    b = GraphBuilder()
    x = b.input(4, 5, 5)
    head, tail = b.slice(x, 1), b.slice(x, 3, offset_c=1)
    b.output(b.mul(b.add(b.concat(tail, head), x, x), b.mean(x)))
    image = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    expected = (torch.cat([image[:, 1:], image[:, :1]], 1) + 2 * image) * image.mean((2, 3), keepdim=True)
    torch.testing.assert_close(_run(b.build(), image), expected)


def test_slice_of_rows_and_columns() -> None:
    b = GraphBuilder()
    b.output(b.slice(b.input(4, 5, 6), 2, 1, 2, 1))
    image = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(_run(b.build(), image), image[:, 1:3, 1:, 2:])


@pytest.mark.parametrize("count_pad", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pools(ceil_mode: bool, count_pad: bool) -> None:
    image = torch.randn(1, 2, 8, 7)
    b = GraphBuilder()
    x = b.input(2, 8, 7)
    pooled = (b.maxpool(x, 3, 2, 1, ceil_mode), b.avgpool(x, 3, 2, 1, ceil_mode, count_pad))
    b.output(b.concat(*pooled))
    expected = [F.max_pool2d(image, 3, 2, 1, 1, ceil_mode), F.avg_pool2d(image, 3, 2, 1, ceil_mode, count_pad)]
    torch.testing.assert_close(_run(b.build(), image), torch.cat(expected, 1))


def test_linear_values_meet_maps() -> None:
    """A squeeze-excitation of fully connected layers: flat values become 1x1 maps where a map multiplies them."""
    b = GraphBuilder()
    x = b.input(4, 5, 5)
    gate = b.hardsigmoid(b.linear(b.relu(b.linear(b.mean(x), 2)), 4))
    b.output(b.linear(b.mean(b.mul(x, gate)), 3, bias=False))
    module = compile_graph(b.build()).double()
    image = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    squeezed = F.relu(module.get_submodule("linear1")(image.mean((2, 3))))
    gated = image * F.hardsigmoid(module.get_submodule("linear2")(squeezed))[:, :, None, None]
    torch.testing.assert_close(module(image), module.get_submodule("linear3")(gated.mean((2, 3))))
    assert module(image).shape == (2, 3)


def test_layers_are_named_for_people() -> None:
    space = family("ofa_mbv3")
    layers = [[3, 7], [3, 3]]
    module = compile_graph(space.graph(space.decode({"resolution": 128, "units": [layers] * 5})))
    names = dict(module.named_children())
    assert list(names)[:4] == ["conv1_3x3", "batchnorm1", "depthwise1_3x3", "batchnorm2"]
    assert isinstance(names["depthwise2_7x7"], nn.Conv2d)
    assert names["depthwise2_7x7"].groups == 24 * 3
    assert isinstance(names["linear1"], nn.Linear)


def test_plan_lets_values_go_at_their_last_use() -> None:
    space = family("nb101")
    graph = space.graph(space.sample(np.random.default_rng(3), 1)[0])
    plan = execution_plan(graph)
    assert [step.node for step in plan] == list(range(graph.n_nodes)), "the builder's order is already executable"
    alive: set[int] = set()
    for step in plan:
        assert alive >= set(step.inputs)
        alive -= set(step.release)
        alive.add(step.node)
    assert alive == {plan[-1].node}


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_random_networks_give_the_shapes_and_costs_of_their_graph(
    seed: int, random_graph: Callable[[int], ComputationGraph]
) -> None:
    graph = random_graph(seed)
    packed = pack([graph])
    validate(packed)
    module = compile_graph(graph).eval()
    result = module(torch.randn(2, *module.image_shape))
    out = graph.nodes[graph.nodes[:, Column.OP] == Op.OUTPUT][0, Column.C_OUT : Column.W_OUT + 1]
    assert result.flatten(1).shape == (2, np.prod(out))
    assert sum(p.numel() for p in module.parameters()) == cost.params(packed)[0]


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_order_of_nodes_does_not_matter(seed: int, random_graph: Callable[[int], ComputationGraph]) -> None:
    graph = random_graph(seed)
    shuffled = graph.relabel(np.random.default_rng(seed).permutation(graph.n_nodes))
    results = []
    for network in (graph, shuffled):
        module = compile_graph(network).double().eval()
        for parameter in module.parameters():  # weights by shape, however the layers are numbered
            parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).sin().view(parameter.shape)
        image = torch.arange(np.prod(module.image_shape), dtype=torch.float64).view(1, *module.image_shape).sin()
        with torch.no_grad():
            results.append(module(image))
    torch.testing.assert_close(results[0], results[1], atol=1e-9, rtol=1e-9)


def test_initialise_depends_on_the_seed_alone() -> None:
    space = family("hiaml")
    graph = space.graph(space.decode(["hiaml_g30"] * 4))
    first, second, other = (compile_graph(graph).eval() for _ in range(3))
    for module, seed in ((first, 1), (second, 1), (other, 2)):
        initialise(module, np.random.default_rng(seed))
    assert not first.training
    states = [module.state_dict() for module in (first, second, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["conv1_3x3.weight"], states[2]["conv1_3x3.weight"])
    logits = first(torch.randn(4, 3, 32, 32))
    assert 1e-3 < logits.std() < 1, "activations neither vanish nor explode through 43 layers"


def test_modules_can_be_copied() -> None:
    space = family("hiaml")
    module = compile_graph(space.graph(space.decode(["hiaml_l20"] * 4))).eval()
    twin = copy.deepcopy(module)
    fill_weights(twin)
    image = torch.randn(1, 3, 32, 32)
    assert not torch.equal(module(image), twin(image)), "the copy has weights of its own"


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        (Column.OP, Op.UNKNOWN, "node 1 is unknown"),
        (Column.STRIDE_H, 2, "claims to make"),
        (Column.STRIDE_H, 0, r"positive sizes.*stride \(0, 1\)"),
        (Column.KERNEL_W, 9, "claims to make"),
        (Column.GROUPS, 2, "2 groups for 3 -> 4"),
    ],
)
def test_graphs_that_cannot_run_are_refused(column: Column, value: int, match: str) -> None:
    b = GraphBuilder()
    b.output(b.conv(b.input(3, 8, 8), 4, 3))
    graph = b.build()
    graph.nodes[1, column] = value
    with pytest.raises(InvalidGraphError, match=match):
        compile_graph(graph)


def test_maps_of_different_size_do_not_concatenate() -> None:
    b = GraphBuilder()
    x = b.input(3, 8, 8)
    b.output(b.concat(x, b.relu(x)))
    graph = b.build()
    graph.nodes[1, Column.OP] = Op.MEAN
    graph.nodes[1, Column.H_OUT : Column.W_OUT + 1] = 1
    with pytest.raises(InvalidGraphError, match="node 2"):
        compile_graph(graph)
