"""Execute a computation graph as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.operations import PAD_MODES, RESIZE_MODES, learnt_shape, permutation
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.plan import PlanStep, execution_plan


class GraphModule(nn.Module):
    """The network of a computation graph. Takes [batch, c, h, w]; a network that ends in a fully connected layer
    gives [batch, classes], any other [batch, c, h, w].

    Layers with weights are sub-modules named by kind, number and kernel in order of execution: ``conv1_3x3``,
    ``batchnorm1``, ``depthwise1_5x5``, ``linear1``. Nodes that share weights are one layer under several names or,
    where they differ in stride or the like, layers with the same parameters.
    """

    def __init__(self, graph: ComputationGraph) -> None:
        super().__init__()
        self.plan = execution_plan(graph)
        first_uses: dict[int, PlanStep] = {}
        for step in filter(has_weights, self.plan):
            first = first_uses.setdefault(step.row[Column.TIED] or -1 - step.node, step)
            layer = self.get_submodule(first.name) if is_same_layer(first, step) else LAYERS[step.op](step)
            self.add_module(step.name, layer)
            for name, parameter in self.get_submodule(first.name).named_parameters():
                setattr(layer, name, parameter)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the input that the graph is made for."""
        (step,) = (step for step in self.plan if step.op is Op.INPUT)
        return step.row[Column.C_IN : Column.W_IN + 1]

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch ..."]:
        """Run the network. Values are freed after their last use."""
        values: dict[int, Tensor] = {}
        for step in self.plan:
            taken = [values[node] for node in step.inputs] or [x]
            for node in step.release:
                del values[node]
            if not step.flat and step.op is not Op.INPUT:
                taken = [t[:, :, None, None] if t.dim() == 2 else t for t in taken]
            if has_weights(step):
                layer = self.get_submodule(step.name)
                x = taken[0]
                values[step.node] = layer(x.flatten(1) if step.op is Op.LINEAR and step.flat else x)
            else:
                values[step.node] = FUNCTIONS[step.op](step, taken)
            del taken
        (result,) = (values[step.node] for step in self.plan if step.op is Op.OUTPUT)
        return result


def is_same_layer(first: PlanStep, step: PlanStep) -> bool:
    """Whether one layer can run both of two steps that share weights."""
    if first is step:
        return False
    sizes = (Column.H_IN, Column.W_IN, Column.H_OUT, Column.W_OUT)
    alike = all(a == b for i, (a, b) in enumerate(zip(first.row, step.row, strict=True)) if i not in sizes)
    turned = step.op is Op.CONVTRANSPOSE and alike and output_padding(first) != output_padding(step)
    return alike and not turned and first.scalar == step.scalar and first.flat == step.flat


def compile_graph(graph: ComputationGraph) -> GraphModule:
    """The executable PyTorch network of ``graph``, with PyTorch's default initial weights.

    Raises :class:`InvalidGraphError` for a graph that cannot be executed. See :class:`GraphModule` for shapes, and
    :func:`initialise` for weights that depend on a seed alone.
    """
    return GraphModule(graph)


def initialise(module: GraphModule, rng: np.random.Generator) -> None:
    """Draw all weights from ``rng``, so that activations keep their size through networks of any depth.

    Convolutions are normal with variance 2 / fan-in (He et al., 2015); fully connected layers, where classes start out
    about equal, normal with standard deviation 0.001; biases 0; normalisations take as running statistics those of one
    batch of four images of noise, each around a colour of its own.
    """
    norms = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            scale = (2 / layer.weight[0].numel()) ** 0.5 if isinstance(layer, nn.Conv2d) else 0.001
            weight = scale * rng.standard_normal(tuple(layer.weight.shape), np.float32)
            layer.weight.data.copy_(torch.from_numpy(weight))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
            norms.append((layer, layer.momentum))
            layer.momentum = 1.0
    c, h, w = module.image_shape
    noise = rng.standard_normal((4, c, 1, 1)) + rng.standard_normal((4, c, h, w))
    image = torch.from_numpy(noise).to(next(module.parameters(), torch.zeros(0)))
    training = module.training
    with torch.no_grad():
        module.train()(image)
    module.train(training)
    for layer, momentum in norms:
        layer.momentum = momentum


