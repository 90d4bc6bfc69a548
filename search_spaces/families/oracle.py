"""Measure a network with weights and an image that are generated from a counter, without files of weights.

Equal networks then have equal layers and logits on every machine, which conformance compares.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from gennape.search_spaces.graphs.graph import ComputationGraph
from gennape.search_spaces.graphs.module import compile_graph

_BLOCK = 1 << 20  # the streams of a layer's tensors start this far apart


@dataclass(frozen=True, slots=True)
class Measurement:
    """Measurements of one forward pass with the oracle's weights."""

    params: int
    macs: int
    out_shape: list[int]
    #: One string per executed convolution and fully connected layer, sorted.
    layers: list[str]
    logits: Float64[np.ndarray, " classes"]

    @property
    def conv_linear_sha256(self) -> str:
        """SHA-256 of the layers, one a line."""
        return hashlib.sha256("\n".join(self.layers).encode()).hexdigest()


def measure(graph: ComputationGraph) -> Measurement:
    """Run the compiled network once in float64 under the oracle's weights and input (batch of one).

    Convolutions and fully connected layers are recorded as they execute.
    """
    with torch.device("meta"):  # skip drawing the default initial weights
        module = compile_graph(graph)
    module = module.double().to_empty(device="cpu").eval()
    fill_weights(module)
    layers: list[str] = []
    macs: list[int] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append(_describe(layer, output))
        macs.append(_macs(layer, inputs[0], output))

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(record)
    shape = (1, *module.image_shape)
    image = torch.from_numpy(2 * uniform(math.prod(shape), 7 * _BLOCK) - 1).view(shape)
    with torch.inference_mode(), _one_thread():
        logits = module(image)
    params = sum(parameter.numel() for parameter in module.parameters())
    return Measurement(params, sum(macs), list(logits.shape), sorted(layers), logits.flatten().numpy())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread: in float64 a depthwise convolution is a parallel region per channel, which on
    busy cores takes twenty times as long in two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _describe(layer: nn.Module, output: Tensor) -> str:
    if isinstance(layer, nn.Conv2d):
        pairs = {"k": layer.kernel_size, "s": layer.stride, "p": layer.padding, "d": layer.dilation}
        window = " ".join(f"{key}{pair[0]}x{pair[1]}" for key, pair in pairs.items())
        h, w = output.shape[2:]
        bias = int(layer.bias is not None)
        return f"conv i{layer.in_channels} o{layer.out_channels} {window} g{layer.groups} b{bias} @{h}x{w}"
    return f"linear i{layer.in_features} o{layer.out_features} b{int(layer.bias is not None)}"


def _macs(layer: nn.Module, x: Tensor, output: Tensor) -> int:
    """Multiply-accumulates of one executed layer, bias not counted."""
    if isinstance(layer, nn.Conv2d):
        return output.numel() * layer.weight[0].numel()
    return x.shape[-1] * output.numel()


def fill_weights(module: nn.Module) -> None:
    """Set all weights, biases and statistics to the oracle's, which depend on their shapes alone."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = math.sqrt((6 if isinstance(layer, nn.Conv2d) else 3) / layer.weight[0].numel())
                _fill(layer.weight, -bound, 2 * bound, 0)
                if layer.bias is not None:
                    _fill(layer.bias, -0.1, 0.2, 1)
            elif isinstance(layer, nn.BatchNorm2d):
                tensors = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
                ranges = ((0.8, 0.4), (-0.1, 0.2), (-0.1, 0.2), (1.0, 0.5))
                for stream, (tensor, (low, width)) in enumerate(zip(tensors, ranges, strict=True)):
                    _fill(tensor, low, width, stream)


def _fill(tensor: Tensor | None, low: float, width: float, stream: int) -> None:
    if tensor is not None:
        values = uniform(tensor.numel(), stream * _BLOCK) * width + low
        tensor.copy_(torch.from_numpy(values).view(tensor.shape))


def uniform(n: int, offset: int) -> Float64[np.ndarray, " n"]:
    """Numbers ``offset`` to ``offset + n`` of the oracle's stream in [0, 1): splitmix64 of the counter (Steele et al.,
    2014)."""
    return _stream(max(16, (n - 1).bit_length()), offset)[:n]


@lru_cache(maxsize=32)
def _stream(bits: int, offset: int) -> Float64[np.ndarray, " n"]:
    z = (np.arange(1 << bits, dtype=np.uint64) + np.uint64(offset + 1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
