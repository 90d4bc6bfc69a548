"""Write a network as a readable Python file that needs only PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from gennape.search_spaces.files.atomic import replacing
from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.module import has_weights, is_same_layer, output_padding, pad_widths, parameter_names
from gennape.search_spaces.graphs.operations import PAD_MODES, RESIZE_MODES, learnt_shape, permutation
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.plan import ELEMENTWISE, PlanStep, execution_plan

_HEAD = '''"""A network of {layers} layers, written by gennape: takes [batch, {shape}], gives [batch, {out}]."""

import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    """Layers are named by kind, number and kernel in order of execution; ``load_state_dict`` takes weights by them."""

    def __init__(self) -> None:
        super().__init__()
'''
_FORWARD = """
    def forward(self, {name}: torch.Tensor) -> torch.Tensor:
"""
_NAMES = ("x", "y", "z", "u", "v", "w")


def to_python(graph: ComputationGraph, path: Path) -> None:
    """Write a Python module with ``class Network(torch.nn.Module)``: the network of ``graph``, without weights.

    With the ``state_dict`` of :func:`compile_graph`'s module it computes the same outputs.
    Raises :class:`WorkspaceError` if ``path`` cannot be written.
    """
    source = "".join(_source(execution_plan(graph)))
    with replacing(path) as temporary:
        temporary.write_text(source, encoding="utf-8")


def _source(plan: list[PlanStep]) -> Iterator[str]:
    (first,) = (step for step in plan if step.op is Op.INPUT)
    (last,) = (step for step in plan if step.op is Op.OUTPUT)
    layers = [step for step in plan if has_weights(step)]
    out = last.row[Column.C_OUT : Column.C_OUT + (1 if last.flat else 3)]
    shape = first.row[Column.C_IN : Column.W_IN + 1]
    yield _HEAD.format(layers=len(layers), shape=", ".join(map(str, shape)), out=", ".join(map(str, out)))
    yield from _layers(layers)
    statements = _statements(plan)
    variables = _variables(statements)
    yield _FORWARD.format(name=variables[first.node])
    flat = {step.node: step.flat for step in plan}
    for statement in statements:
        expressions = dict(variables)
        for step in statement:
            expressions[step.node] = _expression(step, expressions, flat)
        node = statement[-1].node
        if expressions[node] != variables[node]:
            yield f"        {variables[node]} = {expressions[node]}\n"
    yield f"        return {variables[last.node]}\n"


def _layers(layers: list[PlanStep]) -> Iterator[str]:
    """A line for each layer, and for each parameter that it shares with an earlier one."""
    first_uses: dict[int, PlanStep] = {}
    for step in layers:
        first = first_uses.setdefault(step.row[Column.TIED] or -1 - step.node, step)
        if is_same_layer(first, step):
            yield f"        self.{step.name} = self.{first.name}\n"
            continue
        yield f"        self.{step.name} = {_LAYER[step.op](step)}\n"
        for name in parameter_names(step) if first is not step else []:
            yield f"        self.{step.name}.{name} = self.{first.name}.{name}\n"


def _expression(step: PlanStep, expressions: dict[int, str], flat: dict[int, bool]) -> str:
    taken = [expressions[node] for node in step.inputs] or [expressions[step.node]]
    if not step.flat:
        taken = [
            f"{v}[:, :, None, None]" if flat[n] else v for v, n in zip(taken, step.inputs or (step.node,), strict=True)
        ]
    if step.op is Op.LINEAR and step.flat and not flat[step.inputs[0]]:
        taken = [f"{taken[0]}.flatten(1)"]
    if not has_weights(step):
        return _CALL[step.op](step, taken)
    return _APPLY.get(step.op, _apply)(step, taken[0])


def _apply(step: PlanStep, x: str) -> str:
    by_pixel = (step.op is Op.LINEAR and not step.flat) or (step.op is Op.LAYERNORM and step.row[Column.AXIS] == 0)
    return f"self.{step.name}({x}.movedim(1, -1)).movedim(-1, 1)" if by_pixel else f"self.{step.name}({x})"


def _statements(plan: list[PlanStep]) -> list[list[PlanStep]]:
    """Group steps into lines: a layer with the normalisation and activation that are the only users of its value."""
    statements: list[list[PlanStep]] = []
    for step in plan:
        before = statements[-1][-1] if statements else step
        follows = step.inputs == (before.node,) and before.node in step.release and has_weights(before)
        if follows and (step.op is Op.BATCHNORM or step.op in ELEMENTWISE):
            statements[-1].append(step)
        else:
            statements.append([step])
    return statements


def _variables(statements: list[list[PlanStep]]) -> dict[int, str]:
    """A variable name for each line's value; names of values no longer needed are reused, which frees memory."""
    names: dict[int, str] = {}
    free = list(_NAMES)
    for statement in statements:
        released = [names[node] for step in statement for node in step.release if node in names]
        free = [*released, *free] or [f"t{len(names)}"]
        names[statement[-1].node] = free.pop(0)
    return names