def _conv(step: PlanStep) -> nn.Module:
    row = step.row
    return nn.Conv2d(
        row[Column.C_IN],
        row[Column.C_OUT],
        step.pair(Column.KERNEL_H),
        step.pair(Column.STRIDE_H),
        step.pair(Column.PAD_H),
        step.pair(Column.DILATION_H),
        row[Column.GROUPS],
        bool(row[Column.BIAS]),
    )


class PixelLinear(nn.Linear):
    """A fully connected layer on the channels of every pixel of [batch, c, h, w]."""

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch o h w"]:
        """The same matrix for each pixel."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PixelNorm(nn.LayerNorm):
    """Layer normalisation of the channels of every pixel of [batch, c, h, w]."""

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """Normalised, scaled and shifted."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Learnt(nn.Module):
    """Multiplies a map by, or adds to it, a learnt or fixed tensor."""

    weight: Tensor

    def __init__(self, op: Op, shape: tuple[int, ...], start: float, learnt: bool = True) -> None:
        super().__init__()
        self.combine = torch.mul if op is Op.SCALE else torch.add
        _hold(self, torch.full(shape, start), learnt)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        """x times, or plus, the tensor."""
        return self.combine(x, self.weight)


class Extension(nn.Module):
    """Concatenates a tensor and a map along one axis of the map."""

    weight: Tensor

    def __init__(self, shape: tuple[int, ...], axis: int, before: bool, learnt: bool) -> None:
        super().__init__()
        self.dim, self.before = axis + 1, before
        _hold(self, torch.zeros(shape), learnt)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c2 h2 w2"]:
        """The tensor and x, or x and the tensor."""
        tensor = self.weight.expand(x.shape[0], -1, -1, -1)
        return torch.cat([tensor, x] if self.before else [x, tensor], self.dim)


def _hold(layer: nn.Module, tensor: Tensor, learnt: bool) -> None:
    """Register a tensor as the weight of a layer, as a buffer if it is not learnt."""
    if learnt:
        layer.weight = nn.Parameter(tensor)
    else:
        layer.register_buffer("weight", tensor)


def _extend(step: PlanStep) -> nn.Module:
    axis = step.row[Column.AXIS]
    return Extension(learnt_shape(step.row), axis, step.row[Column.OFFSET_C + axis] > 0, step.row[Column.PARAMS] > 0)


def _linear(step: PlanStep) -> nn.Module:
    layer = nn.Linear if step.flat else PixelLinear
    return layer(step.row[Column.C_IN], step.row[Column.C_OUT], bool(step.row[Column.BIAS]))


def _conv_transpose(step: PlanStep) -> nn.Module:
    row = step.row
    kernel, stride, padding, dilation = (
        step.pair(c) for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H, Column.DILATION_H)
    )
    bias, groups = bool(row[Column.BIAS]), row[Column.GROUPS]
    sizes = (row[Column.C_IN], row[Column.C_OUT], kernel, stride, padding)
    return nn.ConvTranspose2d(*sizes, output_padding(step), groups, bias, dilation)


