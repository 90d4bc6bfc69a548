"""PyTorch in: what modules become, and that it computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from space_checks import graph_hash
from torch import Tensor, nn
from torch_modules import (
    IMAGE,
    Forward,
    assert_counts_every_weight,
    assert_same_function,
    ops_of,
    traced_ops,
)

from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import Column, pack
from gennape.search_spaces.importing.torch import from_torch, trace

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_small_network() -> None:
    module = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish(), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )
    b = GraphBuilder()
    x = b.relu(b.batchnorm(b.conv(b.input(3, 32, 32), 8, 3, 2), 1e-3))
    x = b.maxpool(b.hardswish(b.depthwise(x, 3, bias=True)), 3, 2, 1, ceil_mode=True)
    b.output(b.linear(b.mean(x), 10))
    traced = trace(module, (3, 32, 32))
    assert graph_hash(traced.graph) == graph_hash(b.build())
    assert traced.others == {}
    assert traced.weights[2] == ("1.weight", "1.bias", "1.running_mean", "1.running_var")
    assert_counts_every_weight(module, traced)


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        ((F.relu, torch.relu, Tensor.relu, torch.relu_, nn.ReLU(True), lambda x: x.clamp(min=0)), ["RELU"]),
        ((F.relu6, nn.ReLU6(True), nn.Hardtanh(0, 6), lambda x: torch.clamp(x, 0, 6)), ["RELU6"]),
        ((F.silu, nn.SiLU(True)), ["SWISH"]),
        ((F.hardswish, nn.Hardswish(True)), ["HARDSIGMOID", "MUL"]),
        ((F.hardsigmoid, nn.Hardsigmoid(True)), ["HARDSIGMOID"]),
        ((torch.sigmoid, Tensor.sigmoid_, F.sigmoid, nn.Sigmoid()), ["SIGMOID"]),
        ((F.gelu, nn.GELU()), ["GELU"]),
        ((lambda x: x.softmax(1), nn.Softmax(1), nn.Softmax2d()), ["SOFTMAX"]),
        ((lambda x: x.mean((2, 3), keepdim=True), nn.AdaptiveAvgPool2d(1), lambda x: x.mean((-1, -2))), ["MEAN"]),
        ((lambda x: x + x, lambda x: x.add_(x), lambda x: torch.add(input=x, other=x)), ["ADD"]),
        ((lambda x: x * 2, lambda x: 2 * x, lambda x: x.mul(2.0), lambda x: x / 0.5), ["SCALE"]),
        ((lambda x: x + 1, lambda x: 1 + x, lambda x: x - -1, lambda x: x.sub_(-1)), ["SHIFT"]),
        ((lambda x: x * 0, lambda x: 0 * x), ["ZERO"]),
        ((lambda x: x * 1, lambda x: x + 0, Tensor.contiguous, nn.Dropout(), Tensor.clone, Tensor.double), []),
        ((lambda x: -x, Tensor.neg), ["SCALE"]),
        ((lambda x: 3 - x,), ["SCALE", "SHIFT"]),
        ((lambda x: torch.cat([x, x], 1), lambda x: torch.concat((x, x), dim=-3)), ["CONCAT"]),
        ((lambda x: x[:, :4], lambda x: x.chunk(2, 1)[0], lambda x: torch.split(x, 4, 1)[0]), ["SLICE"]),
        ((lambda x: F.pad(x, (1, 1, 1, 1)), nn.ZeroPad2d(1)), ["PAD"]),
        ((lambda x: F.interpolate(x, scale_factor=2), nn.Upsample(scale_factor=2)), ["RESIZE"]),
        ((lambda x: F.pixel_shuffle(x, 2), nn.PixelShuffle(2)), ["DEPTHTOSPACE"]),
        ((F.elu, nn.ELU(True), F.mish, torch.exp), ["OTHER"]),
        ((Tensor.sqrt_, torch.square, torch.rsqrt, torch.reciprocal, lambda x: x**2, lambda x: x**-1.5), ["POWER"]),
        ((lambda x: x - x.relu(), lambda x: torch.subtract(x, x.relu())), ["RELU", "SCALE", "ADD"]),
    ],
)  # fmt: skip
def test_each_function_in_all_its_forms(variants: tuple[Callable[[Tensor], Any], ...], expected: list[str]) -> None:
    graphs = [from_torch(Forward(lambda _, x, f=f: f(x)), IMAGE) for f in variants]
    seen = [[op for op in ops_of(graph) if "RELU" in expected or op != "RELU"] for graph in graphs]
    assert seen == [expected] * len(graphs)
    if expected not in (["OTHER"], ["POWER"]):  # of which each variant is another
        height = graphs[0].nodes[-1, Column.H_OUT]
        assert len({graph_hash(graph) for graph in graphs if graph.nodes[-1, Column.H_OUT] == height}) == 1


def test_glu_is_its_parts() -> None:
    assert sorted(traced_ops(lambda x: F.glu(x, 1))) == ["MUL", "SIGMOID", "SLICE", "SLICE"]


def test_pools_say_only_what_matters() -> None:
    """Rounding that changes nothing and padding that is not there leave no trace."""
    plain = from_torch(nn.AvgPool2d(2), IMAGE)
    assert graph_hash(plain) == graph_hash(from_torch(nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), IMAGE))
    assert graph_hash(plain) == graph_hash(from_torch(nn.AdaptiveAvgPool2d(3), IMAGE))
    assert traced_ops(nn.AdaptiveAvgPool2d(6)) == []
    assert traced_ops(nn.AdaptiveMaxPool2d(1)) == ["MAXPOOL"]
    assert traced_ops(nn.AdaptiveAvgPool2d(4)) == ["OTHER"]


def test_resizes_that_are_no_plain_resize() -> None:
    assert traced_ops(lambda x: F.interpolate(x, size=(6, 6))) == []
    assert traced_ops(lambda x: F.interpolate(x, scale_factor=1.1)) == ["OTHER"], (
        "1.1 x 6 is 6: pixels by 1.1, not by 1"
    )
    assert traced_ops(lambda x: F.interpolate(x, size=9, mode="bilinear", antialias=True)) == ["OTHER"]


def test_channels_last_costs_no_node() -> None:
    """The block of ConvNeXt: normalisation and matrices on the last dimension are those of channels."""

    def block(m: Any, x: Tensor) -> Tensor:
        y = m.mlp(m.norm(m.conv(x).permute(0, 2, 3, 1)))
        y = (m.gamma * y).permute(0, 3, 1, 2)
        return x + y

    module = Forward(
        block,
        conv=nn.Conv2d(8, 8, 7, padding=3, groups=8),
        norm=nn.LayerNorm(8, eps=1e-6),
        mlp=nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)),
        gamma=nn.Parameter(torch.randn(8)),
    )
    assert ops_of(from_torch(module, IMAGE)) == ["DEPTHWISE", "LAYERNORM", "LINEAR", "GELU", "LINEAR", "SCALE", "ADD"]
    assert_counts_every_weight(module, trace(module, IMAGE))
    assert_same_function(module, IMAGE)


def test_channel_shuffle_is_two_views_around_a_permutation() -> None:
    def shuffle(x: Tensor) -> Tensor:
        batch, c, h, w = x.shape
        return F.max_pool2d(x.view(batch, 2, c // 2, h, w).transpose(1, 2).reshape(batch, c, h, w), 2)

    assert traced_ops(shuffle) == ["RESHAPE", "PERMUTE", "RESHAPE", "MAXPOOL"]
    assert traced_ops(lambda x: F.max_pool2d(F.channel_shuffle(x, 2), 2)) == [
        "RESHAPE",
        "PERMUTE",
        "RESHAPE",
        "MAXPOOL",
    ]
    assert_same_function(Forward(lambda _, x: shuffle(x)), IMAGE)


def test_rearrangements_that_three_axes_cannot_hold_are_several() -> None:
    def windows(x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1).view(1, 2, 3, 2, 3, 8).permute(0, 1, 3, 2, 4, 5).reshape(4, 9, 8)
        return F.layer_norm(x, (8,))

    operations = traced_ops(windows)
    assert set(operations[:-1]) == {"RESHAPE", "PERMUTE"}
    assert operations[-1] == "LAYERNORM"


def test_views_that_are_undone_leave_no_node() -> None:
    assert traced_ops(lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).view(1, 8, 6, 6).relu()) == ["RELU"]
    assert traced_ops(lambda x: x.mean((2, 3)).flatten(1)[:, :, None, None].squeeze().unsqueeze(0)) == ["MEAN"]


def test_gates_spread_over_maps() -> None:
    """A squeeze-excitation written with an explicit repetition; its gate may come first."""

    def gate(m: Any, x: Tensor) -> Tensor:
        g = m.fc(x.mean((2, 3))).sigmoid().view(1, -1, 1, 1).expand_as(x)
        return g * x

    module = Forward(gate, fc=nn.Linear(8, 8))
    graph = from_torch(module, IMAGE)
    assert ops_of(graph) == ["MEAN", "LINEAR", "SIGMOID", "MUL"]
    assert [source for source, target in graph.edges.tolist() if target == 4] == [0, 3], "the map comes first"


def test_einsum_is_a_matrix_product_or_a_layer() -> None:
    assert traced_ops(lambda x: torch.einsum("bchw,bcvw->bchv", x, x)) == ["MATMUL"]
    module = Forward(lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.weight), weight=nn.Parameter(torch.randn(8, 5)))
    traced = trace(module, IMAGE)
    assert ops_of(traced.graph) == ["LINEAR"]
    assert_counts_every_weight(module, traced)
    assert cost.macs(pack([traced.graph]))[0] == 8 * 5 * 36


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x[..., 0::2, 0::2], x[..., 1::2, 1::2]], 1),
        lambda x: x.permute(0, 2, 3, 1)[:, 1:4, :, 2:].permute(0, 3, 1, 2),
        lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2),
        lambda x: torch.stack(x.unbind(1)[::3], 1),
        lambda x: x.transpose(1, 2) @ x.transpose(1, 2).transpose(2, 3),
        lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
        lambda x: F.pad(x, (0, 1, -1, 2), value=3.0),
        lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2), mode="constant").permute(0, 3, 1, 2),
        lambda x: F.pad(x, (2, 1, 1, 0), mode="reflect"),
        lambda x: F.pad(x.view(len(x), 48, 6, 1), (1, 2)).sigmoid(),
        lambda x: F.pad(x.flatten(1), (1, 2)),
        lambda x: F.pad(x.view(len(x), 2, 4, 6, 6), (0, 0, 0, 0, 1, 0, 0, 2), value=1.0),
        lambda x: F.pad(x.view(len(x), 2, 4, 6, 6).transpose(2, 3), (1, 1, 2, 0)),
        lambda x: F.pad(x.mean((2, 3), keepdim=True), (1, 0, 0, 1, 2, 2)),
        lambda x: F.pad(x.flatten(2).transpose(1, 2), (1, 2), mode="reflect"),
        lambda x: F.pad(x.mean((2, 3))[:, None], (2, 1), mode="circular"),
        lambda x: x.view(1, 4, 2, 6, 6).mean((3, 4)) if False else x.mean(3),
        lambda x: x.flatten(2).softmax(-1),
        lambda x: x.permute(0, 3, 1, 2).contiguous().softmax(1),
        lambda x: x.reshape(x.shape[0], 4, -1)[:, 1:3].flatten(1),
        lambda x: x.reshape(x.shape[0], 8, 4, 9)[:, ::2, 1::2].flatten(1),
        lambda x: x[:, 3:4] * x + x.mean((2, 3), keepdim=True),
        lambda x: x.movedim(1, 3) + x.permute(0, 2, 3, 1),
        lambda x: x.narrow(1, 2, 4).tile(1, 1, 1, 1),
        F.instance_norm,
        lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
        lambda x: F.max_pool1d(x.flatten(2), 4),
        lambda x: F.interpolate(x, size=(9, 4), mode="bilinear", align_corners=True),
        lambda x: F.pixel_unshuffle(x, 3),
        lambda x: torch.cat([x.unflatten(2, (2, -1))] * 2, 2).flatten(2, 3),
        lambda x: torch.cat([x[:, :0], x[:, 2:].relu(), x[:, 8:]], 1),
        lambda x: F.max_pool2d(x.unflatten(1, (2, 4)).flatten(0, 1), 2).view(len(x), -1),
        lambda x: F.avg_pool2d(_windows(x), (1, 3)).view(len(x), -1),
        lambda x: F.adaptive_max_pool2d(_windows(x), 1).view(len(x), -1),
        lambda x: F.interpolate(_windows(x), scale_factor=2.0).view(len(x), -1),
        lambda x: F.pixel_shuffle(_windows(x), 2).view(len(x), -1),
        lambda x: F.max_pool1d(x.transpose(1, 2).flatten(0, 1), 2).view(len(x), -1),
    ],
)  # fmt: skip
def test_movements_compute_the_same(function: Callable[[Tensor], Tensor]) -> None:
    # The last layer takes all numbers in the tensor's own order, so that the graph cannot leave it another.
    size = function(torch.zeros(1, *IMAGE)).numel()
    module = Forward(lambda m, x: m.last(function(x).flatten(1)), last=nn.Linear(size, 3))
    assert_same_function(module, IMAGE)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 4, (3, 2), (2, 1), (1, 0), dilation=(1, 2), groups=2),
        nn.Conv2d(8, 4, 3, padding="same", dilation=2),
        nn.Conv2d(8, 4, 4, padding="same"),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, groups=2),
        nn.GroupNorm(2, 8),
        nn.InstanceNorm2d(8, affine=True),
        nn.BatchNorm2d(8, affine=False),
        nn.LayerNorm([8, 6, 6]),
        nn.PReLU(8),
        nn.LeakyReLU(0.2),
        nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 4, 5, 2, 2), nn.BatchNorm1d(4)),
        nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(192, 5)),
        nn.Sequential(nn.Flatten(), nn.Linear(288, 4)),
    ],
    ids=str,
)
def test_layers_compute_the_same(layer: nn.Module) -> None:
    assert_counts_every_weight(layer, trace(layer, IMAGE))
    assert_same_function(layer, IMAGE)


def _windows(x: Tensor) -> Tensor:
    """Windows of 3x3 pixels as a batch of maps."""
    return x.unflatten(3, (2, 3)).unflatten(2, (2, 3)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


# Learnt numbers -------------------------------------------------------------------------------------------------------


def test_learnt_numbers_are_counted_where_they_meet_the_image() -> None:
    weight, gain = nn.Parameter(torch.randn(4, 8, 3, 3)), nn.Parameter(torch.randn(4, 1, 1, 1))
    module = Forward(
        lambda m, x: F.conv2d(x, m.weight / m.weight.std((1, 2, 3), keepdim=True) * m.gain), weight=weight, gain=gain
    )
    traced = trace(module, IMAGE)
    assert ops_of(traced.graph) == ["CONV"], "a filter computed of weights is a filter"
    assert traced.weights == {1: (None,)}
    assert cost.node_params(pack([traced.graph]))[1] == 4 * 8 * 9 + 4


def test_buffers_keep_their_names_in_other_shapes() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.cat([m.token.expand(x.shape[0], -1, -1), x.flatten(2)], 2) + m.table[2:10].view(8, 37)
        y: Tensor = (x * m.scale[None]).relu() + m.scale.T.reshape(8, 1)
        return y

    module = Forward(forward, token=torch.randn(8, 1), table=torch.randn(12, 37), scale=torch.randn(8, 1))
    traced = trace(module, IMAGE)
    names = [traced.weights[node] for node in sorted(traced.weights)]
    assert names == [("token",), ("table[2:10]",), ("scale",), ("scale",)]
    assert_same_function(Forward(lambda m, x: x * m.scale.view(8, 1, 1), scale=torch.rand(1, 8)), IMAGE)


def test_buffers_that_were_written_or_turned_have_no_name() -> None:
    def written(m: Any, x: Tensor) -> Tensor:
        m.table.mul_(2)
        y: Tensor = x + m.table.view(8, 1, 1)
        return y

    assert trace(Forward(written, table=torch.randn(8)), IMAGE).weights == {1: (None,)}
    turned = Forward(lambda m, x: x + m.table.T[:, :, None], table=torch.randn(6, 8))
    assert trace(turned, IMAGE).weights == {1: (None,)}


def test_fixed_filters_learn_nothing() -> None:
    module = Forward(lambda m, x: F.conv2d(x, m.blur, groups=8), blur=torch.ones(8, 1, 3, 3) / 9)
    traced = trace(module, IMAGE)
    assert traced.others == {"fixed_conv": 1}
    assert cost.params(pack([traced.graph]))[0] == 0
    assert cost.macs(pack([traced.graph]))[0] == 8 * 9 * 16


def test_a_bias_of_which_a_part_is_learnt_is_added() -> None:
    """BEiT: queries and values have a bias, keys have zeros."""
    module = Forward(
        lambda m, x: F.linear(x.mean((2, 3)), m.weight, torch.cat([m.bias, m.zeros, m.bias * 2])),
        weight=nn.Parameter(torch.randn(12, 8)),
        bias=nn.Parameter(torch.randn(4)),
        zeros=torch.zeros(4),
    )
    traced = trace(module, IMAGE)
    assert ops_of(traced.graph) == ["MEAN", "LINEAR", "SHIFT"]
    assert_counts_every_weight(module, traced)


def test_class_token_and_positions() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.cat([m.token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1) + m.position
        y: Tensor = m.norm(x)[:, 0]
        return y

    token, position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 37, 8))
    module = Forward(forward, token=token, position=position, norm=nn.LayerNorm(8))
    traced = trace(module, IMAGE)
    assert ops_of(traced.graph) == ["RESHAPE", "EXTEND", "SHIFT", "LAYERNORM", "SLICE"]
    assert traced.others == {}
    assert traced.graph.nodes[2, Column.C_OUT : Column.W_OUT + 1].tolist() == [8, 37, 1]
    assert_counts_every_weight(module, traced)


def test_tables_that_are_looked_up_count_once() -> None:
    """A relative position bias is gathered from a learnt table."""
    table, index = nn.Parameter(torch.randn(11, 8)), torch.randint(0, 11, (36,))
    module = Forward(
        lambda m, x: (x + m.table[m.index].T.reshape(1, 8, 6, 6)).relu() + m.table[m.index].T.reshape(1, 8, 6, 6),
        table=table,
        index=index,
    )
    traced = trace(module, IMAGE)
    assert ops_of(traced.graph) == ["SHIFT", "RELU", "SHIFT"]
    assert_counts_every_weight(module, traced)
    assert traced.shared == {"table": 2}


def test_shared_layers_count_once_and_their_uses_are_told() -> None:
    module = Forward(lambda m, x: m.conv(m.conv(x)), conv=nn.Conv2d(8, 8, 1))
    traced = trace(module, IMAGE)
    assert cost.params(pack([traced.graph]))[0] == 72
    assert traced.shared == {"conv.weight": 2, "conv.bias": 2}


def test_a_module_that_counts_its_calls_counts_none_of_the_tracing() -> None:
    class _Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(IMAGE[0], 8, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x = self.conv(x)
            return x.mean((2, 3)) * (2 if float(x.mean()) > 100 else 1)  # it asks for a number, so it really runs

    module = _Counting()
    assert trace(module, IMAGE).took_numbers
    assert module.calls.item() == 0
