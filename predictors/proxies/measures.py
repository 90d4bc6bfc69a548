"""The zero-cost proxies: functions of a compiled network, a batch of images [b, c, h, w] and their labels [b].

Each reads and leaves the network as it is: weights, gradients, mode and running statistics. It may return NaN or an
infinity where it has no value. Definitions and sources: see :mod:`gennape.predictors.proxies.proxies`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import ComputationGraph, pack
from gennape.search_spaces.graphs.module import GraphModule
from gennape.search_spaces.graphs.ops import Op

#: Layers whose weights are scored. Normalisations and other learnt tensors are not, as published.
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
#: Activations whose input's sign tells on which side of the bend it lies. The papers' networks have only the ReLU.
RECTIFIERS = (F.relu, F.relu6, F.leaky_relu, torch.prelu, F.silu, F.gelu, F.hardsigmoid)
#: What is added to eigenvalues of correlations before their logarithms and inverses (Mellor et al.).
JACOV_SHIFT = 1e-5

#: Synflow's network without normalisation, whose numbers are all positive and large: a bound would stop what flows.
_LINEARISED: Mapping[Op, Op] = {
    Op.BATCHNORM: Op.IDENTITY,
    Op.LAYERNORM: Op.IDENTITY,
    Op.GROUPNORM: Op.IDENTITY,
    Op.RELU6: Op.RELU,
}


# What the proxies share -----------------------------------------------------------------------------------------------


@contextmanager
def _batch_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise by the batch, as in training, without moving the running statistics."""
    mode = module.training
    tracked = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats]
    module.train()
    for norm in tracked:
        norm.track_running_stats = False
    try:
        yield
    finally:
        module.train(mode)
        for norm in tracked:
            norm.track_running_stats = True


