"""Programs of ``torch.export``: read as data, the same graph as of the module, nothing executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_modules import IMAGE, Forward, ops_of

from gennape.errors import InvalidDataError, InvalidGraphError, OpenShapeError
from gennape.search_spaces.exporting.onnx import to_pt2
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.importing.pt2 import import_pt2, read_pt2
from gennape.search_spaces.importing.torch import trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gennape.search_spaces.graphs.graph import ComputationGraph


def _hash(graph: ComputationGraph) -> Any:
    return canonical_hashes(pack([graph]))[0]


def _exported(module: nn.Module, image: tuple[int, ...] = IMAGE, batch: int = 2, free: Any = None) -> Any:
    shapes = {0: torch.export.Dim("batch"), **(free or {})} if batch == 2 else None
    return torch.export.export(module.eval(), (torch.zeros(batch, *image),), dynamic_shapes=shapes and (shapes,))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(module: nn.Module, *args: Any, **kwargs: Any) -> Path:
        torch.export.save(_exported(module, *args, **kwargs), tmp_path / "network.pt2")
        return tmp_path / "network.pt2"

    return save


@pytest.mark.parametrize("name", ["nb101", "nb301", "ofa_mbv3"])
def test_what_export_writes_is_read_back(name: str, tmp_path: Path) -> None:
    space = family(name)
    graph = space.graph(space.sample(np.random.default_rng(1), 1)[0])
    to_pt2(graph, compile_graph(graph), tmp_path / "network.pt2")
    assert _hash(read_pt2(tmp_path / "network.pt2")) == _hash(graph)


def _mixed(m: Any, x: Tensor) -> Tensor:
    y = F.silu(m.norm(m.conv(x)), inplace=True) * m.gain + 0.5
    y = F.interpolate(y, scale_factor=2.0)
    y = F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 2) + F.avg_pool2d(y[:, :, ::2], (1, 2))[:, :, :1, :1]
    a, b = y.chunk(2, 1)
    y = torch.cat([a.sigmoid(), F.hardswish(b), F.gelu(b)], 1).flatten(2).transpose(1, 2)
    y = F.scaled_dot_product_attention(m.rows(y), y, y)
    return m.head(F.layer_norm(y, (12,)).mean(1)).softmax(-1)


def _mixed_module() -> nn.Module:
    parts = {"conv": nn.Conv2d(8, 8, 3), "norm": nn.BatchNorm2d(8), "rows": nn.Linear(12, 12), "head": nn.Linear(12, 5)}
    return Forward(_mixed, **parts, gain=torch.full((1,), 2.0))


def test_a_program_is_the_graph_of_its_module(saved: Callable[..., Path]) -> None:
    module = _mixed_module()
    traced = trace(module, IMAGE)
    program = _exported(module)
    read = import_pt2(saved(module))
    assert _hash(read.graph) == _hash(traced.graph)
    assert read.weights == traced.weights
    assert read.others == traced.others
    assert _hash(trace(program).graph) == _hash(traced.graph)
    assert _hash(trace(program, torch.zeros(1, *IMAGE)).graph) == _hash(traced.graph)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # PyTorch warns of itself
def test_a_decomposed_program_is_the_graph_of_its_module() -> None:
    module = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    module = nn.Sequential(*module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))
    assert _hash(trace(_exported(module).run_decompositions()).graph) == _hash(trace(module, IMAGE).graph)


def test_layers_used_twice_are_shared(saved: Callable[..., Path]) -> None:
    conv = nn.Conv2d(8, 8, 1)
    module = nn.Sequential(conv, nn.ReLU(), conv)
    assert _hash(read_pt2(saved(module))) == _hash(trace(module, IMAGE).graph)


def test_other_shapes_and_batches(saved: Callable[..., Path]) -> None:
    module = nn.Sequential(nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert ops_of(read_pt2(saved(module, batch=1))) == ["CONV", "MEAN"]
    with pytest.raises(InvalidGraphError, match="batch of 3 images"):
        read_pt2(saved(module, batch=3))
    with pytest.raises(InvalidGraphError, match="batch of 3 images"):
        trace(_exported(module, batch=3))
    free = {2: torch.export.Dim("h", min=4, max=64), 3: torch.export.Dim("w", min=4, max=64)}
    path = saved(module, free=free)
    with pytest.raises(OpenShapeError, match="shape="):
        read_pt2(path)
    assert _hash(read_pt2(path, (1, 8, 9, 7))) == _hash(trace(module, (8, 9, 7)).graph)
    assert _hash(read_pt2(path, (8, 9, 7))) == _hash(trace(module, (8, 9, 7)).graph)
    with pytest.raises(InvalidDataError, match="takes"):
        read_pt2(path, (1, 3, 9, 7))
    with pytest.raises(InvalidDataError, match="leaves its input's size open"):
        trace(_exported(module, free=free))


def test_unknown_calls_are_listed(saved: Callable[..., Path]) -> None:
    with pytest.raises(InvalidGraphError, match="fft_fft2"):
        read_pt2(saved(Forward(lambda _, x: torch.fft.fft2(x).real)))


@pytest.mark.parametrize("given", [lambda x: x, torch.relu, "a name", None])
def test_what_is_no_module_is_refused(given: Any) -> None:
    with pytest.raises(InvalidGraphError, match="Module or an exported program"):
        trace(given, IMAGE)


# Hostile files --------------------------------------------------------------------------------------------------------


def _edited(path: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    edit(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def _with_program(change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(content: dict[str, bytes]) -> None:
        name = next(name for name in content if name.endswith("models/model.json"))
        program = json.loads(content[name])
        change(program)
        content[name] = json.dumps(program).encode()

    return edit


class _Evil:
    def __reduce__(self) -> Any:
        return (open, ("/tmp/evil", "w"))  # noqa: S108


def test_nothing_is_unpickled(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(content: dict[str, bytes]) -> None:
        for name in content:
            if name.endswith("model.pt"):
                content[name] = pickle.dumps(_Evil())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    path = _edited(saved(nn.Conv2d(8, 4, 1)), edit)
    for name in ("torch.load", "pickle.loads", "pickle.load", "torch.export.load"):
        monkeypatch.setattr(name, refuse)
    assert ops_of(read_pt2(path)) == ["CONV"]


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "_operator.pow",
        "_operator.lshift",
        "torch.load",
        "torch.ops.aten.__class__.default",
        "torch.ops.higher_order.cond",
        "math.factorial",
        "#extension",
    ],
)
def test_no_other_function_is_called(target: str, saved: Callable[..., Path]) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(InvalidGraphError, match="no operation is known"):
        read_pt2(_edited(saved(nn.Conv2d(8, 4, 1)), _with_program(change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.pop("graph_module"),
        lambda p: p["graph_module"].update(graph=[]),
        lambda p: p["graph_module"]["graph"].update(nodes=[{}]),
        lambda p: p["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(arg={"as_tensor": {"name": "missing"}}),
        lambda p: p["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(arg=[]),
        lambda p: p["graph_module"]["graph"]["nodes"][0].update(outputs=[]),
        lambda p: p["graph_module"]["graph"].update(tensor_values={}),
        lambda p: p["graph_module"]["graph"]["tensor_values"]["input"].update(sizes=7),
        lambda p: p["graph_module"]["graph"]["tensor_values"]["input"].update(dtype=99),
        lambda p: p["graph_module"]["graph"]["tensor_values"]["p_weight"].update(sizes=[{"as_int": 2**62}] * 4),
        lambda p: p["graph_module"]["signature"].update(input_specs=[]),
        lambda p: p["graph_module"]["signature"].update(output_specs=[]),
    ],
)  # fmt: skip
def test_damaged_programs_are_refused_in_a_sentence(change: Any, saved: Callable[..., Path]) -> None:
    with pytest.raises((InvalidDataError, InvalidGraphError)):
        read_pt2(_edited(saved(nn.Conv2d(8, 4, 1)), _with_program(change)))


def test_files_that_are_no_program(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "network.pt2"
    with pytest.raises(InvalidDataError, match="cannot read"):
        read_pt2(path)
    path.write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(InvalidDataError, match="no program of torch"):
        read_pt2(path)
    torch.save({}, path)
    with pytest.raises(InvalidDataError, match="no program of torch"):
        read_pt2(path)
    whole = saved(nn.Conv2d(8, 4, 1)).read_bytes()
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(InvalidDataError):
            read_pt2(path)

    def inflate(content: dict[str, bytes]) -> None:
        content[next(name for name in content if name.endswith("models/model.json"))] = b"[" * 2**27

    with pytest.raises(InvalidDataError, match="more than the limit of"):
        read_pt2(_edited(saved(nn.Conv2d(8, 4, 1)), inflate))

    def nest(content: dict[str, bytes]) -> None:
        content[next(name for name in content if name.endswith("models/model.json"))] = b"[" * 2**17

    with pytest.raises(InvalidDataError, match="no JSON"):
        read_pt2(_edited(saved(nn.Conv2d(8, 4, 1)), nest))


def test_free_sizes_name_the_option_and_the_argument(tmp_path: Path) -> None:
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=4)}
    program = torch.export.export(nn.ReLU(), (torch.zeros(2, 3, 8, 16),), dynamic_shapes=(free,))
    torch.export.save(program, tmp_path / "free.pt2")
    with pytest.raises(OpenShapeError, match=r"--shape 1,3,224,16 \(in Python shape=\(1, 3, 224, 16\)\)"):
        import_pt2(tmp_path / "free.pt2")
    with pytest.raises(InvalidDataError, match=r"takes \(1, 3, any, 16\), got shape=\(1, 3, 0, 16\)"):
        import_pt2(tmp_path / "free.pt2", (1, 3, 0, 16))
    assert import_pt2(tmp_path / "free.pt2", (3, 12, 16)).graph.n_nodes == 3


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.full((6, 6), float("-inf")).triu(1),
        lambda x: x.masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), float("-inf")).softmax(3),
        lambda x: x / x.norm(dim=1, keepdim=True),
        lambda x: F.normalize(x, dim=1),
        F.logsigmoid,
        lambda x: x @ x.mT,
        lambda x: F.unfold(x, 3),
    ],
)
def test_a_file_is_read_as_its_module_is(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    """JSON has no number for infinity: a program's file says it in a word."""
    module = Forward(lambda _, x: function(x))
    torch.export.save(torch.export.export(module, (torch.zeros(1, *IMAGE),)), tmp_path / "program.pt2")
    expected = trace(module, IMAGE)
    read = import_pt2(tmp_path / "program.pt2")
    assert _hash(read.graph) == _hash(expected.graph)
    assert read.others == expected.others
