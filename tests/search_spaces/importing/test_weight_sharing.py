"""Layers that share their weights: counted once, told apart by their uses, the same in every form of a network."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch_modules import Forward, assert_same_function, importing

from gennape.errors import InvalidGraphError
from gennape.search_spaces.exporting.onnx import to_onnx, to_python
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, concatenate, pack, validate
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.graphs.parquet import SCHEMA_KEY, read_graphs, write_graphs
from gennape.search_spaces.importing.onnx import read_onnx
from gennape.search_spaces.importing.torch import from_torch, trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    # What PyTorch's exporters say of themselves and of their own calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def _params(graph: ComputationGraph) -> int:
    return int(cost.params(pack([graph]))[0])


def _hash(graph: ComputationGraph) -> str:
    return canonical_hashes(pack([graph]))[0]


def _chain(*groups: int) -> ComputationGraph:
    """Convolutions one after another, of which those with one number share their weights."""
    b = GraphBuilder()
    x = b.input(4, 8, 8)
    layers = []
    for _ in groups:
        x = b.conv(b.relu(x), 4, 3)
        layers.append(x)
    b.output(x)
    for number in sorted(set(groups) - {0}):
        b.tie(*(layer for layer, group in zip(layers, groups, strict=True) if group == number))
    graph = b.build()
    validate(pack([graph]))
    return graph


class _Pyramid(nn.Module):
    """One head for the maps of two sizes, as detectors have it, and a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.out = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = self.head(nn.functional.max_pool2d(x, 2))
        return self.out(self.head(x)).mean((2, 3)) + self.out(small).mean((2, 3))


def test_weights_of_a_group_count_once_and_their_work_for_each_use() -> None:
    one = 4 * 4 * 9
    for groups, sets in (((0, 0, 0), 3), ((1, 1, 0), 2), ((1, 1, 1), 1), ((1, 2, 1), 2)):
        graph = _chain(*groups)
        assert _params(graph) == sets * one
        assert cost.macs(pack([graph]))[0] == 3 * one * 64
        assert sum(p.numel() for p in compile_graph(graph).parameters()) == sets * one
    both = concatenate([pack([_chain(1, 1)]), pack([_chain(1, 1)])])  # groups are those of a graph
    assert cost.params(both).tolist() == [one, one]


def test_hashes_tell_who_shares_with_whom_and_not_by_which_number() -> None:
    sharings = [(0, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 1, 1, 1), (1, 1, 2, 2), (1, 2, 1, 2), (1, 2, 2, 1)]
    assert len({_hash(_chain(*groups)) for groups in sharings}) == len(sharings)
    assert _hash(_chain(2, 2, 1, 1)) == _hash(_chain(1, 1, 2, 2))
    graph = _chain(1, 2, 1, 2)
    order = np.random.default_rng(0).permutation(graph.n_nodes)
    assert _hash(graph.relabel(order)) == _hash(graph)
    renumbered = graph.nodes.copy()
    renumbered[:, Column.TIED] = np.array([0, 70, 3])[renumbered[:, Column.TIED]]
    assert _hash(ComputationGraph(renumbered, graph.scalars, graph.edges)) == _hash(graph)
    alone = _chain(0, 0).nodes.copy()
    alone[2, Column.TIED] = 5
    assert _hash(ComputationGraph(alone, np.zeros(len(alone)), _chain(0, 0).edges)) == _hash(_chain(0, 0))


def test_hashes_that_were_stored_before_weights_could_be_shared_are_what_they_were() -> None:
    """As commit 4e46258 gave them; users' files hold such hashes."""
    stored = {
        "nb101": "0a311e14749f8397c9cbbc32e968ff96",
        "ofa_mbv3": "ed2a62aa345b1545314f611a6a69ac35",
        "two_path": "f24f18e6ee102f898c5ce0275adf52f0",
    }
    for name, expected in stored.items():
        space = family(name)
        assert canonical_hashes(space.graphs(space.sample(np.random.default_rng(7), 3)))[0] == expected


def test_only_layers_with_weights_of_one_shape_share_them() -> None:
    graph = _chain(1, 1)
    nodes = graph.nodes.copy()
    nodes[nodes[:, Column.TIED] > 0, Column.BIAS] = (0, 1)
    with pytest.raises(InvalidGraphError, match="graph 0, node 4: weights of another shape"):
        validate(pack([ComputationGraph(nodes, graph.scalars, graph.edges)]))


def test_shared_modules_of_pytorch() -> None:
    module = _Pyramid()
    traced = trace(module, (8, 8, 8))
    assert _params(traced.graph) == sum(p.numel() for p in module.parameters()) == 8 * 8 * 9 + 16 + 72
    assert traced.shared == dict.fromkeys(
        ("head.0.weight", "head.1.weight", "head.1.bias", "out.weight", "out.bias"), 2
    )
    assert_same_function(module, (8, 8, 8))


