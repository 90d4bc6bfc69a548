"""Execute a computation graph: put its nodes in order and make the PyTorch module that they describe."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graph import Column, ComputationGraph, pack, validate
from gennape.search_spaces.ops import WEIGHTED, Op

#: Operations that keep the shape of their one input and act on every number alone.
ELEMENTWISE = (
    *(Op.RELU, Op.RELU6, Op.SIGMOID, Op.TANH, Op.SWISH, Op.GELU, Op.HARDSIGMOID),
    *(Op.IDENTITY, Op.ZERO),
)
_MERGES = (Op.ADD, Op.MUL, Op.CONCAT)
_WINDOWS = (Op.CONV, Op.DEPTHWISE, Op.MAXPOOL, Op.AVGPOOL)


class Step(NamedTuple):
    """One operation of an execution plan."""

    #: Index of the node in its graph.
    node: int
    op: Op
    #: Name of the layer or of the value, unique in the plan: ``conv1_3x3``, ``relu4``.
    name: str
    #: Nodes whose values this step takes, in order.
    inputs: tuple[int, ...]
    #: True where the value is [batch, channels], False where it is [batch, channels, height, width].
    flat: bool
    #: Nodes whose values no later step takes.
    release: tuple[int, ...]
    #: The node's attributes, to be read by :class:`Column`.
    row: tuple[int, ...]
    scalar: float

    def pair(self, first: Column) -> tuple[int, int]:
        """The attribute for height and the next one, for width."""
        return self.row[first], self.row[first + 1]


def execution_plan(graph: ComputationGraph) -> list[Step]:
    """The nodes in an order in which they can run: that of the graph, where it is already such an order.

    A value that comes from a fully connected layer stays [batch, channels] through activations, sums, products and
    concatenations with its like, and becomes a 1x1 map where another operation takes it.

    Raises :class:`InvalidGraphError` for a graph that :func:`graph.validate` refuses, an operation that cannot be
    executed, or attributes that do not give the output size that a node claims.
    """
    validate(pack([graph]))
    inputs: list[list[int]] = [[] for _ in range(graph.n_nodes)]
    for source, target in graph.edges.tolist():
        inputs[target].append(source)
    order = _topological_order(inputs)
    last_use = {source: node for node in order for source in inputs[node]}
    flat: dict[int, bool] = {}
    kinds: Counter[str] = Counter()
    steps = []
    for node in order:
        row, op, sources = tuple(graph.nodes[node].tolist()), Op(graph.nodes[node, Column.OP]), tuple(inputs[node])
        _check(node, op, row, [tuple(graph.nodes[s, Column.C_OUT : Column.W_OUT + 1].tolist()) for s in sources])
        same = op is Op.OUTPUT or op in ELEMENTWISE or op in _MERGES
        flat[node] = op is Op.LINEAR or (same and all(flat[s] for s in sources))
        kinds[op.name] += 1
        release = tuple(s for s in dict.fromkeys(sources) if last_use[s] == node)
        name = _name(op, kinds[op.name], row)
        steps.append(Step(node, op, name, sources, flat[node], release, row, float(graph.scalars[node])))
    return steps


def _topological_order(inputs: list[list[int]]) -> list[int]:
    consumers: list[list[int]] = [[] for _ in inputs]
    for node, sources in enumerate(inputs):
        for source in sources:
            consumers[source].append(node)
    waiting = [len(sources) for sources in inputs]
    ready = [node for node, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        node = heapq.heappop(ready)
        order.append(node)
        for consumer in consumers[node]:
            waiting[consumer] -= 1
            if waiting[consumer] == 0:
                heapq.heappush(ready, consumer)
    return order


def _name(op: Op, number: int, row: tuple[int, ...]) -> str:
    kernel = f"_{row[Column.KERNEL_H]}x{row[Column.KERNEL_W]}" if op in _WINDOWS else ""
    return f"{op.name.lower()}{number}{kernel}"


def _check(node: int, op: Op, row: tuple[int, ...], taken: list[tuple[int, ...]]) -> None:
    shape, out = row[Column.C_IN : Column.W_IN + 1], row[Column.C_OUT : Column.W_OUT + 1]
    if op is Op.UNKNOWN:
        raise InvalidGraphError(f"node {node} is an unknown operation; a graph with one cannot be executed")
    if op in _WINDOWS:
        fits = out[1:] == (_windows(op, row, 0), _windows(op, row, 1)) and _channels_fit(op, row)
    elif op is Op.LINEAR:
        fits = shape[1:] == out[1:] == (1, 1)
    elif op is Op.MEAN:
        fits = out == (shape[0], 1, 1)
    elif op is Op.SLICE:
        offsets = row[Column.OFFSET_C : Column.OFFSET_W + 1]
        fits = all(o >= 0 and o + n <= size for o, n, size in zip(offsets, out, shape, strict=True))
    elif op is Op.CONCAT:
        fits = all(t[1:] == out[1:] for t in taken)
    elif op is Op.MUL:
        fits = taken[0] == out and all(t in (out, (out[0], 1, 1)) for t in taken)
    else:
        fits = shape == out
    if not fits:
        raise InvalidGraphError(
            f"node {node} ({op.name.lower()}) claims to make {list(out)} of {[list(t) for t in taken] or list(shape)} "
            "(channels, height, width), which its attributes do not give; rebuild the graph with the builder"
        )


def _windows(op: Op, row: tuple[int, ...], axis: int) -> int:
    """Output size along height (0) or width (1); -1 where no window fits."""
    kernel, stride, pad, dilation = (
        row[first + axis] for first in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H, Column.DILATION_H)
    )
    size = row[Column.H_IN + axis]
    if kernel < 1 or stride < 1 or pad < 0 or dilation < 1 or (op in (Op.MAXPOOL, Op.AVGPOOL) and 2 * pad > kernel):
        return -1
    span = size + 2 * pad - dilation * (kernel - 1) - 1
    if span < 0:
        return -1
    out = (-(-span // stride) if row[Column.CEIL_MODE] else span // stride) + 1
    # PyTorch drops a window that would start in the padding on the far side.
    return out - 1 if row[Column.CEIL_MODE] and (out - 1) * stride >= size + pad else out


def _channels_fit(op: Op, row: tuple[int, ...]) -> bool:
    c_in, c_out, groups = row[Column.C_IN], row[Column.C_OUT], row[Column.GROUPS]
    if op in (Op.MAXPOOL, Op.AVGPOOL):
        return c_in == c_out and row[Column.DILATION_H] == row[Column.DILATION_W] == 1
    return groups >= 1 and c_in % groups == 0 and c_out % groups == 0 and (op is Op.CONV or groups == c_in)


class GraphModule(nn.Module):
    """The network of a computation graph. Takes [batch, c, h, w]; a network that ends in a fully connected layer
    gives [batch, classes], any other [batch, c, h, w].

    Layers with weights are sub-modules named by kind, number and kernel in order of execution: ``conv1_3x3``,
    ``batchnorm1``, ``depthwise1_5x5``, ``linear1``.
    """

    def __init__(self, graph: ComputationGraph) -> None:
        super().__init__()
        self.plan = execution_plan(graph)
        for step in self.plan:
            if step.op in LAYERS:
                self.add_module(step.name, LAYERS[step.op](step))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the input that the graph is made for."""
        (step,) = (step for step in self.plan if step.op is Op.INPUT)
        return step.row[Column.C_IN : Column.W_IN + 1]

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch ..."]:
        """The network's output. Values are let go after their last use."""
        values: dict[int, Tensor] = {}
        for step in self.plan:
            taken = [values[node] for node in step.inputs] or [x]
            for node in step.release:
                del values[node]
            if not step.flat and step.op not in (Op.LINEAR, Op.INPUT):
                taken = [t[:, :, None, None] if t.dim() == 2 else t for t in taken]
            if step.op in LAYERS:
                layer = self.get_submodule(step.name)
                values[step.node] = layer(taken[0].flatten(1) if step.op is Op.LINEAR else taken[0])
            else:
                values[step.node] = FUNCTIONS[step.op](step, taken)
            del taken
        (result,) = (values[step.node] for step in self.plan if step.op is Op.OUTPUT)
        return result


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


