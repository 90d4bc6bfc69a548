"""Zero-cost proxies: what an untrained network's weights, gradients and activations tell of its accuracy.

Each proxy is a function of a compiled network, a batch of images and their labels; larger promises more. Normalisations
work on the batch, as in training. Definitions are those of Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS"
(ICLR 2021), and Mellor et al., "Neural Architecture Search without Training" (arXiv 2006.04647, versions 1 and 3), in
the variants whose scores NAS-Bench-Suite-Zero (Krishnakumar et al., NeurIPS 2022) publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int64
from torch import Tensor, nn

from gennape.errors import InvalidDataError
from gennape.predictors.proxies import measures
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, PackedGraphs
from gennape.search_spaces.graphs.module import GraphModule, compile_graph
from gennape.search_spaces.graphs.ops import Op

#: A score of a network by images [b, c, h, w], float32, and labels [b], int64.
Proxy = Callable[[GraphModule, Tensor, Tensor], float]

#: Images of a batch that is drawn because none was given.
BATCH = 64


def proxy_scores(
    graphs: PackedGraphs,
    images: Float32[Tensor, "b c h w"] | None,
    labels: Int64[Tensor, " n"] | None,
    rng: np.random.Generator,
    proxies: Mapping[str, Proxy] | None = None,
) -> Float64[np.ndarray, "g p"]:
    """Scores of each graph by each of ``proxies`` (default :data:`PROXIES`), columns in their order.

    ``images`` are normalised as for training; for a graph made for another size they are resized. Without images and
    labels, :data:`BATCH` images of standard normal noise and uniform labels are drawn. Every graph starts from the same
    random numbers, so that its row does not depend on the other graphs; all its proxies see the same weights
    (:func:`draw_weights`). A score that is not a finite number is NaN, never 0: the network has no such score.

    Raises :class:`InvalidDataError` for images that do not fit the labels or a graph, and
    :class:`gennape.errors.InvalidGraphError` for a graph that cannot be executed.
    """
    chosen = PROXIES if proxies is None else proxies
    for_weights, for_images = (int(seed) for seed in rng.integers(2**63, size=2))
    scores = np.empty((len(graphs), len(chosen)))
    for row in range(len(graphs)):
        module = untrained(graphs[row], np.random.default_rng(for_weights))
        batch = _batch(module, images, labels, np.random.default_rng(for_images))
        scores[row] = [proxy(module, *batch) for proxy in chosen.values()]
    return np.where(np.isfinite(scores), scores, np.nan)


def untrained(graph: ComputationGraph, rng: np.random.Generator) -> GraphModule:
    """The compiled network of ``graph`` with weights of :func:`draw_weights`; raises as ``compile_graph`` does."""
    with torch.random.fork_rng(devices=[]):  # PyTorch draws weights of its own, which must not use up a user's numbers
        module = compile_graph(graph)
    draw_weights(module, rng)
    return module


def draw_weights(module: nn.Module, rng: np.random.Generator) -> None:
    """Draw weights and biases of convolutions and fully connected layers, uniform within ±1 / √fan-in.

    This is the initialisation of He et al. (2015) for a slope of √5, PyTorch's own, under which the scores of
    NAS-Bench-Suite-Zero were computed. Other learnt tensors keep their constant start.
    """
    for layer in module.modules():
        if isinstance(layer, measures.LAYERS):
            bound = layer.weight[0].numel() ** -0.5
            for tensor in (layer.weight, layer.bias):
                if tensor is not None:
                    values = (2 * rng.random(tuple(tensor.shape), np.float32) - 1) * np.float32(bound)
                    tensor.data.copy_(torch.from_numpy(values))


def _batch(
    module: GraphModule, images: Tensor | None, labels: Tensor | None, rng: np.random.Generator
) -> tuple[Float32[Tensor, "b c h w"], Int64[Tensor, " b"]]:
    """Images and labels as the network takes them."""
    channels, *size = module.image_shape
    (outputs,) = (step.row[Column.C_OUT] for step in module.plan if step.op is Op.OUTPUT)
    if images is None and labels is None:
        images = torch.from_numpy(rng.standard_normal((BATCH, channels, *size), np.float32))
        labels = torch.from_numpy(rng.integers(outputs, size=BATCH))
    if images is None or labels is None or len(images) != len(labels) or len(images) < 2:
        got = ["none" if part is None else str(len(part)) for part in (images, labels)]
        raise InvalidDataError(
            "proxies take a batch of at least two images, each with a label, or neither of them (noise is drawn); "
            f"got images: {got[0]}, labels: {got[1]}"
        )
    if images.shape[1] != channels:
        raise InvalidDataError(f"the network takes images of {channels} channels, got {images.shape[1]}")
    if int(labels.min()) < 0 or int(labels.max()) >= outputs:
        raise InvalidDataError(
            f"the network has {outputs} outputs, so labels are 0 to {outputs - 1}; got {int(labels.min())} to "
            f"{int(labels.max())}; build the graphs for as many classes as the labels have"
        )
    if images.shape[2:] != tuple(size):
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last), labels  # PyTorch is up to twice as fast so


#: The proxies by name; a new one is one line.
PROXIES: Mapping[str, Proxy] = MappingProxyType(
    {
        "synflow": measures.synflow,
        "jacov": measures.jacov,
        "fisher": measures.fisher,
        "snip": measures.snip,
        "grad_norm": measures.grad_norm,
        "grasp": measures.grasp,
        "nwot": measures.nwot,
        "params": measures.params,
        "flops": measures.flops,
    }
)
