from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from example_counts import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gennape.errors import ConfigError, InvalidGraphError, WorkspaceError
from gennape.jobs.shared.exporting import export_graph
from gennape.search_spaces.exporting.onnx import to_onnx, to_pt2, to_python
from gennape.search_spaces.families.conformance import fill_weights
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.module import GraphModule, compile_graph, initialise

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.graphs.graph import ComputationGraph

SEEDS = st.integers(0, 2**32 - 1)
EACH = settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _module(graph: ComputationGraph) -> GraphModule:
    module = compile_graph(graph).eval()
    fill_weights(module)
    return module


def _image(module: GraphModule, seed: int, batch: int = 2) -> torch.Tensor:
    image = np.random.default_rng(seed).standard_normal((batch, *module.image_shape), np.float32)
    return torch.from_numpy(image)


def _output(module: torch.nn.Module, image: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.no_grad():
        result: np.ndarray[Any, np.dtype[np.float32]] = module(image).numpy()
    return result


def _run_onnx(path: Path, image: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: np.ndarray[Any, np.dtype[np.float32]] = session.run(None, {"image": image.numpy()})[0]
    return result


def _load_python(path: Path) -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("exported_network", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "gennape" not in vars(module)
    network: torch.nn.Module = module.Network().eval()
    return network


def _small(space: SearchSpace, seed: int) -> ComputationGraph:
    """The cheapest of some samples, at the least input size."""
    genomes = space.sample(np.random.default_rng(seed), 16)
    if space.genes[0].name == "resolution":
        genomes[:, 0] = 0
    graphs = space.graphs(genomes)
    return graphs[int(cost.macs(graphs).argmin())]


@EACH
@given(seed=SEEDS)
@example(seed=27798)  # all cancels but 1e-6
def test_onnx_of_any_network(seed: int, random_graph: Callable[[int], ComputationGraph], tmp_path: Path) -> None:
    graph = random_graph(seed)
    module = _module(graph)
    path = tmp_path / "model.onnx"
    to_onnx(graph, module, path)
    image = _image(module, seed)
    expected = _output(module, image)
    # What rounding leaves where numbers cancel, twice precise numbers tell: ONNX Runtime may add up in another order.
    rounding = np.abs(_output(module.double(), image.double()) - expected).max()
    limit = 1e-6 + 1e-5 * np.abs(expected).max() + 10 * rounding
    np.testing.assert_allclose(_run_onnx(path, image), expected, rtol=1e-4, atol=limit)


@EACH
@given(seed=SEEDS)
def test_python_of_any_network(seed: int, random_graph: Callable[[int], ComputationGraph], tmp_path: Path) -> None:
    graph = random_graph(seed)
    module = _module(graph)
    path = tmp_path / f"network_{seed}.py"
    to_python(graph, path)
    network = _load_python(path)
    network.load_state_dict(module.state_dict())
    image = _image(module, seed)
    np.testing.assert_array_equal(_output(network, image), _output(module, image))


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_onnx_of_families(space: SearchSpace, tmp_path: Path) -> None:
    graph = _small(space, 5)
    path = tmp_path / "model.onnx"
    export_graph(graph, path, seed=11)
    onnx.checker.check_model(path, full_check=True)
    module = compile_graph(graph).eval()
    initialise(module, np.random.default_rng(11))
    for batch in (1, 3):
        image = _image(module, batch, batch)
        np.testing.assert_allclose(_run_onnx(path, image), _output(module, image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_python_of_families(space: SearchSpace, tmp_path: Path) -> None:
    graph = _small(space, 6)
    path = tmp_path / "network.py"
    export_graph(graph, path, seed=0)
    module = compile_graph(graph).eval()
    network = _load_python(path)
    network.load_state_dict(module.state_dict())
    image = _image(module, 0, 1)
    np.testing.assert_array_equal(_output(network, image), _output(module, image))
    lines = path.read_text().splitlines()
    assert "import torch" in lines
    assert max(map(len, lines)) <= 120


def test_python_file_reads_like_one_written_by_hand(tmp_path: Path) -> None:
    space = family("hiaml")
    path = tmp_path / "network.py"
    to_python(space.graph(space.decode(["hiaml_l20"] * 4)), path)
    source = path.read_text()
    assert "        self.conv1_3x3 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)\n" in source
    assert "        x = F.relu(self.batchnorm1(self.conv1_3x3(x)))\n" in source
    assert source.endswith("        x = self.linear1(x.flatten(1))\n        return x\n")
    assert "y" not in source.split("def forward", 1)[1].split(), "a chain needs one variable"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pt2_takes_any_batch(tmp_path: Path) -> None:
    space = family("hiaml")
    graph = space.graph(space.decode(["hiaml_l20"] * 4))
    path = tmp_path / "model.pt2"
    export_graph(graph, path, seed=3)
    module = compile_graph(graph).eval()
    initialise(module, np.random.default_rng(3))
    program = torch.export.load(path).module()
    for batch in (1, 5):
        image = _image(module, batch, batch)
        np.testing.assert_allclose(_output(program, image), _output(module, image), rtol=0, atol=1e-6)


def test_double_precision_and_later_opsets(tmp_path: Path, random_graph: Callable[[int], ComputationGraph]) -> None:
    graph = random_graph(1)
    module = _module(graph).double()
    to_onnx(graph, module, tmp_path / "double.onnx", opset=21)
    model = onnx.load(tmp_path / "double.onnx")
    assert model.opset_import[0].version == 21
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE


def test_bad_requests_say_what_is_wrong(tmp_path: Path) -> None:
    space = family("hiaml")
    graph = space.graph(space.decode(["hiaml_l20"] * 4))
    with pytest.raises(ConfigError, match=r"'model\.h5': its suffix must be one of \.onnx, \.pt2, \.py"):
        export_graph(graph, tmp_path / "model.h5", seed=0)
    with pytest.raises(WorkspaceError, match="cannot write"):
        export_graph(graph, tmp_path / "missing" / "model.py", seed=0)
    module = compile_graph(graph)
    with pytest.raises(ConfigError, match="opset is 5"):
        to_onnx(graph, module, tmp_path / "model.onnx", opset=5)
    with pytest.raises(ConfigError, match="float16"):
        to_onnx(graph, module.half(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_executed_is_listed_at_once(tmp_path: Path) -> None:
    b = GraphBuilder()
    x = b.relu(b.other("exp", (3, 4, 4), b.input(3, 4, 4)))
    b.output(b.other("pow", (3, 4, 4), x))
    with pytest.raises(InvalidGraphError, match=r"nodes 1 \(exp\), 3 \(pow\) are described by cost and shape alone"):
        to_onnx(b.build(), torch.nn.Identity(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", range(13, 24))
def test_every_opset_computes_the_same(opset: int, tmp_path: Path) -> None:
    """Normalisations, GELU, interpolation and pads have other operators in other opsets."""
    b = GraphBuilder()
    x = b.gelu(b.layernorm(b.resize(b.input(4, 6, 7), 9, 5, "bilinear")))
    x = b.gelu(b.groupnorm(b.pad(x, (0, 1, 2), (0, 0, 1), "circular"), 2), tanh=True)
    x = b.layernorm(b.linear(b.softmax(x, 2), 6), bias=False)
    b.output(b.avgpool(b.batchnorm(x, affine=False), 3, 2, 1, True, True))
    module = _module(b.build())
    to_onnx(b.build(), module, tmp_path / "model.onnx", opset)
    image = _image(module, opset)
    np.testing.assert_allclose(_run_onnx(tmp_path / "model.onnx", image), _output(module, image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "named"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
def test_channels_are_repeated_as_numpy_does(mode: str, named: Any, tmp_path: Path) -> None:
    b = GraphBuilder()
    b.output(b.relu(b.pad(b.input(4, 5, 6), (1, 0, 2), (2, 1, 0), mode)))
    module = _module(b.build())
    to_onnx(b.build(), module, tmp_path / "model.onnx")
    to_python(b.build(), tmp_path / "model.py")
    image = _image(module, 0)
    expected = np.maximum(np.pad(image.numpy(), [(0, 0), (1, 2), (0, 1), (2, 0)], named), 0)
    np.testing.assert_array_equal(_output(module, image), expected)
    np.testing.assert_array_equal(_run_onnx(tmp_path / "model.onnx", image), expected)
    np.testing.assert_array_equal(_output(_load_python(tmp_path / "model.py"), image), expected)


def test_exports_leave_the_module_as_it_is(tmp_path: Path, random_graph: Callable[[int], ComputationGraph]) -> None:
    graph = random_graph(2)
    module = compile_graph(graph)
    assert module.training
    to_pt2(graph, module, tmp_path / "model.pt2")
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert "exported_network" not in sys.modules
