"""PyTorch modules made of a function, what they become, and the models that benchmarks import."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack, validate
from gennape.search_spaces.graphs.module import compile_graph, has_weights
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.torch import Traced, from_torch, trace

IMAGE = (8, 6, 6)


class Forward(nn.Module):
    """A module of some layers and a function that uses them."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def ops_of(graph: ComputationGraph) -> list[str]:
    """Operations between input and output, in order."""
    return [Op(op).name for op in graph.nodes[1:-1, Column.OP]]


def traced_ops(function: Callable[[Tensor], Any], image: tuple[int, int, int] = IMAGE) -> list[str]:
    """Operations that a function of the image becomes."""
    return ops_of(from_torch(Forward(lambda _, x: function(x)), image))


def with_weights_of(module: nn.Module, traced: Traced, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The traced graph compiled, its layers holding the module's weights."""
    compiled = compile_graph(traced.graph).to(dtype).eval()
    held = module.state_dict()
    with torch.no_grad():
        for step in compiled.plan:
            if has_weights(step):
                layer = compiled.get_submodule(step.name).state_dict(keep_vars=True)
                own = [tensor for name, tensor in layer.items() if name != "num_batches_tracked"]
                for tensor, name in zip(own, traced.weights.get(step.node, ()), strict=True):
                    assert name is not None
                    tensor.copy_(held[name].reshape(tensor.shape))
    return compiled


def assert_same_function(module: nn.Module, image: tuple[int, int, int], others: dict[str, int] | None = None) -> None:
    """The graph of a module computes what the module does."""
    torch.manual_seed(0)
    module = module.double().eval()
    traced = trace(module, image)
    assert traced.others == (others or {})
    validate(pack([traced.graph]))
    x = torch.randn(2, *image, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(with_weights_of(module, traced)(x).flatten(1), module(x).flatten(1))


def assert_counts_every_weight(module: nn.Module, traced: Traced) -> None:
    assert cost.params(pack([traced.graph]))[0] == sum(p.numel() for p in module.parameters())


@cache
def importing() -> Any:
    """The benchmark of importing, which knows the models of timm."""
    path = Path(__file__).parents[2] / "benchmarks" / "importing.py"
    spec = importlib.util.spec_from_file_location("importing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["importing"] = module  # its dataclass looks for its module
    spec.loader.exec_module(module)
    return module
