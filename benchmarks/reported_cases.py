"""Small networks that were once misread, refused or damaged: ``python benchmarks/reported_cases.py``.

A row per case, with one of five outcomes. ``right``: read as it is, with the right parameters, and where it holds no
numbers of its own equal in numbers to PyTorch or onnxruntime. ``read``: read, with an operation outside the vocabulary,
which is priced only. ``refused``: an error of gennape's own. ``wrong``: read as another network, or the module was
changed. ``crash``: any other error.

The table of another commit is made by this script with that commit on ``PYTHONPATH``.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from gennape.errors import GennapeError
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.importing.onnx import import_onnx
from gennape.search_spaces.importing.torch import trace

Outcome = tuple[str, str]
IMAGE = (3, 13, 13)
#: Said where numbers cannot be compared: a graph does not hold the numbers of weights and constants.
STRUCTURE = "structure and parameters"


def module_kept(module: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> Outcome:
    """Whether a traced module holds the same tensors with the same numbers afterwards."""
    before = {name: (value, value.clone()) for name, value in module.state_dict(keep_vars=True).items()}
    try:
        trace(module, shape)
    finally:
        after = module.state_dict(keep_vars=True)
        changed = [name for name, (value, _) in before.items() if after[name] is not value or value.is_meta]
        changed += [
            name for name, (value, numbers) in before.items() if name not in changed and not value.equal(numbers)
        ]
    return ("wrong", f"changed: {', '.join(changed)}") if changed else ("right", "")


def module_read(module: nn.Module, shape: tuple[int, int, int] = IMAGE) -> Outcome:
    """Whether the graph of a module computes what the module does."""
    module.eval()
    traced = trace(module, shape)
    if traced.others:
        return "read", ", ".join(traced.others)
    network = compile_graph(traced.graph)
    own = sum(p.numel() for p in module.parameters())
    counted = int(cost.params(pack([traced.graph]))[0])
    if counted != own:
        return "wrong", f"{counted} parameters, the module has {own}"
    if network.state_dict():
        return "right", STRUCTURE
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = module(image), network(image)
    same = torch.allclose(expected.flatten(), got.flatten(), atol=1e-5)
    return ("right", "") if same else ("wrong", "other numbers")


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    shape: tuple[int, ...] = (1, *IMAGE),
    opset: int = 18,
) -> onnx.ModelProto:
    """An ONNX model of one input ``x`` and one output ``y`` of any shape."""
    made = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "case", [x], [y], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def onnx_read(proto: onnx.ModelProto, params: int | None = None) -> Outcome:
    """Whether the graph of an ONNX file without weights computes what onnxruntime does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(proto, path)
        imported = import_onnx(path)
    counted = int(cost.params(pack([imported.graph]))[0])
    if params is not None and counted != params:
        return "wrong", f"{counted} parameters, not {params}"
    if imported.others:
        return "read", ", ".join(imported.others)
    network = compile_graph(imported.graph)
    if network.state_dict():
        return "right", STRUCTURE
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = session.run(None, {"x": image})[0]
    with torch.no_grad():
        got = network(torch.from_numpy(image)).numpy()
    same = expected.size == got.size and np.allclose(expected.ravel(), got.ravel(), atol=1e-4)
    return ("right", "") if same else ("wrong", "other numbers")


def node(op: str, inputs: str, outputs: str = "y", **attributes: object) -> onnx.NodeProto:
    """An operator whose inputs and outputs are names separated by spaces; ``-`` is one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attributes)


class Reused(nn.Module):
    """One sub-module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3)
        self.f = nn.Sequential(self.c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve once."""
        return self.f(x)


class Caching(nn.Module):
    """A module that keeps a grid and asks for numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        nn.init.ones_(self.conv.bias)
        self.grid: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve; add the grid where the mean is above zero."""
        y = self.conv(x)
        if self.grid is None:
            self.grid = torch.arange(y.shape[-1], dtype=y.dtype)
        return y + self.grid if y.mean() > 0 else y


class Tokens(nn.Module):
    """A learnt token in front of others."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Flatten the image to tokens and put the learnt one before them."""
        return torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)


