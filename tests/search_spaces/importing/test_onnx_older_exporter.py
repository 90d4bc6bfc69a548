"""Files of PyTorch's older exporter: the graph of the file is the graph of the module, with the same parameters."""

from __future__ import annotations

import io
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.onnx import from_onnx
from gennape.search_spaces.importing.torch import trace

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:ONNX export mode is set:UserWarning"),
]
IMAGE = (3, 8, 8)


class Masked(nn.Module):
    """Attention with a mask that is stored with the module, but not with its weights, and is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 9)
        self.register_buffer("mask", torch.randn(64, 64).sign() * 50 - 50, persistent=False)
        self.places = nn.Parameter(torch.randn(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        return ((q @ k.transpose(1, 2) + self.mask + self.places).softmax(-1) @ v).mean(1)


class Waves(nn.Module):
    """Positions as sines, of numbers that the program writes down, through a learnt layer."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.conv = nn.Conv2d(4, 6, 1), nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.ones(1, 8, 8).cumsum(1, dtype=torch.float32)
        rates = torch.tensor([1.0, 10.0]) ** 0.5
        angles = (rows / (rows[:, -1:] + 1e-6))[..., None] / rates
        return self.conv(x) + self.project(torch.cat([angles.sin(), angles.cos()], -1).permute(0, 3, 1, 2))


class Scaled(nn.Module):
    """An image that is normalised by numbers of the program, and a learnt gain."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(3, 4, 3), nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x * torch.tensor([0.1, 0.2, 0.3]).reshape(3, 1, 1))) * self.gain


class Normalised(nn.Module):
    """Vectors of unit length along either dimension: the exporter spreads their lengths before it divides."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return F.normalize(x, dim=-1) @ (x / x.norm(dim=1, keepdim=True).expand_as(x)).transpose(1, 2)


class Blurred(nn.Module):
    """Filters that nothing learns, as of anti-aliased pooling, with a learnt layer before them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("blur", torch.rand(4, 1, 3, 3), persistent=False)
        self.register_buffer("grow", torch.rand(4, 1, 2, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.conv(x), self.blur, stride=2, padding=1, groups=4)
        return F.conv_transpose2d(x, self.grow, stride=2, groups=4)


class Mixed(nn.Module):
    """A fixed matrix over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("basis", torch.rand(64, 5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2) @ self.basis


def _exported(module: nn.Module) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(module, (torch.randn(1, *IMAGE),), file, dynamo=False)
    return onnx.load_model_from_string(file.getvalue())


@pytest.mark.parametrize("make", [Masked, Waves, Scaled, Normalised, Blurred, Mixed])
def test_a_file_is_the_module_that_it_was_made_of(make: type[nn.Module]) -> None:
    """Masks, positions and scales that the program writes down are not learnt."""
    module = make().eval()
    graphs = pack([from_onnx(_exported(module)).graph, trace(module, IMAGE).graph])
    assert cost.params(graphs).tolist() == [sum(p.numel() for p in module.parameters())] * 2
    assert len(set(canonical_hashes(graphs))) == 1


@pytest.mark.parametrize("make", [Masked, Waves, Scaled, Blurred])
def test_where_a_tensor_is_stored_says_nothing(make: type[nn.Module]) -> None:
    """Optimisers make weights of the constants of nodes, and constants of weights, and keep their names."""
    model = _exported(make().eval())
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    del moved.graph.node[:], moved.graph.initializer[:]
    for tensor in model.graph.initializer:
        moved.graph.node.append(onnx.helper.make_node("Constant", [], [tensor.name], tensor.name, value=tensor))
    for node in model.graph.node:
        if node.op_type == "Constant":
            moved.graph.initializer.append(
                numpy_helper.from_array(numpy_helper.to_array(node.attribute[0].t), node.output[0])
            )
        else:
            moved.graph.node.append(node)
    assert len(set(canonical_hashes(pack([from_onnx(x).graph for x in (model, moved)])))) == 1


class Parts(nn.Module):
    """Layers that each hold a third of one parameter, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.randn(9, 3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (F.linear(x.flatten(2).transpose(1, 2), part) for part in self.both.chunk(3))
        return (q @ k.transpose(1, 2)).softmax(-1) @ v


class Gains(nn.Module):
    """Filters of unit length, and filters that are standardised, each times a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.wide = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4, 4, 3, 3))
        self.first, self.second = nn.Parameter(torch.rand(4, 1, 1, 1)), nn.Parameter(torch.rand(4, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        length = self.long.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        x = F.relu(F.conv2d(x, self.long / length * self.first))
        gain = (self.second * 0.3).view(-1)
        wide = F.batch_norm(self.wide.reshape(1, 4, -1), None, None, gain, training=True, momentum=0.0)
        return F.conv2d(x, wide.reshape(4, 4, 3, 3))


OPTIONS = [
    {"dynamo": False},
    {"dynamo": False, "do_constant_folding": False},
    {"dynamo": True, "optimize": False, "verbose": False, "external_data": False},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("make", [Parts, Gains])
def test_weights_that_are_computed_count_what_they_are_computed_of(
    make: type[nn.Module], options: dict[str, Any]
) -> None:
    module, file = make().eval(), io.BytesIO()
    torch.onnx.export(module, (torch.randn(1, *IMAGE),), file, **options)
    graphs = pack([from_onnx(onnx.load_model_from_string(file.getvalue())).graph, trace(module, IMAGE).graph])
    assert cost.params(graphs).tolist() == [sum(p.numel() for p in module.parameters())] * 2
    assert len(set(canonical_hashes(graphs))) == 1
