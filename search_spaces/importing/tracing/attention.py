"""Attention, decomposed into products, sums and softmax, which are then recorded."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gennape.search_spaces.importing.tracing.alignment import causal_softmax
from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Number


def _attention(
    r: Recorder,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: Number = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: Number | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query · keyᵀ · scale + mask) · value."""
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = (query @ key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        return _causal(r, scores) @ value
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


def _causal(r: Recorder, scores: Tensor) -> Tensor:
    """Softmax in which a query sees keys up to its own position: values use a mask, the graph a causal softmax node."""
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    out = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    if r.is_traced(scores):
        r.bind(out, causal_softmax(r.b, r.traced(scores)))
    return out


def _heads(x: Tensor, heads: int) -> Tensor:
    """[n, batch, heads · d] as [batch, heads, n, d]."""
    n, batch, width = x.shape
    return x.view(n, batch, heads, width // heads).permute(1, 2, 0, 3)


def _multi_head(
    r: Recorder,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,  # noqa: ARG001
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: Number,  # noqa: ARG001
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """``nn.MultiheadAttention``; queries, keys and values are [n, batch, width]."""
    refused = ("static_k", "static_v", "key_padding_mask")
    if (
        bias_k is not None
        or bias_v is not None
        or add_zero_attn
        or any(options.get(name) is not None for name in refused)
    ):
        r.problem("MultiheadAttention with biases or zeros added to the keys, or with a padding mask, is not supported")
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        mask = ~mask  # True hides here, but shows in scaled_dot_product_attention
    q, k, v = _projected(query, key, value, in_proj_weight, in_proj_bias, options)
    q, k, v = (_heads(x, num_heads) for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    n, batch = query.shape[:2]
    return F.linear(mixed.permute(2, 0, 1, 3).reshape(n, batch, -1), out_proj_weight, out_proj_bias), None


def _projected(
    query: Tensor, key: Tensor, value: Tensor, weight: Tensor | None, bias: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, ...]:
    if weight is not None and query is key is value:
        return F.linear(query, weight, bias).chunk(3, -1)
    weights = weight.chunk(3) if weight is not None else [options[f"{part}_proj_weight"] for part in ("q", "k", "v")]
    biases = bias.chunk(3) if bias is not None else (None, None, None)
    return tuple(F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))


SUBSTITUTES: dict[Any, Any] = {
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head,
}