def _conv(step: Step) -> nn.Module:
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


def _linear(step: Step) -> nn.Module:
    return nn.Linear(step.row[Column.C_IN], step.row[Column.C_OUT], bool(step.row[Column.BIAS]))


def _batchnorm(step: Step) -> nn.Module:
    return nn.BatchNorm2d(step.row[Column.C_OUT], eps=step.scalar)


def _maxpool(step: Step, xs: list[Tensor]) -> Tensor:
    kernel, stride, padding = (step.pair(c) for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H))
    return F.max_pool2d(xs[0], kernel, stride, padding, ceil_mode=bool(step.row[Column.CEIL_MODE]))


def _avgpool(step: Step, xs: list[Tensor]) -> Tensor:
    kernel, stride, padding = (step.pair(c) for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H))
    ceil_mode, count_pad = bool(step.row[Column.CEIL_MODE]), bool(step.row[Column.COUNT_PAD])
    return F.avg_pool2d(xs[0], kernel, stride, padding, ceil_mode, count_pad)


def _slice(step: Step, xs: list[Tensor]) -> Tensor:
    (c, h, w), (n, rows, columns) = (step.row[first : first + 3] for first in (Column.OFFSET_C, Column.C_OUT))
    return xs[0][:, c : c + n, h : h + rows, w : w + columns]


#: The layer with weights of an operation.
LAYERS: dict[Op, Callable[[Step], nn.Module]] = {
    **dict.fromkeys((op for op in WEIGHTED if op is not Op.LINEAR), _conv),
    Op.LINEAR: _linear,
    Op.BATCHNORM: _batchnorm,
}

#: What an operation without weights computes of its inputs.
FUNCTIONS: dict[Op, Callable[[Step, list[Tensor]], Tensor]] = {
    Op.INPUT: lambda _, xs: xs[0],
    Op.OUTPUT: lambda _, xs: xs[0],
    Op.IDENTITY: lambda _, xs: xs[0],
    Op.RELU: lambda _, xs: F.relu(xs[0]),
    Op.RELU6: lambda _, xs: F.relu6(xs[0]),
    Op.SIGMOID: lambda _, xs: torch.sigmoid(xs[0]),
    Op.TANH: lambda _, xs: torch.tanh(xs[0]),
    Op.SWISH: lambda _, xs: F.silu(xs[0]),
    Op.GELU: lambda _, xs: F.gelu(xs[0]),
    Op.HARDSIGMOID: lambda _, xs: F.hardsigmoid(xs[0]),
    Op.ZERO: lambda _, xs: xs[0] * 0,
    Op.ADD: lambda _, xs: reduce(torch.add, xs),
    Op.MUL: lambda _, xs: reduce(torch.mul, xs),
    Op.CONCAT: lambda _, xs: torch.cat(xs, 1),
    Op.MEAN: lambda _, xs: xs[0].mean((2, 3), keepdim=True),
    Op.MAXPOOL: _maxpool,
    Op.AVGPOOL: _avgpool,
    Op.SLICE: _slice,
}
