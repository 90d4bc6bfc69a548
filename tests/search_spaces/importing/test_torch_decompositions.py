"""Functions of PyTorch that are told by other operations: what their graphs compute."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_modules import IMAGE, Forward, assert_counts_every_weight, ops_of

from gennape.search_spaces.graphs.graph import pack, validate
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.importing.torch import trace


def _windows(x: Tensor) -> Tensor:
    """[windows, pixels, channels] of a map in windows of 2x3."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 3, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 6, c)


def _norm(x: Tensor) -> Tensor:
    return x.norm(2, (2, 3), True)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "windows": _windows,
    "roll": lambda x: torch.roll(x, (-1, 2), (2, 3)),
    "roll of all": lambda x: torch.roll(x, 5),
    "difference": lambda x: x - x.relu(),
    "difference of unequal sizes": lambda x: x.mean((2, 3), keepdim=True) - x,
    "sum of channels": lambda x: x.sum(1),
    "sum of pixels": lambda x: x.sum((2, 3)),
    "sum of a part of an axis": lambda x: x.view(1, 2, 4, 6, 6).sum(1),
    "sum of all": lambda x: x.sum().reshape(1, 1),
    "mean of parts of axes": lambda x: x.view(1, 2, 4, 6, 6).mean((1, 3)),
    "product of a vector and a map": lambda x: x.mean((2, 3), keepdim=True) * x.mean(1, keepdim=True),
    "sum of rows and columns": lambda x: x.mean(3, keepdim=True) + x.mean(2, keepdim=True),
    "gate of two branches": lambda x: x.view(1, 2, 4, 6, 6) * x.mean((2, 3)).view(1, 2, 4, 1, 1),
    "gate that spreads twice": lambda x: x.view(1, 2, 4, 6, 6) * x.view(1, 2, 4, 6, 6).mean((1, 3), keepdim=True),
    "repetition": lambda x: x.repeat(1, 2, 1, 3),
    "repetition of one": lambda x: x.mean(1, keepdim=True).expand(-1, 5, -1, -1).relu(),
    "heads repeated": lambda x: x.view(1, 2, 1, 4, 36).expand(1, 2, 3, 4, 36).reshape(1, 6, 4, 36).relu(),
    "norm": lambda x: x.norm(dim=1, keepdim=True),
    "norm of a vector": lambda x: torch.linalg.vector_norm(x, 2, (2, 3), True),
    "normalize": lambda x: F.normalize(x, dim=1),
    "rms norm": lambda x: F.rms_norm(x, (6, 6)),
    "response norm": lambda x: x * (_norm(x) / (_norm(x).mean(1, keepdim=True) + 1e-6)),
    "powers": lambda x: (x**2 + 1) ** -0.5,
    "quotient": lambda x: x / (x.square() + 1),
    "quotient of unequal sizes": lambda x: x / (x.square().mean(1, keepdim=True) + 1),
    "reciprocal": lambda x: 2 / (x.square() + 1),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp below": lambda x: x.clamp_min(0.3),
    "hardtanh": F.hardtanh,
    "windows that overlap": lambda x: x.unfold(2, 4, 2).unfold(3, 4, 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_executed(name: str) -> None:
    module = Forward(lambda _, x: FUNCTIONS[name](x))
    traced = trace(module, IMAGE)
    assert traced.others == {}
    validate(pack([traced.graph]))
    x = torch.randn(1, *IMAGE, dtype=torch.float64)
    result = compile_graph(traced.graph).double()(x)
    expected = module(x)
    if "windows" in name:  # where numbers lie at the end of a network is not kept
        result, expected = result.flatten().sort().values, expected.flatten().sort().values
    torch.testing.assert_close(result.flatten(), expected.flatten())


def test_windows_that_are_put_back_leave_no_node() -> None:
    def back(x: Tensor) -> Tensor:
        return _windows(x).view(1, 3, 2, 2, 3, 8).permute(0, 1, 3, 2, 4, 5).reshape(1, 6, 6, 8).permute(0, 3, 1, 2)

    assert ops_of(trace(Forward(lambda _, x: back(x)), IMAGE).graph) == []


def test_a_learnt_number_scales_any_map() -> None:
    module = Forward(lambda m, x: x * m.gain, gain=nn.Parameter(torch.tensor(0.3)))
    traced = trace(module, IMAGE)
    assert ops_of(traced.graph) == ["SCALE"]
    assert_counts_every_weight(module, traced)
    compiled = compile_graph(traced.graph)
    (tensor,) = compiled.parameters()
    assert tensor.shape == (1, 1, 1)
    with torch.no_grad():
        tensor.fill_(0.3)
    x = torch.randn(2, *IMAGE)
    torch.testing.assert_close(compiled(x), module(x))