def _outputs(module: GraphModule, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o"]:
    """A number for each class; the mean over pixels where the network gives a map."""
    with _batch_statistics(module):
        outputs: Tensor = module(images)
    return outputs if outputs.dim() == 2 else outputs.mean((2, 3))


def _loss(module: GraphModule, images: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
    return F.cross_entropy(_outputs(module, images), labels)


def _weights(module: nn.Module) -> list[Tensor]:
    return [layer.weight for layer in module.modules() if isinstance(layer, LAYERS)]


def _gradients(value: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    """Gradients of a scalar; 0 for inputs that it does not depend on."""
    if not inputs or not value.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(value, inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def _sum(terms: Iterable[Tensor]) -> float:
    """Sum of scalars; NaN when there are none: a network without weights has no score."""
    values = [float(term.detach()) for term in terms]
    return sum(values) if values else float("nan")


# The proxies ----------------------------------------------------------------------------------------------------------


def synflow(module: GraphModule, images: Float[Tensor, "b c h w"], _labels: Int64[Tensor, " b"]) -> float:
    """Natural logarithm of sum |w · ∂R/∂w|, R the sum of outputs for one image of ones (Tanaka et al., 2020).

    All learnt tensors are replaced by their magnitudes, normalisations are left out, and ReLU6 counts as ReLU, since
    hardly a number would stay below 6. In float64. -inf where no path leads from a weight to the output.
    """
    linear = copy.deepcopy(module).double()
    linear.plan = [step._replace(op=_LINEARISED.get(step.op, step.op)) for step in module.plan]
    with torch.no_grad():
        for tensor in linear.parameters():
            tensor.abs_()
    ones = torch.ones(1, *images.shape[1:], dtype=torch.float64)
    weights = _weights(linear)
    flow = _sum(
        (w * g).abs().sum() for w, g in zip(weights, _gradients(_outputs(linear, ones).sum(), weights), strict=True)
    )
    with np.errstate(divide="ignore"):
        return float(np.log(flow))


def jacov(module: GraphModule, images: Float[Tensor, "b c h w"], _labels: Int64[Tensor, " b"]) -> float:
    """-sum(log(v + k) + 1 / (v + k)) over eigenvalues v of the correlations between images of the gradients of the sum
    of outputs by the pixels, k = 1e-5 (Mellor et al., version 1; jacob_cov of Abdelfattah et al.).

    NaN where an image has a constant gradient, as in a network that ignores its input.
    """
    pixels = images.clone().requires_grad_()
    (gradient,) = _gradients(_outputs(module, pixels).sum(), [pixels])
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = np.corrcoef(gradient.flatten(1).double().numpy())
    if not np.isfinite(correlations).all():
        return float("nan")
    shifted = np.linalg.eigvalsh(correlations) + JACOV_SHIFT
    return -float((np.log(shifted) + 1 / shifted).sum())


def fisher(module: GraphModule, images: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"]) -> float:
    """Sum over layers and their output channels of the mean over images of (sum over pixels of a · ∂L/∂a)² / 2, times
    the weights of the channel; a are the layer's outputs (Theis et al., 2018).

    The factor is that of the published code, which gives each weight the score of its channel.
    """
    layers: list[nn.Module] = []
    activations: list[Tensor] = []

    def record(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        layers.append(layer)
        activations.append(output)

    hooks = [layer.register_forward_hook(record) for layer in module.modules() if isinstance(layer, LAYERS)]
    try:
        loss = _loss(module, images, labels)
    finally:
        for hook in hooks:
            hook.remove()
    gradients = _gradients(loss, activations)
    return _sum(
        (a * g).reshape(*a.shape[:2], -1).sum(2).square().mean(0).sum() / 2 * layer.get_parameter("weight")[0].numel()
        for layer, a, g in zip(layers, activations, gradients, strict=True)
    )


def snip(module: GraphModule, images: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"]) -> float:
    """Sum of |w · ∂L/∂w| (Lee et al., 2019)."""
    weights = _weights(module)
    gradients = _gradients(_loss(module, images, labels), weights)
    return _sum((w * g).abs().sum() for w, g in zip(weights, gradients, strict=True))


def grad_norm(module: GraphModule, images: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"]) -> float:
    """Sum over layers of the Euclidean norm of ∂L/∂w (Abdelfattah et al.)."""
    return _sum(gradient.norm() for gradient in _gradients(_loss(module, images, labels), _weights(module)))


def grasp(module: GraphModule, images: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"]) -> float:
    """-sum of w · (H ∂L/∂w), H the Hessian of the loss L (Wang et al., 2020; sign of Abdelfattah et al.)."""
    weights = _weights(module)
    with _TwiceDifferentiable():
        loss = _loss(module, images, labels)
    gradients = _gradients(loss, weights, create_graph=True)
    product = sum(((g.detach() * g).sum() for g in gradients), torch.zeros(()))
    return -_sum((w * h).sum() for w, h in zip(weights, _gradients(product, weights), strict=True))


class _TwiceDifferentiable(TorchFunctionMode):
    """Computes what PyTorch cannot differentiate twice by operations that it can."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


class _Agreement(TorchFunctionMode):
    """Counts, for each two images, the activations of which both or neither are positive: ``kernel`` [b, b]."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.kernel = torch.zeros(images, images, dtype=torch.float64)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RECTIFIERS:
            signs = (args[0].flatten(1) > 0).float() * 2 - 1
            self.kernel += ((signs @ signs.T).double() + signs.shape[1]) / 2
        return func(*args, **(kwargs or {}))


def nwot(module: GraphModule, images: Float[Tensor, "b c h w"], _labels: Int64[Tensor, " b"]) -> float:
    """log |det K|, K the number of activations on which two images agree in sign (Mellor et al., version 3).

    -inf where two images have the same signs throughout, or nothing is rectified.
    """
    with torch.no_grad(), _Agreement(len(images)) as agreement:
        _outputs(module, images)
    return float(torch.linalg.slogdet(agreement.kernel).logabsdet)


def params(module: GraphModule, _images: Float[Tensor, "b c h w"], _labels: Int64[Tensor, " b"]) -> float:
    """Learnt parameters."""
    return float(sum(tensor.numel() for tensor in module.parameters()))


def flops(module: GraphModule, _images: Float[Tensor, "b c h w"], _labels: Int64[Tensor, " b"]) -> float:
    """Floating-point operations for one image, 2 x MACs."""
    steps = sorted(module.plan)
    edges = [(source, step.node) for step in steps for source in step.inputs]
    graph = ComputationGraph(
        np.array([step.row for step in steps], np.int32),
        np.array([step.scalar for step in steps], np.float64),
        np.array(edges, np.int32).reshape(-1, 2),
    )
    return float(cost.flops(pack([graph]))[0])