def _conv(step: PlanStep) -> str:
    row = step.row
    kernel, stride, padding, dilation = (
        step.pair(c) for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H, Column.DILATION_H)
    )
    options = [f"stride={_short(stride)}"] * (stride != (1, 1)) + [f"padding={_short(padding)}"] * (padding != (0, 0))
    options += [f"dilation={_short(dilation)}"] * (dilation != (1, 1))
    options += [f"groups={row[Column.GROUPS]}"] * (row[Column.GROUPS] != 1) + ["bias=False"] * (not row[Column.BIAS])
    sizes = [str(row[Column.C_IN]), str(row[Column.C_OUT]), _short(kernel)]
    return f"nn.Conv2d({', '.join([*sizes, *options])})"


def _conv_transpose(step: PlanStep) -> str:
    row = step.row
    stride, padding, dilation = (_short(step.pair(c)) for c in (Column.STRIDE_H, Column.PAD_H, Column.DILATION_H))
    extra = _short(output_padding(step))
    sizes = [str(row[Column.C_IN]), str(row[Column.C_OUT]), _short(step.pair(Column.KERNEL_H)), stride, padding, extra]
    return f"nn.ConvTranspose2d({', '.join(sizes)}, {row[Column.GROUPS]}, {bool(row[Column.BIAS])}, {dilation})"


def _layernorm(step: PlanStep) -> str:
    row = step.row
    shape = row[Column.C_OUT] if row[Column.AXIS] == 0 else list(row[Column.C_OUT : Column.W_OUT + 1])
    options = f"eps={step.scalar!r}, elementwise_affine={row[Column.PARAMS] > 0}, bias={bool(row[Column.BIAS])}"
    return f"nn.LayerNorm({shape}, {options})"


def _groupnorm(step: PlanStep) -> str:
    affine = "" if step.row[Column.PARAMS] else ", affine=False"
    return f"nn.GroupNorm({step.row[Column.GROUPS]}, {step.row[Column.C_OUT]}, eps={step.scalar!r}{affine})"


def _learnt(step: PlanStep) -> str:
    make = "ones" if step.op is Op.SCALE else "zeros"
    shape = ", ".join(map(str, learnt_shape(step.row)))
    if step.row[Column.PARAMS]:
        return f'nn.ParameterDict({{"weight": torch.{make}({shape})}})'
    return f'nn.Module()\n        self.{step.name}.register_buffer("weight", torch.{make}({shape}))'


def _held(step: PlanStep) -> str:
    """The tensor of a scale, shift or extension."""
    return f'self.{step.name}["weight"]' if step.row[Column.PARAMS] else f"self.{step.name}.weight"


def _extended(step: PlanStep, x: str) -> str:
    axis, tensor = step.row[Column.AXIS], f"{_held(step)}.expand(len({x}), -1, -1, -1)"
    parts = (tensor, x) if step.row[Column.OFFSET_C + axis] else (x, tensor)
    return f"torch.cat([{', '.join(parts)}], {axis + 1})"


def _leakyrelu(step: PlanStep) -> str:
    params = step.row[Column.PARAMS]
    return f"nn.PReLU({params})" if params else f"nn.LeakyReLU({step.scalar!r})"


def _pad(step: PlanStep, xs: list[str]) -> str:
    widths = pad_widths(step.row)
    if step.row[Column.KIND] == 0:
        return f"F.pad({xs[0]}, {widths}, value={step.scalar!r})"
    mode = PAD_MODES[step.row[Column.KIND]]
    if any(widths[4:]):
        return f"F.pad({xs[0]}[:, None], {widths}, mode={mode!r})[:, 0]"
    return f"F.pad({xs[0]}, {widths[:4]}, mode={mode!r})"


def _resize(step: PlanStep, xs: list[str]) -> str:
    mode, aligned, _ = RESIZE_MODES[step.row[Column.KIND]].partition("-aligned")
    corners = f", align_corners={bool(aligned)}" if mode in ("bilinear", "bicubic") else ""
    return f"F.interpolate({xs[0]}, {step.pair(Column.H_OUT)}, mode={mode!r}{corners})"


def _softmax(step: PlanStep, xs: list[str]) -> str:
    if not step.row[Column.KIND]:
        return f"{xs[0]}.softmax({step.row[Column.AXIS] + 1})"
    hidden = f"torch.ones({step.row[Column.H_OUT]}, {step.row[Column.W_OUT]}, device={xs[0]}.device).triu(1) > 0"
    return f"{xs[0]}.masked_fill({hidden}, -torch.inf).softmax(3)"


def _matmul(step: PlanStep, xs: list[str]) -> str:
    return f"{xs[0]} @ {xs[1]}.transpose(2, 3)" if step.row[Column.KIND] else f"{xs[0]} @ {xs[1]}"


def _permute(step: PlanStep, xs: list[str]) -> str:
    return f"{xs[0]}.permute(0, {', '.join(str(axis + 1) for axis in permutation(step.row))})"


