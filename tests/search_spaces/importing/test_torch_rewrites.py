"""Calls that are recorded as others: casts, norms, repetition, grouped queries, writes, windows as a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_modules import IMAGE, Forward, assert_counts_every_weight, assert_same_function, ops_of

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.torch import trace

if TYPE_CHECKING:
    from collections.abc import Callable


def _written(write: Callable[..., None], start: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.conv(x)
        y = start(x)
        write(y, x)
        return m.conv(y)

    return forward


def _rows(y: Tensor, x: Tensor) -> None:
    y[:, :, 1:] = x[:, :, :-1]


def _corner(y: Tensor, x: Tensor) -> None:
    y[:, 2:4, ..., -2:] = x[:, :2, :, :2].relu()


def _number(y: Tensor, _: Tensor) -> None:
    y[..., 0, :] = 3


def _one_row(y: Tensor, x: Tensor) -> None:
    y[:, :, 2] = x.mean(2)


def _twice(y: Tensor, x: Tensor) -> None:
    y[:, 0:1] = x[:, 1:2]
    y[:, 1:2] = y[:, 0:1] * 2


def _gate(y: Tensor, x: Tensor) -> None:
    y[:, :, :, 1:] *= x[:, :, :, :1]


@pytest.mark.parametrize("write", [_rows, _corner, _number, _one_row, _twice, _gate])
@pytest.mark.parametrize("start", [Tensor.clone, torch.zeros_like, torch.relu])
def test_writing_into_a_part(write: Callable[..., None], start: Callable[..., Tensor]) -> None:
    if write in (_number, _gate) and start is torch.zeros_like:
        return  # nothing of the image is left
    assert_same_function(Forward(_written(write, start), conv=nn.Conv2d(8, 8, 1)), IMAGE)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.conv(x).repeat_interleave(2, dim=2).repeat_interleave(3, -1),
        lambda m, x: torch.repeat_interleave(m.conv(x), 2, 1),
        lambda m, x: m.conv(x) / torch.linalg.norm(x, dim=1, keepdim=True),
        lambda m, x: m.conv(x) / torch.linalg.vector_norm(x, dim=1, keepdim=True),
        lambda m, x: torch.empty_like(x).copy_(m.conv(x)).relu(),
        lambda m, x: m.conv(x.type_as(m.conv.weight)),
    ],
)
def test_calls_in_other_words(function: Callable[..., Tensor]) -> None:
    assert_same_function(Forward(function, conv=nn.Conv2d(8, 8, 1)), IMAGE)


def _yolo(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    _, _, h, w = y.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid = torch.stack((columns, rows), 2).view(1, 1, h, w, 2).type_as(y)
    y = y.view(1, 2, 4, h, w).permute(0, 1, 3, 4, 2)
    return torch.cat([(y[..., :2].sigmoid() + grid) * 8, y[..., 2:].sigmoid()], -1).view(1, 2 * h * w, 4)


def test_a_detector_with_a_grid_of_places() -> None:
    module = Forward(_yolo, conv=nn.Conv2d(8, 8, 1))
    traced = trace(module, IMAGE)
    assert traced.others == {}
    assert_counts_every_weight(module, traced)


def test_grouped_queries() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        q, k = m.q(x).unflatten(-1, (4, 2)).transpose(1, 2), m.k(x).unflatten(-1, (2, 2)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, k.sigmoid(), enable_gqa=True)

    assert_same_function(Forward(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 4)), IMAGE)


def test_weights_of_cross_attention_are_named_by_their_rows() -> None:
    module = Forward(
        lambda m, x: m.a(*(t.flatten(2).transpose(1, 2) for t in (x.relu(), x, x)), need_weights=False)[0],
        a=nn.MultiheadAttention(8, 2, batch_first=True),
    )
    traced = trace(module, IMAGE)
    names = sorted(name for held in traced.weights.values() for name in held if name is not None)
    assert names == sorted(
        [f"a.in_proj_{kind}[{8 * i}:{8 * i + 8}]" for kind in ("bias", "weight") for i in range(3)]
        + ["a.out_proj.bias", "a.out_proj.weight"]
    )


def _windows(m: Any, x: Tensor) -> Tensor:
    y = x.view(1, 8, 2, 3, 2, 3).permute(0, 2, 4, 1, 3, 5).reshape(4, 8, 3, 3)
    return m.conv(y).reshape(1, 2, 2, 8, 3, 3).permute(0, 3, 1, 4, 2, 5).reshape(1, 8, 6, 6)


def test_a_convolution_of_windows() -> None:
    traced = trace(Forward(_windows, conv=nn.Conv2d(8, 8, 1)), IMAGE)
    assert "CONV" in ops_of(traced.graph)
    assert traced.others == {}
    traced = trace(Forward(_windows, conv=nn.Conv2d(8, 8, 3, padding=1)), IMAGE)
    assert traced.others == {"window_conv": 1}
    graphs = pack([traced.graph])
    assert cost.macs(graphs)[0] == 4 * 8 * 9 * 8 * 9
    assert cost.params(graphs)[0] == 8 * 8 * 9 + 8


def test_what_is_written_in_no_order_is_refused() -> None:
    def forward(_: Any, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, ::2] = 0
        return y

    with pytest.raises(InvalidGraphError, match="a slice with a step"):
        trace(Forward(forward), IMAGE)


# Convolutions of three dimensions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conv", "shape", "others"),
    [
        (nn.Conv3d(8, 4, (1, 3, 3), (1, 2, 1), (0, 1, 1), bias=False), (8, 1, 6, 6), {}),
        (nn.Conv3d(8, 4, (3, 1, 2), padding=(1, 0, 0), dilation=(1, 5, 2)), (8, 6, 1, 6), {}),
        (nn.Conv3d(4, 6, 1, groups=2), (4, 2, 6, 6), {}),
        (nn.Conv3d(2, 3, (3, 1, 1), padding="same"), (2, 4, 6, 6), {"window_conv": 1}),
        (nn.Conv3d(1, 5, (3, 3, 1), padding=(1, 1, 0)), (1, 6, 6, 8), {"window_conv": 1}),
    ],
)
def test_flat_kernels_of_three_dimensions(conv: nn.Conv3d, shape: tuple[int, ...], others: dict[str, int]) -> None:
    """As in lambda networks: each slice of the dimension that the kernel does not span is a map."""
    module = Forward(
        lambda m, x: m.last(m.conv(x.reshape(len(x), *shape)).flatten(1)), conv=conv, last=nn.LazyLinear(3)
    )
    module(torch.zeros(1, *IMAGE))
    if not others:
        assert_same_function(module, IMAGE)
    traced = trace(module.float(), IMAGE)
    assert traced.others == others
    results = conv(torch.zeros(1, *shape)).numel()
    assert cost.macs(pack([traced.graph]))[0] == results * conv.weight[0].numel() + 3 * results
    assert_counts_every_weight(module, traced)


@pytest.mark.parametrize("border", [{"padding": 1}, {"stride": (1, 2)}, {"padding": "same"}])
def test_convolutions_of_single_pixels_in_windows(border: dict[str, Any]) -> None:
    """A border or a step makes them more than a layer on every pixel."""
    module = Forward(
        lambda m, x: m.conv(x.unflatten(3, (2, 3)).movedim(3, 1).flatten(0, 1)), conv=nn.Conv2d(8, 2, 1, **border)
    )
    traced = trace(module, IMAGE)
    assert traced.others == ({} if "same" in border.values() else {"window_conv": 1})
    assert cost.macs(pack([traced.graph]))[0] == module(torch.zeros(1, *IMAGE)).numel() * 8
