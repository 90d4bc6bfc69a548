"""PyTorch in: attention, written out and as PyTorch's own layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_modules import IMAGE, Forward, assert_counts_every_weight, assert_same_function, ops_of

from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.torch import trace


class Attention(nn.Module):
    """A block of a vision transformer, as most are written; ``fused`` asks PyTorch for the whole attention."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused, self.scale = heads, fused, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, n, c = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, n, c))


def _tokens(attention: nn.Module) -> nn.Module:
    """Patches, a learnt position for each, attention, and the mean of all tokens."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.patches(x).flatten(2).transpose(1, 2) + m.position
        return m.head((x + m.attention(m.norm(x))).mean(1))

    return Forward(
        forward,
        patches=nn.Conv2d(8, 12, 2, 2),
        position=nn.Parameter(torch.randn(1, 1, 12)),
        norm=nn.LayerNorm(12),
        attention=attention,
        head=nn.Linear(12, 5),
    )


@pytest.mark.parametrize("fused", [False, True])
def test_attention_is_matrix_products(fused: bool) -> None:
    module = _tokens(Attention(12, 3, fused))
    traced = trace(module, IMAGE)
    ops = ops_of(traced.graph)
    assert ops[:5] == ["CONV", "RESHAPE", "SHIFT", "LAYERNORM", "LINEAR"]
    assert [op for op in ops if op in ("MATMUL", "SOFTMAX", "SCALE")] in (
        ["MATMUL", "SCALE", "SOFTMAX", "MATMUL"],
        ["SCALE", "MATMUL", "SOFTMAX", "MATMUL"],
    )
    # 9 tokens of 12 numbers: patches, 3 + 1 matrices, two products of 3 heads, the head.
    assert cost.macs(pack([traced.graph]))[0] == 9 * 12 * 32 + 9 * 12 * 48 + 2 * 9 * 9 * 12 + 12 * 5
    assert_counts_every_weight(module, traced)
    assert_same_function(module, IMAGE)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_attention_layer_of_pytorch(batch_first: bool) -> None:
    layer = nn.MultiheadAttention(12, 3, batch_first=batch_first)

    def forward(m: Any, x: Tensor) -> Tensor:
        x = x if batch_first else x.transpose(0, 1)
        y: Tensor = m.layer(x, x, x, need_weights=False)[0]
        return y if batch_first else y.transpose(0, 1)

    module = _tokens(Forward(forward, layer=layer))
    assert_counts_every_weight(module, trace(module, IMAGE))
    assert_same_function(module, IMAGE)


def test_the_transformer_layer_of_pytorch() -> None:
    module = _tokens(nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, dropout=0.0))
    assert_counts_every_weight(module, trace(module, IMAGE))
    assert_same_function(module, IMAGE)


def test_masks_of_attention_are_read() -> None:
    module = Forward(lambda _, x: F.scaled_dot_product_attention(x, x, x, is_causal=True))
    assert trace(module, IMAGE).others == {}
