"""Rewritings of networks that keep their function, and the form that all of them have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import config
from space_checks import graph_hash
from torch import nn

from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, PackedGraphs, concatenate, pack, validate
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.graphs.normal_form import normal_form
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx import read_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    # What PyTorch's exporters say of themselves and of their own calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def _graph(build: Callable[[GraphBuilder, Value], Value], shape: tuple[int, int, int] = (3, 8, 8)) -> ComputationGraph:
    b = GraphBuilder()
    b.output(build(b, b.input(*shape)))
    return b.build()


def _form(graph: ComputationGraph) -> str:
    formed = normal_form(pack([graph]))
    validate(formed)
    return graph_hash(formed[0])


@pytest.mark.parametrize("space", [space.name for space in FAMILIES if space.name != "inception"])
def test_graphs_of_families_are_what_they_were(space: str) -> None:
    found = family(space)
    graphs = found.graphs(found.sample(np.random.default_rng(11), 100))
    assert normal_form(graphs) is graphs


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: b.linear(b.mean(b.relu(b.conv(x, 8, 3, bias=True))), 5),
        lambda b, x: b.linear(b.mean(b.relu(b.batchnorm(b.conv(x, 8, 3, bias=True)))), 5),
        lambda b, x: b.linear(b.mean(b.relu(b.shift(b.conv(x, 8, 3), (0,)))), 5),
        lambda b, x: b.linear(b.mean(b.relu(b.shift(b.scale(b.conv(x, 8, 3), (0,)), (0,)))), 5),
        lambda b, x: b.linear(b.mean(b.relu(b.batchnorm(b.batchnorm(b.conv(x, 8, 3))))), 5),
        lambda b, x: b.softmax(b.linear(b.mean(b.relu(b.conv(x, 8, 3, bias=True))), 5)),
        lambda b, x: b.elementwise(Op.SIGMOID, b.linear(b.mean(b.relu(b.conv(x, 8, 3, bias=True))), 5)),
        lambda b, x: b.linear(b.mean(b.relu(b.conv(b.scale(x, (), 1 / 255), 8, 3, bias=True))), 5),
        lambda b, x: b.linear(b.mean(b.relu(b.conv(b.scale(b.shift(x, (0,)), (0,)), 8, 3, bias=True))), 5),
        lambda b, x: b.linear(b.mean(b.relu(b.conv(b.other("div", x.shape, x, params=3), 8, 3, bias=True))), 5),
        lambda b, x: b.batchnorm(b.linear(b.mean(b.relu(b.conv(x, 8, 3, bias=True))), 5, bias=False)),
        lambda b, x: b.shift(b.linear(b.mean(b.relu(b.conv(x, 8, 3, bias=True))), 5, bias=False), (0,)),
        lambda b, x: b.linear(b.identity(b.mean(b.relu(b.identity(b.conv(x, 8, 3, bias=True))))), 5),
    ],
)
def test_what_exporters_do_has_one_form(build: Callable[[GraphBuilder, Value], Value]) -> None:
    plain = _graph(lambda b, x: b.linear(b.mean(b.relu(b.batchnorm(b.conv(x, 8, 3)))), 5))
    assert _form(_graph(build)) == _form(plain)


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: b.linear(b.mean(b.relu(b.conv(x, 8, 3, bias=False))), 5),
        lambda b, x: b.linear(b.mean(b.batchnorm(b.relu(b.conv(x, 8, 3)))), 5),
        lambda b, x: b.linear(b.mean(b.relu(b.layernorm(b.conv(x, 8, 3)))), 5),
        lambda b, x: b.relu(b.linear(b.mean(b.relu(b.batchnorm(b.conv(x, 8, 3)))), 5)),
    ],
)
def test_other_functions_have_other_forms(build: Callable[[GraphBuilder, Value], Value]) -> None:
    """A graph with a normalised layer beside it tells that a bare one has none."""

    def beside(b: GraphBuilder, x: Value, inner: Callable[[GraphBuilder, Value], Value]) -> Value:
        return inner(b, b.relu(b.batchnorm(b.conv(x, 3, 3))))

    plain = lambda b, x: b.linear(b.mean(b.relu(b.batchnorm(b.conv(x, 8, 3)))), 5)  # noqa: E731
    assert _form(_graph(lambda b, x: beside(b, x, build))) != _form(_graph(lambda b, x: beside(b, x, plain)))


_MIN_FLOAT = float(np.finfo(np.float32).min)


@pytest.mark.parametrize(
    ("build", "plain"),
    [
        (lambda b, x: b.relu6(b.relu(x)), lambda b, x: b.relu6(x)),
        (lambda b, x: b.relu(b.relu6(x)), lambda b, x: b.relu6(x)),
        (lambda b, x: b.relu(b.relu(b.relu(x))), lambda b, x: b.relu(x)),
        (lambda b, x: b.clamp(b.relu(x), None, 6.0), lambda b, x: b.relu6(x)),
        (lambda b, x: b.relu(b.clamp(x, None, 6.0)), lambda b, x: b.relu6(x)),
        (lambda b, x: b.relu(b.clamp(b.relu(x), None, 6.0)), lambda b, x: b.relu6(x)),
        (
            lambda b, x: b.avgpool(b.pad(x, (0, 1, 1), (0, 1, 1)), 3, 2),
            lambda b, x: b.avgpool(x, 3, 2, 1, count_pad=True),
        ),
        (
            lambda b, x: b.avgpool(b.pad(x, (0, 0, 0), (0, 1, 1)), 3, 2, 1, count_pad=True),
            lambda b, x: b.avgpool(b.pad(x, (0, 0, 0), (0, 1, 1)), 3, 2, 1, count_pad=True),
        ),
        (
            lambda b, x: b.maxpool(b.pad(x, (0, 1, 1), (0, 1, 1), value=_MIN_FLOAT), 3, 2),
            lambda b, x: b.maxpool(x, 3, 2, 1),
        ),
        (
            lambda b, x: b.maxpool(b.pad(b.relu(x), (0, 1, 1), (0, 1, 1)), 3, 2),
            lambda b, x: b.maxpool(b.relu(x), 3, 2, 1),
        ),
    ],
)
def test_one_function_of_a_map_has_one_form(
    build: Callable[[GraphBuilder, Value], Value], plain: Callable[[GraphBuilder, Value], Value]
) -> None:
    def within(inner: Callable[[GraphBuilder, Value], Value]) -> ComputationGraph:
        return _graph(lambda b, x: b.linear(b.mean(inner(b, b.batchnorm(b.conv(x, 8, 3)))), 5))

    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        one, other = (_seeded(within(inner))(image) for inner in (build, plain))
    torch.testing.assert_close(one, other)
    assert _form(within(build)) == _form(within(plain))


@pytest.mark.parametrize(
    ("build", "plain"),
    [
        (lambda b, x: b.clamp(b.relu(x), None, 5.0), lambda b, x: b.relu6(x)),
        (lambda b, x: b.avgpool(b.pad(x, (0, 1, 1), (0, 1, 1)), 3, 2), lambda b, x: b.avgpool(x, 3, 2, 1)),
        (lambda b, x: b.maxpool(b.pad(x, (0, 1, 1), (0, 1, 1)), 3, 2), lambda b, x: b.maxpool(x, 3, 2, 1)),
    ],
)
def test_other_bounds_and_paddings_have_other_forms(
    build: Callable[[GraphBuilder, Value], Value], plain: Callable[[GraphBuilder, Value], Value]
) -> None:
    one, other = (
        _form(_graph(lambda b, x, inner=inner: inner(b, b.batchnorm(b.conv(x, 8, 3))))) for inner in (build, plain)
    )
    assert one != other


def _seeded(graph: ComputationGraph) -> nn.Module:
    """The network with the same numbers for the same layers, whatever is between them."""
    torch.manual_seed(0)
    return compile_graph(graph).eval()


def test_gates_of_squeeze_and_excitation_keep_their_biases() -> None:
    def build(b: GraphBuilder, x: Value) -> Value:
        x = b.batchnorm(b.conv(x, 8, 3))
        return b.mul(x, b.hardsigmoid(b.conv(b.relu(b.conv(b.mean(x), 2, bias=True)), 8, bias=True)))

    graphs = pack([_graph(build)])
    assert normal_form(graphs) is graphs


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds=st.lists(st.integers(0, 100_000), min_size=1, max_size=5))
def test_the_form_is_its_own_form_and_does_not_depend_on_companions(
    seeds: list[int], random_graph: Callable[[int], ComputationGraph]
) -> None:
    graphs = [random_graph(seed) for seed in seeds]
    together = normal_form(pack(graphs))
    validate(together)
    assert normal_form(together) is together
    alone = concatenate([normal_form(pack([graph])) for graph in graphs])
    for name in PackedGraphs.__slots__:
        assert np.array_equal(getattr(together, name), getattr(alone, name)), name


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """The older exporter makes tensors of shapes, which cannot be checked as numbers."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("name", ["nb101", "nb301", "two_path"])
def test_files_of_an_exporter_have_the_form_of_the_network(name: str, trained: bool, tmp_path: Path) -> None:
    """The older exporter's defaults: normalisations folded, equal rectifiers computed once, slices one by one.

    Without training the folded biases are zero, which a file does not tell from none.
    """
    space = family(name)
    for graph in _list(space.graphs(space.sample(np.random.default_rng(2), 2))):
        module = compile_graph(graph).eval()
        for layer in module.modules() if trained else ():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                layer.running_mean.normal_()
        path = tmp_path / "model.onnx"
        c, h, w = module.image_shape
        torch.onnx.export(module, (torch.randn(1, c, h, w),), path, dynamo=False, verbose=False)
        read = read_onnx(path)
        if _pools(read) == _pools(graph):
            assert _form(read) == _form(graph)
        else:  # equal pools of one value are computed once too, which the form leaves so
            assert name == "nb301"
            assert _kinds(read) == _kinds(graph)


def _pools(graph: ComputationGraph) -> int:
    return int(np.isin(graph.nodes[:, Column.OP], (Op.MAXPOOL, Op.AVGPOOL)).sum())


def _kinds(graph: ComputationGraph) -> set[tuple[float, ...]]:
    form = normal_form(pack([graph]))
    return {tuple(row) for row in np.column_stack([form.nodes, form.scalars]).tolist()}


def _list(graphs: PackedGraphs) -> list[ComputationGraph]:
    return [graphs[i] for i in range(len(graphs))]