def _linear(step: PlanStep) -> str:
    bias = "" if step.row[Column.BIAS] else ", bias=False"
    return f"nn.Linear({step.row[Column.C_IN]}, {step.row[Column.C_OUT]}{bias})"


def _pool(step: PlanStep, xs: list[str]) -> str:
    kernel, stride, padding = (_short(step.pair(c)) for c in (Column.KERNEL_H, Column.STRIDE_H, Column.PAD_H))
    options = [xs[0], kernel, f"stride={stride}"] + [f"padding={padding}"] * (padding != "0")
    options += ["ceil_mode=True"] * step.row[Column.CEIL_MODE]
    if step.op is Op.AVGPOOL:
        options += [f"count_include_pad={bool(step.row[Column.COUNT_PAD])}"] * (padding != "0")
        return f"F.avg_pool2d({', '.join(options)})"
    return f"F.max_pool2d({', '.join(options)})"


def _slice(step: PlanStep, xs: list[str]) -> str:
    row = step.row
    parts = []
    for i in range(3):
        start, size, whole = row[Column.OFFSET_C + i], row[Column.C_OUT + i], row[Column.C_IN + i]
        step_size = row[Column.STRIDE_H + i - 1] if i else 1
        end = start + (size - 1) * step_size + 1
        jump = f":{step_size}" * (step_size != 1)
        parts.append(f"{start or ''}:{'' if end == whole else end}{jump}")
    while parts[-1] == ":":
        parts.pop()
        if not parts:
            return xs[0]
    return f"{xs[0]}[:, {', '.join(parts)}]"


def _short(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else str(pair)


def _of(template: str) -> Callable[[PlanStep, list[str]], str]:
    return lambda _, xs: template.format(xs[0])


#: The constructor of an operation's layer.
_LAYER: dict[Op, Callable[[PlanStep], str]] = {
    Op.CONV: _conv,
    Op.DEPTHWISE: _conv,
    Op.LINEAR: _linear,
    Op.BATCHNORM: lambda step: (
        f"nn.BatchNorm2d({step.row[Column.C_OUT]}, eps={step.scalar!r}{', affine=False' * step.row[Column.KIND]})"
    ),
    Op.CONVTRANSPOSE: _conv_transpose,
    Op.LAYERNORM: _layernorm,
    Op.GROUPNORM: _groupnorm,
    Op.SCALE: _learnt,
    Op.SHIFT: _learnt,
    Op.LEAKYRELU: _leakyrelu,
    Op.EXTEND: _learnt,
}
#: The expression of a layer that is not applied by a call.
_APPLY: dict[Op, Callable[[PlanStep, str], str]] = {
    Op.SCALE: lambda step, x: f"{x} * {_held(step)}",
    Op.SHIFT: lambda step, x: f"({x} + {_held(step)})",
    Op.EXTEND: _extended,
}
#: The expression of an operation without weights.
_CALL: dict[Op, Callable[[PlanStep, list[str]], str]] = {
    Op.INPUT: _of("{}"),
    Op.OUTPUT: _of("{}"),
    Op.RELU: _of("F.relu({})"),
    Op.RELU6: _of("F.relu6({})"),
    Op.SIGMOID: _of("torch.sigmoid({})"),
    Op.TANH: _of("torch.tanh({})"),
    Op.SWISH: _of("F.silu({})"),
    Op.GELU: lambda step, xs: f"F.gelu({xs[0]}{', approximate=' + repr('tanh') if step.row[Column.KIND] else ''})",
    Op.HARDSIGMOID: _of("F.hardsigmoid({})"),
    Op.IDENTITY: _of("{}"),
    Op.ZERO: _of("{} * 0"),
    Op.POWER: lambda step, xs: f"({xs[0]}).pow({step.scalar!r})",
    Op.ADD: lambda _, xs: " + ".join(xs),
    Op.MUL: lambda _, xs: " * ".join(xs),
    Op.CONCAT: lambda step, xs: f"torch.cat([{', '.join(xs)}], {step.row[Column.AXIS] + 1})",
    Op.MEAN: _of("{}.mean((2, 3), keepdim=True)"),
    Op.MAXPOOL: _pool,
    Op.AVGPOOL: _pool,
    Op.SLICE: _slice,
    Op.SOFTMAX: _softmax,
    Op.MATMUL: _matmul,
    Op.PAD: _pad,
    Op.RESIZE: _resize,
    Op.RESHAPE: lambda step, xs: (
        f"{xs[0]}.reshape(-1, {', '.join(map(str, step.row[Column.C_OUT : Column.W_OUT + 1]))})"
    ),
    Op.PERMUTE: _permute,
    Op.SCALE: lambda step, xs: f"{xs[0]} * {step.scalar!r}",
    Op.SHIFT: lambda step, xs: f"({xs[0]} + {step.scalar!r})",
    Op.SPACETODEPTH: lambda step, xs: f"F.pixel_unshuffle({xs[0]}, {step.row[Column.KERNEL_H]})",
    Op.DEPTHTOSPACE: lambda step, xs: f"F.pixel_shuffle({xs[0]}, {step.row[Column.KERNEL_H]})",
}
