"""Models that torch.onnx exported: the graph of the file is the graph of the module."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_modules import importing

from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.onnx import import_onnx
from gennape.search_spaces.importing.torch import trace

pytestmark = [
    # What PyTorch's exporters say of themselves and of their own calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Maps(nn.Module):
    """Operations on maps, each as PyTorch writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.norm, self.slope = nn.GroupNorm(2, 8), nn.PReLU(8)
        self.up = nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
        self.instance = nn.InstanceNorm2d(4, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.norm(self.stem(x)))
        x = F.leaky_relu(self.instance(self.up(x)), 0.2)
        x = F.pixel_shuffle(F.pixel_unshuffle(F.interpolate(x, scale_factor=2), 2), 2)
        a, b = x.chunk(2, 1)
        x = torch.cat([a * b.sigmoid(), F.hardswish(b)], 1)
        x = F.avg_pool2d(F.max_pool2d(x, 3, 2, ceil_mode=True), 3, 2, 1)
        return F.silu(F.pad(x, (0, 1, 0, 1))).flatten(1)


class _Attention(nn.Module):
    """One block of a vision transformer, with a token for the class and learnt places."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first, self.second = nn.Conv2d(3, 32, 8, 8), nn.LayerNorm(32), nn.LayerNorm(32, eps=1e-6)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.qkv, self.mixed, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 7)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        batch, n, width = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(batch, n, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.mixed(mixed.transpose(1, 2).reshape(batch, n, width))
        return self.head((x + self.mlp(self.second(x)))[:, 0])


class Numbers(nn.Module):
    """Numbers that it keeps as tensors of 32 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("factor", torch.tensor(0.4))
        self.register_buffer("least", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) * self.factor + self.factor
        x = torch.maximum(torch.minimum(x, self.factor), self.least)
        return x / self.factor


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("make", [Maps, _Attention, Numbers])
def test_a_module_is_the_same_from_either_side(make: type[nn.Module], optimize: bool, tmp_path: Path) -> None:
    """The optimiser folds what it can, which the graph must not show but for normalisations."""
    path, module = tmp_path / "model.onnx", make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()  # the optimiser leaves out what is zero
    torch.onnx.export(
        module, (torch.zeros(1, 3, 32, 32),), path, dynamo=True, optimize=optimize, external_data=False, verbose=False
    )
    imported, traced = import_onnx(path), trace(module, (3, 32, 32))
    assert imported.others == traced.others
    graphs = pack([imported.graph, traced.graph])
    assert len({*cost.macs(graphs).tolist()}) == 1
    if make is _Attention or not optimize:
        assert len({*canonical_hashes(graphs)}) == 1


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed (extra: test)")
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "regnety_002"])
def test_a_model_of_the_zoo_is_the_same_from_either_side(name: str, tmp_path: Path) -> None:
    """By the older exporter, which keeps normalisations where it is told to."""
    model = importing().model(name, "cpu")
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        model.module,
        (torch.zeros(1, *model.image),),
        file,
        opset_version=17,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    imported, traced = import_onnx(file), trace(model.module, model.image)
    assert imported.others == traced.others == {}
    assert len({*canonical_hashes(pack([imported.graph, traced.graph]))}) == 1