def output_padding(step: PlanStep) -> tuple[int, int]:
    """The output padding of a transposed convolution."""
    kernel, stride, padding, dilation, size, out = (
        step.pair(c)
        for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H, Column.DILATION_H, Column.H_IN, Column.H_OUT)
    )
    plain = [(size[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    return out[0] - plain[0], out[1] - plain[1]


def _layernorm(step: PlanStep) -> nn.Module:
    row = step.row
    shape = [row[Column.C_OUT]] if row[Column.AXIS] == 0 else list(row[Column.C_OUT : Column.W_OUT + 1])
    layer = PixelNorm if row[Column.AXIS] == 0 else nn.LayerNorm
    return layer(shape, eps=step.scalar, elementwise_affine=row[Column.PARAMS] > 0, bias=bool(row[Column.BIAS]))


def _groupnorm(step: PlanStep) -> nn.Module:
    row = step.row
    return nn.GroupNorm(row[Column.GROUPS], row[Column.C_OUT], step.scalar, affine=row[Column.PARAMS] > 0)


def _learnt(step: PlanStep) -> nn.Module:
    start, learnt = 1.0 if step.op is Op.SCALE else 0.0, step.row[Column.PARAMS] > 0
    return Learnt(step.op, learnt_shape(step.row), start, learnt)


def _leakyrelu(step: PlanStep) -> nn.Module:
    return nn.PReLU(step.row[Column.PARAMS]) if step.row[Column.PARAMS] else nn.LeakyReLU(step.scalar)


def _batchnorm(step: PlanStep) -> nn.Module:
    return nn.BatchNorm2d(step.row[Column.C_OUT], eps=step.scalar, affine=step.row[Column.KIND] == 0)


def _maxpool(step: PlanStep, xs: list[Tensor]) -> Tensor:
    kernel, stride, padding = (step.pair(c) for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H))
    return F.max_pool2d(xs[0], kernel, stride, padding, ceil_mode=bool(step.row[Column.CEIL_MODE]))


def _avgpool(step: PlanStep, xs: list[Tensor]) -> Tensor:
    kernel, stride, padding = (step.pair(c) for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H))
    ceil_mode, count_pad = bool(step.row[Column.CEIL_MODE]), bool(step.row[Column.COUNT_PAD])
    return F.avg_pool2d(xs[0], kernel, stride, padding, ceil_mode, count_pad)


def _slice(step: PlanStep, xs: list[Tensor]) -> Tensor:
    row, (sh, sw) = step.row, step.pair(Column.STRIDE_H)
    (c, h, w), (n, rows, columns) = (row[first : first + 3] for first in (Column.OFFSET_C, Column.C_OUT))
    return xs[0][:, c : c + n, h : h + (rows - 1) * sh + 1 : sh, w : w + (columns - 1) * sw + 1 : sw]


def _pad(step: PlanStep, xs: list[Tensor]) -> Tensor:
    widths, mode = pad_widths(step.row), PAD_MODES[step.row[Column.KIND]]
    if mode == "constant":
        return F.pad(xs[0], widths, value=step.scalar)
    if any(widths[4:]):  # PyTorch replicates three dimensions only for five-dimensional tensors
        return F.pad(xs[0][:, None], widths, mode=mode)[:, 0]
    return F.pad(xs[0], widths[:4], mode=mode)


def pad_widths(row: tuple[int, ...]) -> list[int]:
    """Before and after of width, height and channels: PyTorch names the last axis first."""
    widths: list[int] = []
    for axis in (2, 1, 0):
        before = row[Column.OFFSET_C + axis]
        widths += [before, row[Column.C_OUT + axis] - row[Column.C_IN + axis] - before]
    return widths


def _resize(step: PlanStep, xs: list[Tensor]) -> Tensor:
    mode, aligned, _ = RESIZE_MODES[step.row[Column.KIND]].partition("-aligned")
    size = step.row[Column.H_OUT : Column.W_OUT + 1]
    smooth = mode in ("bilinear", "bicubic")
    return F.interpolate(xs[0], size, mode=mode, align_corners=bool(aligned) if smooth else None)


def _permute(step: PlanStep, xs: list[Tensor]) -> Tensor:
    return xs[0].permute(0, *(axis + 1 for axis in permutation(step.row)))


def _softmax(step: PlanStep, xs: list[Tensor]) -> Tensor:
    x = xs[0]
    if step.row[Column.KIND]:
        x = x.masked_fill(torch.ones(x.shape[2:], dtype=torch.bool, device=x.device).triu(1), -torch.inf)
    return x.softmax(step.row[Column.AXIS] + 1)


def _matmul(step: PlanStep, xs: list[Tensor]) -> Tensor:
    return xs[0] @ (xs[1].transpose(2, 3) if step.row[Column.KIND] else xs[1])


def _constant(step: PlanStep, xs: list[Tensor]) -> Tensor:
    return xs[0] * step.scalar if step.op is Op.SCALE else xs[0] + step.scalar


def has_weights(step: PlanStep) -> bool:
    """Whether the step needs a layer; a scale or a leaky ReLU with a constant does not."""
    if step.op in (Op.SCALE, Op.SHIFT):
        return step.row[Column.KIND] > 0
    return step.op in LAYERS


def parameter_names(step: PlanStep) -> list[str]:
    """Names of what the step's layer learns."""
    with torch.device("meta"):
        return [name for name, _ in LAYERS[step.op](step).named_parameters()]


#: The layer with weights of an operation.
LAYERS: dict[Op, Callable[[PlanStep], nn.Module]] = {
    Op.CONV: _conv,
    Op.DEPTHWISE: _conv,
    Op.CONVTRANSPOSE: _conv_transpose,
    Op.LINEAR: _linear,
    Op.BATCHNORM: _batchnorm,
    Op.LAYERNORM: _layernorm,
    Op.GROUPNORM: _groupnorm,
    Op.SCALE: _learnt,
    Op.SHIFT: _learnt,
    Op.LEAKYRELU: _leakyrelu,
    Op.EXTEND: _extend,
}

#: What an operation without weights computes of its inputs.
FUNCTIONS: dict[Op, Callable[[PlanStep, list[Tensor]], Tensor]] = {
    Op.INPUT: lambda _, xs: xs[0],
    Op.OUTPUT: lambda _, xs: xs[0],
    Op.IDENTITY: lambda _, xs: xs[0],
    Op.RELU: lambda _, xs: F.relu(xs[0]),
    Op.RELU6: lambda _, xs: F.relu6(xs[0]),
    Op.SIGMOID: lambda _, xs: torch.sigmoid(xs[0]),
    Op.TANH: lambda _, xs: torch.tanh(xs[0]),
    Op.SWISH: lambda _, xs: F.silu(xs[0]),
    Op.GELU: lambda step, xs: F.gelu(xs[0], approximate="tanh" if step.row[Column.KIND] else "none"),
    Op.HARDSIGMOID: lambda _, xs: F.hardsigmoid(xs[0]),
    Op.SOFTMAX: _softmax,
    Op.ZERO: lambda _, xs: xs[0] * 0,
    Op.POWER: lambda step, xs: xs[0] ** step.scalar,
    Op.ADD: lambda _, xs: reduce(torch.add, xs),
    Op.MUL: lambda _, xs: reduce(torch.mul, xs),
    Op.CONCAT: lambda step, xs: torch.cat(xs, step.row[Column.AXIS] + 1),
    Op.MATMUL: _matmul,
    Op.MEAN: lambda _, xs: xs[0].mean((2, 3), keepdim=True),
    Op.MAXPOOL: _maxpool,
    Op.AVGPOOL: _avgpool,
    Op.SLICE: _slice,
    Op.PAD: _pad,
    Op.RESIZE: _resize,
    Op.RESHAPE: lambda step, xs: xs[0].reshape(-1, *step.row[Column.C_OUT : Column.W_OUT + 1]),
    Op.PERMUTE: _permute,
    Op.SCALE: _constant,
    Op.SHIFT: _constant,
    Op.SPACETODEPTH: lambda step, xs: F.pixel_unshuffle(xs[0], step.row[Column.KERNEL_H]),
    Op.DEPTHTOSPACE: lambda step, xs: F.pixel_shuffle(xs[0], step.row[Column.KERNEL_H]),
}
