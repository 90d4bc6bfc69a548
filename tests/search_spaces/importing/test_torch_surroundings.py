"""A trace gives the same graph whatever its caller has switched on in PyTorch, and leaves that as it was."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch_modules import Forward, ops_of

from gennape.errors import InvalidDataError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.torch import Traced, from_torch, trace

IMAGE = (8, 6, 6)


def convolution() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1)


def params(traced: Traced) -> int:
    return int(cost.params(pack([traced.graph]))[0])


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def parametrized() -> nn.Module:
    layer = convolution()
    parametrize.register_parametrization(layer, "weight", Doubled())
    return nn.Sequential(layer)


def asking(module: nn.Module) -> Forward:
    """A module that is run on numbers."""
    return Forward(lambda self, x: self.inner(x) if x.sum() == 0 else x, inner=module)


def test_inference_mode_of_the_caller() -> None:
    module = nn.Sequential(convolution(), nn.BatchNorm2d(8)).eval()
    with torch.inference_mode():
        traced = trace(module, IMAGE)
        numbers = trace(asking(module), torch.zeros(1, *IMAGE))
        assert torch.is_inference_mode_enabled()
    assert ops_of(traced.graph) == ops_of(numbers.graph) == ["CONV", "BATCHNORM"]
    assert params(traced) == params(numbers) == 8 * 8 * 9 + 8 + 16
    assert numbers.took_numbers


def test_a_module_made_in_inference_mode() -> None:
    with torch.inference_mode():
        module = nn.Sequential(convolution(), nn.BatchNorm2d(8))
    assert ops_of(from_torch(module, IMAGE)) == ["CONV", "BATCHNORM"]
    assert ops_of(from_torch(asking(module), IMAGE)) == ["CONV", "BATCHNORM"]


def test_cached_parametrizations_neither_hide_weights_nor_keep_tensors_of_the_run() -> None:
    module, image = parametrized(), torch.randn(1, *IMAGE)
    with parametrize.cached():
        expected = module(image)
        held = dict(parametrize._cache)
        traced = trace(module, IMAGE)
        assert parametrize._cache == held
        torch.testing.assert_close(module(image), expected)
    assert ops_of(traced.graph) == ["CONV"]
    assert params(traced) == 8 * 8 * 9 + 8
    with parametrize.cached():
        trace(module, IMAGE)
        assert not parametrize._cache


def refuses_to_compile(*_: Any, **__: Any) -> Any:
    raise AssertionError("a trace compiles nothing")


def test_compiled_parts_are_read_as_what_was_compiled() -> None:
    part, whole, method = convolution(), nn.Sequential(convolution(), nn.ReLU()), convolution()
    compiled: Any = torch.compile(part, backend=refuses_to_compile)
    inside = nn.Sequential(convolution(), compiled)
    whole.compile(backend=refuses_to_compile)
    method.forward = torch.compile(method.forward, backend=refuses_to_compile)  # type: ignore[method-assign]
    swish = torch.compile(lambda x: x * torch.sigmoid(x), backend=refuses_to_compile)
    function = Forward(lambda self, x: swish(self.layer(x)), layer=convolution())
    expected = [["CONV", "CONV"], ["CONV", "RELU"], ["CONV"], ["CONV", "SIGMOID", "MUL"]]
    for module, ops in zip((inside, whole, method, function), expected, strict=True):
        assert ops_of(from_torch(module, IMAGE)) == ops


def test_settings_that_the_module_leaves_are_put_back() -> None:
    def forward(_: Any, x: Tensor) -> Tensor:
        torch.autograd.set_detect_anomaly(mode=True)
        torch.backends.cudnn.benchmark = not benchmark
        return x.relu()

    benchmark = torch.backends.cudnn.benchmark
    trace(Forward(forward), IMAGE)
    assert torch.backends.cudnn.benchmark == benchmark
    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (np.zeros((1, 8, 6, 6), np.float32), r"a ndarray of shape \[1, 8, 6, 6\]: make it a tensor"),
        ((8, 2**40, 2**40), r"at most 1099511627776 elements; got \(8, 1099511627776, 1099511627776\)"),
    ],
)
def test_an_example_that_is_none_is_told_in_a_line(example: Any, said: str) -> None:
    with pytest.raises(InvalidDataError, match=said) as caught:
        unwrap(trace)(nn.ReLU(), example)  # past the checks of types that run in tests
    assert "\n" not in str(caught.value)
