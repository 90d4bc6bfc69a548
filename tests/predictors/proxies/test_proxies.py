"""Zero-cost proxies against what is derived on paper for networks of one or two layers, and against what must not
change a score."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from gennape.errors import InvalidDataError
from gennape.predictors.proxies import measures
from gennape.predictors.proxies.proxies import BATCH, PROXIES, draw_weights, proxy_scores, untrained
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.graph import ComputationGraph, pack
from gennape.search_spaces.graphs.module import GraphModule
from gennape.search_spaces.graphs.ops import Op

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "nb201.csv.gz"
seeds = st.integers(0, 2**32 - 1)

X = np.array([[1.0, 2.0], [-1.0, 0.5], [3.0, -2.0]])  # three images of two channels, one pixel
Y = np.array([0, 1, 1])
W = np.array([[0.5, -1.0], [2.0, 0.25]])


def built(shape: tuple[int, int, int], *layers: Callable[[GraphBuilder, Value], Value]) -> ComputationGraph:
    """A chain of layers."""
    b = GraphBuilder()
    x = b.input(*shape)
    for layer in layers:
        x = layer(b, x)
    b.output(x)
    return b.build()


def weighted(graph: ComputationGraph, *weights: object) -> GraphModule:
    """The network in float64 with these weights in its layers, in order of execution."""
    module = untrained(graph, np.random.default_rng(0)).double()
    layers = [layer for layer in module.modules() if isinstance(layer, measures.LAYERS)]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data.copy_(torch.tensor(weight, dtype=torch.float64).reshape(layer.weight.shape))
    return module


def small(seed: int = 0) -> tuple[GraphModule, torch.Tensor, torch.Tensor]:
    """A network in float64 with convolutions, normalisation, pool, branches and gate, six images and labels."""
    b = GraphBuilder()
    x = b.input(3, 8, 8)
    y = b.relu(b.batchnorm(b.conv(x, 4, 3)))
    z = b.mul(b.hardswish(b.depthwise(y, 3)), b.hardsigmoid(b.conv(b.mean(y), 4, bias=True)))
    b.output(b.linear(b.mean(b.relu6(b.concat(z, b.maxpool(y, 3, 1, 1)))), 5))
    rng = np.random.default_rng(seed)
    module = untrained(b.build(), rng).double()
    return module, torch.from_numpy(rng.standard_normal((6, 3, 8, 8))), torch.from_numpy(rng.integers(5, size=6))


def batch(pixels: object = X, labels: object = Y) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.tensor(pixels, dtype=torch.float64)
    return images.reshape(*images.shape, 1, 1), torch.tensor(labels)


# By hand --------------------------------------------------------------------------------------------------------------

LINEAR = built((2, 1, 1), lambda b, x: b.linear(x, 2, bias=False))
_LOGITS = X @ W.T
_P = np.exp(_LOGITS) / np.exp(_LOGITS).sum(1, keepdims=True)
_DELTA = (_P - np.eye(2)[Y]) / len(X)  # of the mean cross-entropy by the logits
_GRADIENT = _DELTA.T @ X


def test_softmax_regression() -> None:
    """Gradient (p - e) xᵀ; Hessian (diag p - p pᵀ) ⊗ x xᵀ, both averaged over images."""
    module, (images, labels) = weighted(LINEAR, W), batch()
    assert measures.grad_norm(module, images, labels) == pytest.approx(math.sqrt((_GRADIENT**2).sum()))
    assert measures.snip(module, images, labels) == pytest.approx(np.abs(W * _GRADIENT).sum())
    curved = sum((np.diag(p) - np.outer(p, p)) @ _GRADIENT @ np.outer(x, x) for p, x in zip(_P, X, strict=True)) / len(
        X
    )
    assert measures.grasp(module, images, labels) == pytest.approx(-(W * curved).sum())
    # Two weights to an output, each with half the mean square of output x gradient.
    expected = 2 * ((_LOGITS * _DELTA) ** 2).mean(0).sum() / 2
    assert measures.fisher(module, images, labels) == pytest.approx(expected)


def test_fisher_sums_over_pixels_before_it_squares() -> None:
    """A convolution of one channel whose mean over pixels is the logit: sum over pixels of a · g = logit · delta."""
    module = weighted(built((1, 1, 2), lambda b, x: b.conv(x, 2)), [0.5, -2.0])
    pixels = np.array([[1.0, 3.0], [-2.0, 0.0]])
    logits = pixels.mean(1)[:, None] * np.array([0.5, -2.0])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = ((logits * (p - np.eye(2)) / 2) ** 2).mean(0).sum() / 2  # one weight to a channel
    images = torch.from_numpy(pixels.reshape(2, 1, 1, 2))
    assert measures.fisher(module, images, torch.tensor([0, 1])) == pytest.approx(expected)


def test_grad_norm_adds_norms_of_layers() -> None:
    """z = v u x: the gradient by u is the sum of v · delta · x, by v that of delta · u x."""
    graph = built((1, 1, 1), lambda b, x: b.conv(x, 1), lambda b, x: b.linear(x, 2, bias=False))
    u, v, x = 3.0, np.array([1.0, -2.0]), np.array([1.0, -2.0])
    logits = np.outer(u * x, v)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = (p - np.eye(2)) / 2
    expected = abs(float(x @ delta @ v)) + float(np.linalg.norm(delta.T @ (u * x)))
    score = measures.grad_norm(weighted(graph, u, v), torch.from_numpy(x.reshape(2, 1, 1, 1)), torch.tensor([0, 1]))
    assert score == pytest.approx(expected)


@pytest.mark.parametrize("bend", ["relu", "relu6", "identity"])
def test_synflow_is_the_flow_through_magnitudes_of_every_layer(bend: str) -> None:
    """All paths carry |-30| · |100| = 3,000, once for each of two layers: no bound at 6, no normalisation, no sign."""
    graph = built(
        (1, 1, 1), lambda b, x: b.conv(x, 1), lambda b, x: b.batchnorm(x), lambda b, x: getattr(b, bend)(x),
        lambda b, x: b.conv(x, 1),
    )  # fmt: skip
    images, labels = batch([[7.0], [-1.0]], [0, 0])
    assert measures.synflow(weighted(graph, -30.0, 100.0), images, labels) == pytest.approx(math.log(6000))


def test_jacov_of_equal_and_of_uncorrelated_gradients() -> None:
    def entropy(*eigenvalues: float) -> float:
        return -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in eigenvalues)

    images, labels = batch()
    assert measures.jacov(weighted(LINEAR, W), images, labels) == pytest.approx(entropy(3, 0, 0), rel=1e-6)
    # Behind a ReLU the gradients are the masks 1100 and 1010, whose correlation is 0.
    graph = built((4, 1, 1), lambda b, x: b.relu(x), lambda b, x: b.linear(x, 1, bias=False))
    images, labels = batch([[5.0, 1.0, -1.0, -2.0], [2.0, -1.0, 3.0, -1.0]], [0, 0])
    assert measures.jacov(weighted(graph, [1.0] * 4), images, labels) == pytest.approx(entropy(1, 1))


RECTIFIERS: list[Callable[[GraphBuilder, Value], Value]] = [
    lambda b, x: b.relu(x),
    lambda b, x: b.relu6(x),
    lambda b, x: b.leakyrelu(x),
    lambda b, x: b.leakyrelu(x, params=1),
    lambda b, x: b.elementwise(Op.SWISH, x),
    lambda b, x: b.gelu(x),
    lambda b, x: b.hardswish(x),
]


@pytest.mark.parametrize("bend", RECTIFIERS)
def test_nwot_counts_agreeing_signs(bend: Callable[[GraphBuilder, Value], Value]) -> None:
    """Signs ++-- and +---: K = [[4, 3], [3, 4]], of determinant 7; a second ReLU of the first doubles K."""
    images, labels = batch([[5.0, 1.0, -1.0, -2.0], [2.0, -1.0, -3.0, -1.0]], [0, 0])
    assert measures.nwot(weighted(built((4, 1, 1), bend)), images, labels) == pytest.approx(math.log(7))
    twice = built((4, 1, 1), lambda b, x: b.relu(x), lambda b, x: b.relu(x))
    assert measures.nwot(weighted(twice), images, labels) == pytest.approx(math.log(28))


def test_sizes_are_those_of_the_graph() -> None:
    graphs = family("two_path").graphs(family("two_path").sample(np.random.default_rng(0), 3))
    sizes = {name: PROXIES[name] for name in ("params", "flops")}
    scores = proxy_scores(graphs, None, None, np.random.default_rng(0), sizes)
    np.testing.assert_array_equal(scores, np.stack([cost.params(graphs), cost.flops(graphs)], axis=1))


def test_weights_are_uniform_within_the_inverse_root_of_the_fan_in() -> None:
    graph = built((16, 4, 4), lambda b, x: b.conv(x, 64, 3, groups=4, bias=True))
    layer = next(m for m in untrained(graph, np.random.default_rng(0)).modules() if isinstance(m, measures.LAYERS))
    bound = 1 / math.sqrt(4 * 9)
    assert float(layer.weight.detach().abs().max()) <= bound
    # Of 2,304 uniform numbers: standard deviation bound / √3; the largest is within 1 % of the bound but for 1e-10.
    assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.06)
    assert float(layer.weight.detach().abs().max()) > 0.99 * bound
    assert 0 < float(layer.get_parameter("bias").detach().abs().max()) <= bound


# What must not change a score -----------------------------------------------------------------------------------------


@given(seed=seeds, order=st.permutations(range(6)))
@settings(max_examples=10, deadline=None)
def test_order_of_images_does_not_matter(seed: int, order: list[int]) -> None:
    module, images, labels = small(seed)
    for name, proxy in PROXIES.items():
        expected = proxy(module, images, labels)
        assert proxy(module, images[order], labels[order]) == pytest.approx(expected, rel=1e-6, abs=1e-12), name


@given(seed=seeds, factor=st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_scaling_that_keeps_the_function_keeps_saliencies(seed: int, factor: float) -> None:
    """Behind a ReLU a layer may pass its scale on to the next: |w · g| and a · g stay, as does the output."""
    graph = built((3, 4, 4), lambda b, x: b.conv(x, 4, 3), lambda b, x: b.relu(x), lambda b, x: b.conv(x, 3, 3))
    rng = np.random.default_rng(seed)
    module = untrained(graph, rng).double()
    images, labels = torch.from_numpy(rng.standard_normal((5, 3, 4, 4))), torch.from_numpy(rng.integers(3, size=5))
    kept = {name: PROXIES[name] for name in ("synflow", "jacov", "fisher", "snip", "nwot")}
    expected = {name: proxy(module, images, labels) for name, proxy in kept.items()}
    first, second = (layer for layer in module.modules() if isinstance(layer, measures.LAYERS))
    first.weight.data.mul_(factor)
    second.weight.data.div_(factor)
    for name, proxy in kept.items():
        assert proxy(module, images, labels) == pytest.approx(expected[name], rel=1e-6), name


def test_a_network_is_left_as_it_was() -> None:
    module, images, labels = small()
    module.eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    pixels, numbers = images.clone(), torch.random.get_rng_state()
    for proxy in PROXIES.values():
        proxy(module, images, labels)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert all(tensor.grad is None and tensor.requires_grad for tensor in module.parameters())
    assert not any(layer.training or layer._forward_hooks for layer in module.modules())
    assert all(norm.track_running_stats for norm in module.modules() if isinstance(norm, torch.nn.BatchNorm2d))
    assert torch.equal(images, pixels)
    assert not images.requires_grad
    assert torch.equal(torch.random.get_rng_state(), numbers)


def test_mode_and_running_statistics_do_not_matter() -> None:
    module, images, labels = small()
    expected = [proxy(module.train(), images, labels) for proxy in PROXIES.values()]
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d) and norm.running_mean is not None:
            norm.running_mean += 3
    assert [proxy(module.eval(), images, labels) for proxy in PROXIES.values()] == expected


def test_rows_do_not_depend_on_other_graphs_and_seeds_decide() -> None:
    space = family("nb201")
    graphs = space.graphs(np.array([[3, 1, 2, 4, 0, 1], [2, 2, 2, 2, 2, 2], [1, 3, 0, 3, 4, 1]]))
    rng = np.random.default_rng(2)
    images = torch.from_numpy(rng.standard_normal((4, 3, 16, 16), np.float32))  # resized to 32 x 32
    labels = torch.from_numpy(rng.integers(10, size=4))
    fast = {name: PROXIES[name] for name in ("synflow", "jacov", "snip", "nwot")}
    numbers = torch.random.get_rng_state()
    together = proxy_scores(graphs, images, labels, np.random.default_rng(0), fast)
    assert torch.equal(torch.random.get_rng_state(), numbers)
    last = proxy_scores(graphs.take(np.array([2])), images, labels, np.random.default_rng(0), fast)
    np.testing.assert_array_equal(together[2:], last)
    other = proxy_scores(graphs, images, labels, np.random.default_rng(1), fast)
    assert (together != other).all()


# Edges ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hiaml", "nb201", "two_path"])
def test_every_proxy_scores_networks_of_families(name: str) -> None:
    space = family(name)
    graphs = space.graphs(space.sample(np.random.default_rng(0), 1))
    rng = np.random.default_rng(0)
    (step,) = (step for step in untrained(graphs[0], rng).plan if step.op is Op.INPUT)
    images = torch.from_numpy(rng.standard_normal((3, *step.row[1:4]), np.float32))
    scores = proxy_scores(graphs, images, torch.tensor([0, 1, 2]), rng)
    assert scores.shape == (1, len(PROXIES))
    assert np.isfinite(scores).all()


def test_noise_is_drawn_where_no_images_are_given() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(_module: GraphModule, images: torch.Tensor, labels: torch.Tensor) -> float:
        seen.append((images, labels))
        return 1.0

    scores = proxy_scores(pack([LINEAR, LINEAR]), None, None, np.random.default_rng(0), {"watch": watch})
    assert scores.tolist() == [[1.0], [1.0]]
    (images, labels), (same, _) = seen
    assert images.shape == (BATCH, 2, 1, 1)
    assert set(labels.tolist()) == {0, 1}
    assert torch.equal(images, same)


def test_what_cannot_be_scored_is_nan() -> None:
    weightless = built((2, 2, 2), lambda b, x: b.relu(x))
    deaf = built((2, 2, 2), lambda b, x: b.zero(x), lambda b, x: b.linear(b.mean(x), 2))
    scores = proxy_scores(pack([weightless, deaf]), None, None, np.random.default_rng(0))
    missing = [{name for name, score in zip(PROXIES, row, strict=True) if np.isnan(score)} for row in scores]
    # Without layers nothing has a gradient; of a network that ignores its input the images have all the same, none.
    assert missing[0] >= {"synflow", "fisher", "snip", "grad_norm", "grasp"}
    assert missing[1] >= {"synflow", "jacov", "nwot"}
    assert not {"params", "flops"} & (missing[0] | missing[1])


def test_infinite_scores_are_nan() -> None:
    scores = proxy_scores(pack([LINEAR]), None, None, np.random.default_rng(0), {"broken": lambda *_: -math.inf})
    assert np.isnan(scores).all()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(4, 2, 1, 1), None, "got images: 4, labels: none"),
        (None, torch.tensor([0, 1]), "got images: none, labels: 2"),
        (torch.zeros(3, 2, 1, 1), torch.tensor([0, 1]), "got images: 3, labels: 2"),
        (torch.zeros(1, 2, 1, 1), torch.tensor([0]), "at least two images"),
        (torch.zeros(2, 3, 1, 1), torch.tensor([0, 1]), "images of 2 channels, got 3"),
        (torch.zeros(2, 2, 1, 1), torch.tensor([0, 2]), "labels are 0 to 1; got 0 to 2"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    images: torch.Tensor | None, labels: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(InvalidDataError, match=message):
        proxy_scores(pack([LINEAR]), images, labels, np.random.default_rng(0))


def test_cheap_scores_rank_as_the_published_ones() -> None:
    """Those that depend on no image; the others take minutes: ``benchmarks/proxies.py``."""
    if not SHARED.is_file():
        pytest.skip("needs published scores, which are not part of this repository")
    space = family("nb201")
    published = pd.read_csv(SHARED).dropna(subset=["synflow"]).sample(40, random_state=1)
    graphs = space.graphs(np.stack([space.decode(arch) for arch in published.arch]))
    chosen = {name: PROXIES[name] for name in ("synflow", "params", "flops")}
    images, labels = torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])
    scores = proxy_scores(graphs, images, labels, np.random.default_rng(0), chosen)
    for column, name in enumerate(chosen):
        assert spearmanr(scores[:, column], published[name]).statistic > 0.99, name
    np.testing.assert_allclose(scores[:, 1] / 1e6, published.params, rtol=1e-5)  # six digits


def test_drawing_weights_spares_constant_starts() -> None:
    module = untrained(built((2, 2, 2), lambda b, x: b.scale(b.batchnorm(x), axes=(0,))), np.random.default_rng(0))
    before = [tensor.clone() for tensor in module.parameters()]
    draw_weights(module, np.random.default_rng(1))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
