"""Models of timm: their cost against PyTorch's own counter, and what their graphs compute against the models.

Of each kind one is traced in every run of the tests, and more as drills. Still more are tried by ``python
benchmarks/importing.py``, whose table is in docs/import.md.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_modules import assert_counts_every_weight, importing, with_weights_of

from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack, validate
from gennape.search_spaces.importing.torch import trace

if TYPE_CHECKING:
    from gennape.search_spaces.importing.torch import Traced

pytestmark = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed (extra: test)")


MODELS = ("resnet18", "mobilenetv3_large_100", "nfnet_l0", "pvt_v2_b0", "vit_tiny_patch16_224", "levit_128s")
MORE = (
    *("regnety_002", "efficientnet_b0", "ghostnet_100", "densenet121", "inception_v3", "hrnet_w18_small"),
    *("convnext_tiny", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"),
)


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.drill) for name in MORE)])
def test_networks_that_the_vocabulary_tells(name: str) -> None:
    model = importing().model(name)
    traced = trace(model.module, model.image)
    assert traced.others == {}
    _costs_what_it_costs(model, traced)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("volo_d1_224", {"fold", "max", "unfold"}),
    ],
)
def test_networks_with_operations_outside_the_vocabulary(name: str, others: set[str]) -> None:
    model = importing().model(name)
    traced = trace(model.module, model.image)
    assert set(traced.others) == others
    _costs_what_it_costs(model, traced)


def _costs_what_it_costs(model: Any, traced: Traced) -> None:
    graphs = pack([traced.graph])
    validate(graphs)
    assert cost.macs(graphs)[0] == pytest.approx(importing().counted_macs(model.module, model.image), rel=0.01)
    assert_counts_every_weight(model.module, traced)


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_100", "regnety_002", "convnext_atto", "pvt_v2_b0"],
)
def test_the_graph_computes_what_the_model_does(name: str) -> None:
    """Weights are random, also those that start as zeros and ones; the graph's layers get them by name."""
    model = importing().model(name, "cpu")
    torch.manual_seed(0)
    for tensor_name, tensor in model.module.state_dict().items():
        if tensor.dim() == 1:
            noise = torch.rand_like(tensor)
            tensor.copy_(0.5 + noise if tensor_name.endswith(("weight", "running_var", "gamma")) else noise - 0.5)
    traced = trace(model.module, model.image)
    compiled = with_weights_of(model.module, traced, torch.float32)
    image = torch.randn(1, *model.image)
    with torch.no_grad():
        expected, result = model.module(image), compiled(image)
    assert expected.std() > 1e-3
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