def test_one_parameter_under_two_modules_and_strides() -> None:
    first, second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, stride=2)
    second.weight, second.bias = first.weight, first.bias
    module = nn.Sequential(first, nn.ReLU(), second)
    graph = from_torch(module, (8, 8, 8))
    assert _params(graph) == 8 * 8 * 9 + 8
    assert sum(p.numel() for p in compile_graph(graph).parameters()) == 8 * 8 * 9 + 8
    assert_same_function(module, (8, 8, 8))
    separate = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, stride=2))
    assert _hash(graph) != _hash(from_torch(separate, (8, 8, 8)))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.cat([m.p.expand(len(x), 8, 1), x.flatten(2)], 2)[:, :, :1] + m.p,
        lambda m, x: torch.cat([m.p.expand(len(x), 8, 1), x.flatten(2) + m.p], 2).mean(2),
        lambda m, x: (
            torch.cat([x.flatten(2) * m.p.view(8, 1) + m.p, m.p.expand(len(x), 8, 1)], 2).mean(2) * m.p[..., 0]
        ),
        lambda m, x: m.fc((x.mean((2, 3)) + m.p[..., 0] + m.fc.bias) * m.fc.bias),
    ],
)
def test_one_parameter_in_operations_of_several_kinds(function: Callable[[Any, Tensor], Tensor]) -> None:
    """As a class token that is joined to the others and, later, added to what a layer makes of them."""
    layer = {"fc": nn.Linear(8, 8)} if "fc" in function.__code__.co_names else {}
    module = Forward(function, p=nn.Parameter(torch.randn(1, 8, 1)), **layer)
    traced = trace(module, (8, 3, 3))
    assert _params(traced.graph) == sum(p.numel() for p in module.parameters())
    assert_same_function(module, (8, 3, 3))


@pytest.mark.parametrize("dynamo", [False, True])
def test_shared_tensors_of_onnx_are_those_of_pytorch(dynamo: bool, tmp_path: Path) -> None:
    module = Forward(
        lambda m, x: m.b(m.b(m.a(m.a(x).relu()).mean((2, 3)))), a=nn.Conv2d(8, 8, 3), b=nn.Linear(8, 8)
    ).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(module, (torch.randn(1, 8, 9, 9),), path, dynamo=dynamo, verbose=False)
    graph = read_onnx(path)
    assert _params(graph) == 8 * 8 * 9 + 8 + 72
    assert _hash(graph) == _hash(from_torch(module, (8, 9, 9)))


def test_normalisations_that_were_never_trained_are_not_shared_for_being_alike(tmp_path: Path) -> None:
    """The older exporter writes equal tensors once: ones and zeros of all fresh normalisations."""
    blocks = [nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)) for _ in range(3)]
    module = Forward(lambda m, x: x + m.c(x + m.b(x + m.a(x))), **dict(zip("abc", blocks, strict=True))).eval()
    path = tmp_path / "model.onnx"
    torch.onnx.export(module, (torch.randn(1, 8, 5, 5),), path, dynamo=False, verbose=False)
    assert _hash(read_onnx(path)) == _hash(from_torch(module, (8, 5, 5)))


def test_exports_write_shared_weights_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = from_torch(_Pyramid(), (8, 8, 8))
    module = compile_graph(graph).eval()
    to_onnx(graph, module, tmp_path / "x.onnx")
    assert _hash(read_onnx(tmp_path / "x.onnx")) == _hash(graph)
    to_python(graph, tmp_path / "network.py")
    spec = importlib.util.spec_from_file_location("network", tmp_path / "network.py")
    assert spec is not None
    assert spec.loader is not None
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    network = written.Network().eval()
    assert sum(p.numel() for p in network.parameters()) == _params(graph)
    network.load_state_dict(module.state_dict())
    x = torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), module(x))


def test_files_of_the_layout_before_are_read(tmp_path: Path) -> None:
    path = tmp_path / "graphs.parquet"
    graphs = pack([_chain(1, 1), _chain(0, 2, 2)])
    write_graphs(path, graphs, {})
    assert np.array_equal(read_graphs(path)[0].nodes, graphs.nodes)
    table = pq.read_table(path)
    older = table.drop_columns(["node.tied"]).replace_schema_metadata({SCHEMA_KEY: b"2"})
    pq.write_table(older, path)
    read, _ = read_graphs(path)
    expected = graphs.nodes.copy()
    expected[:, Column.TIED] = 0
    assert np.array_equal(read.nodes, expected)
    validate(read)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed (extra: test)")
def test_a_transformer_that_shares_its_position_encodings() -> None:
    model = importing().model("coat_tiny")
    graph = from_torch(model.module, model.image)
    assert _params(graph) == sum(p.numel() for p in model.module.parameters())
