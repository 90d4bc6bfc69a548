"""One network is one graph, however a file or a module lays out its images and its result."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import IMAGE, graph_of, model_of, node
from space_checks import graph_hash
from torch import Tensor, nn
from torch_modules import Forward

from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.graph import Column, pack, validate
from gennape.search_spaces.importing.onnx import from_onnx
from gennape.search_spaces.importing.torch import from_torch, trace

C, H, W = IMAGE


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 2 * 2, 5)
    )


def _turned(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("forward", "sizes"),
    [
        (lambda m, x: m.net(_turned(x)), (H, W, C)),
        (lambda m, x: m.net(_turned(x).contiguous().permute(0, 2, 3, 1).permute(0, 3, 1, 2)), (H, W, C)),
        (lambda m, x: m.net(x)[:, :, None, None], IMAGE),
        (lambda m, x: m.net(x).reshape(-1, 5, 1).transpose(1, 2), IMAGE),
        (lambda m, x: m.net(x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)).unsqueeze(-1).squeeze(-1), IMAGE),
    ],
)
def test_layouts_of_images_and_results_are_no_part_of_a_network(forward: object, sizes: tuple[int, int, int]) -> None:
    net = _network()
    plain = from_torch(net, IMAGE)
    other = from_torch(Forward(forward, net=net), sizes)  # type: ignore[arg-type]
    validate(pack([other]))
    assert graph_hash(other) == graph_hash(plain)
    assert other.nodes[0, Column.C_OUT : Column.W_OUT + 1].tolist() == list(IMAGE)


def test_results_of_maps_in_any_shape() -> None:
    convolution = nn.Conv2d(3, 4, 3)
    plain = graph_hash(from_torch(convolution, IMAGE))
    for change in (
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.flatten(1),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.reshape(1, 2, 2, -1),
        lambda x: x.reshape(1, 2, 2, 6, 8).permute(0, 1, 3, 4, 2),
    ):
        assert graph_hash(from_torch(Forward(lambda m, x, f=change: f(m.c(x)), c=convolution), IMAGE)) == plain


def test_the_same_from_onnx() -> None:
    def build(b: GraphBuilder, x: Value) -> Value:
        return b.relu(b.conv(x, 4, 3, padding=0))

    layer = (node("Conv", "c w", "d"), node("Relu", "d", "e"))
    front = node("Transpose", "x", "c", perm=[0, 3, 1, 2])
    last = model_of(front, *layer, node("Transpose", "e", perm=[0, 2, 3, 1]), shape=(1, H, W, C), w=(4, 3, 3, 3))
    assert graph_hash(from_onnx(last).graph) == graph_hash(graph_of(build))
    flat = model_of(node("Identity", "x", "c"), *layer, node("Flatten", "e"), w=(4, 3, 3, 3))
    assert graph_hash(from_onnx(flat).graph) == graph_hash(graph_of(build))


def test_a_normalisation_before_the_turn_goes_with_it() -> None:
    """Keras models take bytes, channels last, and normalise them before the transpose."""
    mean = np.array([1.0, 2.0, 3.0], np.float32)
    nodes = [
        node("Mul", "x s", "a"),
        node("Sub", "a m", "b"),
        node("Transpose", "b", "c", perm=[0, 3, 1, 2]),
        node("Conv", "c w"),
    ]
    model = model_of(*nodes, shape=(1, H, W, C), s=np.float32(1 / 255), m=mean, w=(4, 3, 3, 3))
    front = [node("Mul", "x s", "a"), node("Sub", "a m", "b"), node("Conv", "b w")]
    first = model_of(*front, s=np.float32(1 / 255), m=mean.reshape(3, 1, 1), w=(4, 3, 3, 3))
    assert graph_hash(from_onnx(model).graph) == graph_hash(from_onnx(first).graph)


def test_one_channel_is_moved_by_a_reshape() -> None:
    convolution = nn.Conv2d(1, 4, 3)
    last = from_torch(Forward(lambda m, x: m.c(x.reshape(1, 1, 8, 10)), c=convolution), (8, 10, 1))
    assert graph_hash(last) == graph_hash(from_torch(convolution, (1, 8, 10)))


def test_permutations_that_compute_something_stay() -> None:
    """Height and width change places, or columns of an image with its colours first become channels."""
    square = nn.Conv2d(3, 4, 3)
    swapped = from_torch(Forward(lambda m, x: m.c(x.transpose(2, 3)), c=square), (3, 8, 8))
    assert graph_hash(swapped) != graph_hash(from_torch(square, (3, 8, 8)))
    columns = nn.Conv2d(8, 4, 3)
    turned = from_torch(Forward(lambda m, x: m.c(x.permute(0, 3, 1, 2)), c=columns), (3, 8, 8))
    assert turned.nodes[0, Column.C_OUT : Column.W_OUT + 1].tolist() == [3, 8, 8]


def test_slices_one_axis_after_another_are_one() -> None:
    once = from_torch(Forward(lambda _, x: x[:, 1:, 2:7:2, 3:].relu()), IMAGE)
    several = from_torch(Forward(lambda _, x: x[:, 1:][:, :, 2:7:2][:, :, :, 1:][..., 2:].relu()), IMAGE)
    assert graph_hash(several) == graph_hash(once)
    both = from_torch(Forward(lambda _, x: x[:, 1:] + x[:, 1:][:, :, :, :]), IMAGE)
    validate(pack([both]))


def test_weights_are_named_by_the_nodes_that_were_kept() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    traced = trace(Forward(lambda m, x: m.net(_turned(x)), net=net), (H, W, C))
    assert traced.weights == {1: ("net.0.weight", "net.0.bias")}