class Channelwise(nn.Module):
    """A network that takes images with channels last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn the image round and go on."""
        return self.network(x.permute(0, 3, 1, 2))


def shared_once() -> Outcome:
    """A convolution used twice."""
    conv = nn.Conv2d(3, 3, 3, padding=1)
    return module_read(nn.Sequential(conv, nn.ReLU(), conv))


def channels_last() -> Outcome:
    """The same network of an image with channels last."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    first = trace(network, (3, 16, 12)).graph
    last = trace(Channelwise(network), (16, 12, 3)).graph
    return ("right", "") if len(set(canonical_hashes(pack([first, last])))) == 1 else ("wrong", "another hash")


def grid_constant(x: torch.Tensor) -> torch.Tensor:
    """Coordinates of a detection head."""
    ys, xs = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
    return (x + torch.stack([xs, ys, ys])[None].type_as(x)) * 2


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call it."""
        return self.function(x)


def written(x: torch.Tensor) -> torch.Tensor:
    """Write into a slice of a copy."""
    y = x.clone()
    y[:, :1] = x[:, :1] * 2
    return y


def exported_program() -> Outcome:
    """A program of ``torch.export``."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    program = torch.export.export(network, (torch.zeros(1, *IMAGE),))
    traced = trace(program, IMAGE)  # type: ignore[arg-type]
    same = canonical_hashes(pack([traced.graph, trace(network, IMAGE).graph]))
    return ("right", "") if len(set(same)) == 1 else ("wrong", "another hash")


def none_operation() -> Outcome:
    """A genotype of DARTS with the operation that makes zeros."""
    space = family("nb301")
    architecture = space.encode(space.sample(np.random.default_rng(0), 1)[0])
    text = repr(architecture).replace("skip_connect", "none", 1).replace("max_pool_3x3", "none", 1)
    return ("right", "") if space.graph(space.decode(ast.literal_eval(text))).n_nodes else ("wrong", "")


def resized(mode: str, sizes: tuple[int, int], **attributes: str) -> onnx.ModelProto:
    """A model that resizes its image."""
    constants = {"s": np.array([1, 3, *sizes], np.int64)}
    return model([node("Resize", "x - - s", mode=mode, **attributes)], constants, (1, 3, 4, 4))


ADD = node("Add", "x c")
F32 = np.float32
CASES: dict[str, Callable[[], Outcome]] = {
    "1 sub-module under two names": lambda: module_kept(Reused()),
    "1 one layer twice": lambda: module_kept(nn.Sequential(c := nn.Conv2d(3, 3, 3), nn.ReLU(), c)),
    "2 cache, then numbers": lambda: module_kept(Caching()),
    "3 channels last": channels_last,
    "5 Resize nearest, half_pixel, ceil": lambda: onnx_read(
        resized("nearest", (8, 8), coordinate_transformation_mode="half_pixel", nearest_mode="ceil")
    ),
    "5 Resize nearest, half_pixel, floor": lambda: onnx_read(
        resized("nearest", (8, 8), coordinate_transformation_mode="half_pixel", nearest_mode="floor")
    ),
    "5 Resize linear, pytorch_half_pixel to 1": lambda: onnx_read(
        resized("linear", (1, 1), coordinate_transformation_mode="pytorch_half_pixel")
    ),
    "6 Gemm, bias of one number": lambda: onnx_read(
        model([node("Gemm", "x w b")], {"w": np.ones((3, 4), F32), "b": np.array(1.0, F32)}, (1, 3)), 13
    ),
    "6 layer used twice": shared_once,
    "7 Cast to int and back": lambda: onnx_read(
        model([node("Cast", "x", "i", to=TensorProto.INT32), node("Cast", "i", to=TensorProto.FLOAT)])
    ),
    "8 Resize of a constant": lambda: onnx_read(
        model(
            [node("Resize", "p - s", "c", mode="linear"), ADD],
            {"p": np.arange(12, dtype=F32).reshape(1, 3, 2, 2), "s": np.array([1, 1, 6.5, 6.5], F32)},
        )
    ),
    "8 comparison of constants": lambda: onnx_read(
        model(
            [node("GreaterOrEqual", "a b", "g"), node("Cast", "g", "c", to=TensorProto.FLOAT), ADD],
            {"a": np.arange(3, dtype=F32).reshape(1, 3, 1, 1), "b": np.ones((1, 3, 1, 1), F32)},
        )
    ),
    "8 ScatterND of constants": lambda: onnx_read(
        model(
            [node("ScatterND", "a i u", "c"), ADD],
            {"a": np.zeros((3, 1, 1), F32), "i": np.array([[1]]), "u": np.full((1, 1, 1), 2, F32)},
        )
    ),
    "8 LayerNormalization of a constant": lambda: onnx_read(
        model(
            [node("LayerNormalization", "a w", "c"), ADD],
            {"a": np.arange(13, dtype=F32), "w": np.ones(13, F32)},
        )
    ),
    "9 Dropout with a mask": lambda: onnx_read(model([node("Dropout", "x", "d m"), node("Relu", "d")])),
    "9 MaxPool with indices": lambda: onnx_read(model([node("MaxPool", "x", "y i", kernel_shape=[2, 2])])),
    **{
        f"10 {op} {kernel} SAME_UPPER": lambda op=op, kernel=kernel: onnx_read(
            model([node(op, "x", kernel_shape=list(kernel), strides=[1, 1], auto_pad="SAME_UPPER")])
        )
        for op in ("MaxPool", "AveragePool")
        for kernel in ((2, 2), (2, 1), (1, 2), (4, 3))
    },
    "11 Attention, opset 23": lambda: onnx_read(
        model(
            [node("Attention", "x x x")],
            shape=(1, 2, 7, 4),
            opset=23,
        )
    ),
    "11 class token": lambda: module_read(Tokens()),
    "12 meshgrid, arange, type_as": lambda: module_read(Function(grid_constant)),
    "12 vector_norm": lambda: module_read(Function(lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True))),
    "12 repeat_interleave": lambda: module_read(Function(lambda x: x.repeat_interleave(2, 2))),
    "12 writing into a slice": lambda: module_read(Function(written)),
    "12 grouped-query attention": lambda: module_read(
        Function(lambda x: nn.functional.scaled_dot_product_attention(torch.cat([x, x * 2], 1), x, x, enable_gqa=True))
    ),
    "13 torch.export program": exported_program,
    "14 ConvTranspose with output_shape": lambda: onnx_read(
        model(
            [node("ConvTranspose", "x w", strides=[2, 2], output_shape=[26, 26])],
            {"w": np.ones((3, 2, 3, 3), F32)},
        ),
        54,
    ),
    "14 DepthToSpace DCR": lambda: onnx_read(
        model([node("DepthToSpace", "x", blocksize=2, mode="DCR")], shape=(1, 12, 4, 4))
    ),
    "14 flip of the channels": lambda: onnx_read(
        model([node("Gather", "x i", "f", axis=1), node("Relu", "f")], {"i": np.array([2, 1, 0])})
    ),
    "15 nb301 with none": none_operation,
}


def outcome(case: Callable[[], Outcome]) -> Outcome:
    """What becomes of a case; an error that is not gennape's own is a crash, which is what this script looks for."""
    try:
        return case()
    except GennapeError as error:
        return "refused", str(error).splitlines()[0][:100]
    except Exception as error:  # noqa: BLE001
        return "crash", f"{type(error).__name__}: {error}".splitlines()[0][:100]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    lines = [f"| {name} | {' | '.join(outcome(case))} |" for name, case in CASES.items() if args.only in name]
    sys.stdout.write("\n".join(["| case | outcome | |", "| --- | --- | --- |", *lines]) + "\n")


if __name__ == "__main__":
    main()
