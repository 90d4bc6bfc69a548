"""Tensors that are put before or behind a map (class tokens), and fixed tensors that are added or multiplied."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx_models import assert_same, model_of, node
from space_checks import graph_hash
from torch import Tensor, nn
from torch_modules import Forward, assert_same_function, ops_of, with_weights_of

from gennape.errors import InvalidGraphError
from gennape.predictors.encoder.features import N_FEATURES, featurize
from gennape.search_spaces.drawing.diagram import by, node_tooltips
from gennape.search_spaces.exporting.onnx import to_onnx, to_python
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack, validate
from gennape.search_spaces.graphs.module import GraphModule, compile_graph
from gennape.search_spaces.graphs.parquet import read_graphs, write_graphs
from gennape.search_spaces.importing.onnx import import_onnx
from gennape.search_spaces.importing.torch import trace
from gennape.search_spaces.published.graphs import published_graph

SHAPE = (2, 3, 4)


def _extended(size: int, axis: int, before: bool, params: int | None = None) -> ComputationGraph:
    b = GraphBuilder()
    b.output(b.extend(b.input(*SHAPE), size, axis, before, params))
    return b.build()


def _filled(graph: ComputationGraph) -> GraphModule:
    """The module of a graph whose tensors hold noise."""
    module = compile_graph(graph).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.normal_()
    return module


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tensor_is_put_before_or_behind(axis: int, before: bool, tmp_path: Path) -> None:
    graph = _extended(5, axis, before)
    validate(pack([graph]))
    others = [n for i, n in enumerate(SHAPE) if i != axis]
    assert cost.params(pack([graph])).tolist() == [5 * others[0] * others[1]]
    assert cost.macs(pack([graph])).tolist() == [0]
    module = _filled(graph)
    (tensor,) = module.parameters()
    assert tensor.numel() == 5 * others[0] * others[1]
    image = torch.randn(2, *SHAPE)
    held = tensor.detach().expand(2, -1, -1, -1)
    expected = np.concatenate([held, image] if before else [image, held], axis + 1)
    np.testing.assert_array_equal(module(image).detach(), expected)
    path = tmp_path / "model.onnx"
    to_onnx(graph, module, path)
    (result,) = onnxruntime.InferenceSession(path).run(None, {"image": image.numpy()})
    np.testing.assert_array_equal(result, expected)
    assert graph_hash(import_onnx(path).graph) == graph_hash(graph)
    assert graph_hash(trace(module, SHAPE).graph) == graph_hash(graph)


def test_each_attribute_makes_another_network() -> None:
    graphs = [_extended(*arguments) for arguments in [(2, 0, True), (2, 0, False), (1, 0, True), (2, 0, True, 0)]]
    assert len({graph_hash(graph) for graph in graphs}) == 4


@pytest.mark.parametrize(("size", "axis"), [(0, 0), (-1, 1), (1, 3)])
def test_nothing_is_no_extension(size: int, axis: int) -> None:
    with pytest.raises(InvalidGraphError, match="extended by 1 or more along axis 0, 1 or 2"):
        _extended(size, axis, True)


@pytest.mark.parametrize(("column", "value"), [(Column.OFFSET_H, 2), (Column.AXIS, 3), (Column.C_OUT, 5)])
def test_attributes_that_contradict_each_other_are_refused(column: Column, value: int) -> None:
    graph = _extended(3, 1, True)
    graph.nodes[1, column] = value
    graph.nodes[2, Column.C_IN : Column.W_OUT + 1] = np.tile(graph.nodes[1, Column.C_OUT : Column.W_OUT + 1], 2)
    with pytest.raises(InvalidGraphError, match="node 1"):
        compile_graph(graph)


def test_fixed_tensors_are_no_parameters(tmp_path: Path) -> None:
    """Nothing learns them, but they are stored with the weights, in every form of the network."""
    b = GraphBuilder()
    x = b.extend(b.input(*SHAPE), 1, 0, False, 0)
    b.output(b.shift(b.scale(x, (0, 1), params=0), (2,), params=0))
    graph = b.build()
    module = _filled(graph)
    assert cost.params(pack([graph])).tolist() == [0]
    assert list(module.parameters()) == []
    shapes = [tuple(tensor.shape) for tensor in module.state_dict().values()]
    assert shapes == [(1, 3, 4), (3, 3, 1), (1, 1, 4)]
    image = torch.randn(2, *SHAPE)
    token, factor, summand = module.state_dict().values()
    expected = torch.cat([image, token.expand(2, -1, -1, -1)], 1) * factor + summand
    torch.testing.assert_close(module(image), expected)
    to_python(graph, tmp_path / "network.py")
    spec = importlib.util.spec_from_file_location("network", tmp_path / "network.py")
    assert spec is not None
    assert spec.loader is not None
    written: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    network = written.Network()
    network.load_state_dict(module.state_dict())
    assert list(network.parameters()) == []
    torch.testing.assert_close(network(image), expected)


def test_what_else_takes_graphs_takes_extensions(tmp_path: Path) -> None:
    graph = _extended(1, 1, True)
    write_graphs(tmp_path / "graphs.parquet", pack([graph]), {})
    assert read_graphs(tmp_path / "graphs.parquet")[0][0] == graph
    assert f"extend, {by((3, 4, 2))} → {by((4, 4, 2))}" in node_tooltips(graph)[1]
    features = featurize(pack([graph])).features
    assert features.shape == (3, N_FEATURES)
    assert bool(torch.isfinite(features).all())
    with pytest.raises(InvalidGraphError, match="extend"):
        published_graph(graph)


# Importers ---------------------------------------------------------------------------------------------------------


class _Tokens(nn.Module):
    """A class token, then registers, before the patches of an image; ``behind`` puts the registers last."""

    def __init__(self, behind: bool) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 5)
        self.token, self.register = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 1, 8))
        self.behind = behind

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        token, register = (t.expand(x.shape[0], -1, -1) for t in (self.token, self.register))
        x = torch.cat([token, x, register] if self.behind else [token, register, x], 1)
        y: Tensor = self.head(self.norm(x)[:, :2].mean(1))
        return y


@pytest.mark.parametrize("behind", [False, True])
def test_class_tokens_carry_their_weights(behind: bool) -> None:
    module = _Tokens(behind)
    assert_same_function(module, (3, 8, 8))
    traced = trace(module, (3, 8, 8))
    assert ops_of(traced.graph).count("EXTEND") == 2
    assert cost.params(pack([traced.graph]))[0] == sum(p.numel() for p in module.parameters())


def test_tables_of_positions_are_executed() -> None:
    """Fixed positions, a mask and a bias that is looked up in a learnt table."""
    index = torch.randint(0, 7, (36,))
    module = Forward(
        lambda m, x: ((x + m.places) * m.mask).flatten(2).transpose(1, 2) + m.table[m.index],
        places=torch.randn(1, 8, 6, 6),
        mask=torch.randn(6, 6),
        table=nn.Parameter(torch.randn(7, 8)),
        index=index,
    ).double()
    traced = trace(module, (8, 6, 6))
    assert traced.others == {}
    assert cost.params(pack([traced.graph])).tolist() == [7 * 8]
    compiled = compile_graph(traced.graph).double()
    places, mask, bias = (step.name for step in compiled.plan if step.name.startswith(("shift", "scale")))
    state = compiled.state_dict()
    state[f"{places}.weight"].copy_(module.places[0])
    state[f"{mask}.weight"].copy_(module.mask[None])
    state[f"{bias}.weight"].copy_(module.table[index].T[:, :, None].detach().reshape(state[f"{bias}.weight"].shape))
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(compiled(x).flatten(2).transpose(1, 2).reshape(1, 36, 8), module(x))


def test_a_bias_of_heads_spreads_over_windows() -> None:
    """Windows and heads share the channels; the bias of the heads is repeated for each window."""
    module = Forward(lambda m, x: x.reshape(4, 2, 6, 6) + m.bias, bias=nn.Parameter(torch.randn(2, 6, 6))).double()
    traced = trace(module, (8, 6, 6))
    assert traced.others == {}
    assert cost.params(pack([traced.graph])).tolist() == [2 * 6 * 6]
    compiled = compile_graph(traced.graph).double()
    (tensor,) = compiled.parameters()
    with torch.no_grad():
        tensor.copy_(module.bias.repeat(4, 1, 1))
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(compiled(x), module(x).reshape(1, 8, 6, 6))


def test_tokens_of_onnx_files() -> None:
    token = node("Concat", "t x s", axis=1)
    assert_same(
        model_of(token, t=(1, 2, 8, 10), s=(1, 1, 8, 10)), lambda b, x: b.extend(b.extend(x, 1, 0, False), 2, 0)
    )


def test_a_constant_of_one_number_is_padding() -> None:
    value = helper.make_tensor("v", 1, [1], [0.5])
    made = node("ConstantOfShape", "sizes", "c", value=value)
    assert_same(
        model_of(made, node("Concat", "x c", axis=3), sizes=np.array([1, 3, 8, 2])),
        lambda b, x: b.pad(x, (0, 0, 0), (0, 0, 2), value=0.5),
    )


def test_a_traced_token_has_the_weights_of_the_module() -> None:
    module = _Tokens(False).eval()
    traced = trace(module, (3, 8, 8))
    names = {names for names in traced.weights.values() if len(names) == 1}
    assert names == {("token",), ("register",)}
    compiled = with_weights_of(module, traced, torch.float32)
    torch.testing.assert_close(compiled(torch.zeros(1, 3, 8, 8)), module(torch.zeros(1, 3, 8, 8)))
