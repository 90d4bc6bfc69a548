"""The ONNX operators of every operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gennape.search_spaces.exporting.onnx_nodes import maps
from gennape.search_spaces.exporting.onnx_nodes.emitter import Emitter
from gennape.search_spaces.graphs.graph import Column
from gennape.search_spaces.graphs.module import output_padding
from gennape.search_spaces.graphs.operations import learnt_shape, permutation
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.plan import PlanStep


def _window(step: PlanStep) -> dict[str, Any]:
    return {"kernel_shape": step.pair(Column.KERNEL_H), "strides": step.pair(Column.STRIDE_H)}


def _conv(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    pads, dilations, group = step.pair(Column.PAD_H) * 2, step.pair(Column.DILATION_H), step.row[Column.GROUPS]
    extra = {"output_padding": output_padding(step)} if step.op is Op.CONVTRANSPOSE else {}
    op = "ConvTranspose" if extra else "Conv"
    xs = [*xs, *e.weights(step, "weight", "bias")]
    return e.emit(op, xs, step.name, **_window(step), pads=pads, dilations=dilations, group=group, **extra)


def _linear(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    if step.flat:
        return e.emit("Gemm", [*xs, *e.weights(step, "weight", "bias")], step.name, transB=1)
    matrix = e.constant(f"{step.name}.weight", e.state[f"{step.name}.weight"].T)

    def product(x: str, name: str) -> str:
        bias = e.weights(step, "bias")
        result = e.emit("MatMul", [x, matrix], f"{name}_product" if bias else name)
        return e.emit("Add", [result, *bias], name) if bias else result

    return e.by_pixel(step, xs[0], product)


def _batchnorm(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    learnt = e.weights(step, "weight", "bias")
    if not learnt:
        c = step.row[Column.C_OUT]
        learnt = [e.filled(f"{step.name}_ones", c, 1.0), e.filled(f"{step.name}_zeros", c, 0.0)]
    xs = [*xs, *learnt, *e.weights(step, "running_mean", "running_var")]
    return e.emit("BatchNormalization", xs, step.name, epsilon=step.scalar)


def _layernorm(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    learnt = e.weights(step, "weight", "bias")
    axis = -1 if step.row[Column.AXIS] == 0 else -3

    def norm(x: str, name: str) -> str:
        shape = step.row[Column.C_OUT : Column.C_OUT + 1] if axis == -1 else step.row[Column.C_OUT : Column.W_OUT + 1]
        # The operator requires a scale.
        ones = [] if learnt else [e.constant(f"{name}_ones", np.ones(shape))]
        if e.opset >= 17 and not ones:
            return e.emit("LayerNormalization", [x, *learnt], name, axis=axis, epsilon=step.scalar)
        return _normalised(e, step, x, name, learnt, list(range(axis, 0)))

    return e.by_pixel(step, xs[0], norm) if axis == -1 else norm(xs[0], step.name)


def _normalised(e: Emitter, step: PlanStep, x: str, name: str, learnt: list[str], axes: list[int]) -> str:
    """Layer normalisation without the operator, for opsets before 17 or without learnt tensors."""
    taken = [e.whole(f"last{len(axes)}", axes)] if e.opset >= 18 else []
    attributes = {} if taken else {"axes": axes}
    mean = e.emit("ReduceMean", [x, *taken], f"{name}_mean", **attributes)
    centred = e.emit("Sub", [x, mean], f"{name}_centred")
    square = e.emit("Mul", [centred, centred], f"{name}_square")
    variance = e.emit("ReduceMean", [square, *taken], f"{name}_variance", **attributes)
    total = e.emit("Add", [variance, e.constant(f"{name}_eps", step.scalar)], f"{name}_total")
    ratio = e.emit("Div", [centred, e.emit("Sqrt", [total], f"{name}_root")], f"{name}_ratio" if learnt else name)
    for op, tensor in zip(("Mul", "Add"), learnt, strict=False):
        ratio = e.emit(op, [ratio, tensor], name if tensor == learnt[-1] else f"{name}_scaled")
    return ratio


def _groupnorm(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    """Group normalisation by reshaped instance normalisation: before opset 21 no operator scales single channels."""
    groups, name = step.row[Column.GROUPS], step.name
    neutral = [e.filled(f"{name}_ones", groups, 1.0), e.filled(f"{name}_zeros", groups, 0.0)]
    grouped = e.emit("Reshape", [xs[0], e.whole(f"groups{groups}", [0, groups, -1])], f"{name}_groups")
    inner = e.emit("InstanceNormalization", [grouped, *neutral], f"{name}_inner", epsilon=step.scalar)
    whole = e.whole(f"{name}_shape", [0, *step.row[Column.C_OUT : Column.W_OUT + 1]])
    if not step.row[Column.PARAMS]:
        return e.emit("Reshape", [inner, whole], name)
    weight, bias = (e.constant(f"{name}.{p}", e.state[f"{name}.{p}"][:, None, None]) for p in ("weight", "bias"))
    scaled = e.emit("Mul", [e.emit("Reshape", [inner, whole], f"{name}_whole"), weight], f"{name}_scaled")
    return e.emit("Add", [scaled, bias], name)


def _learnt(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    tensor = e.state[f"{step.name}.weight"].reshape(learnt_shape(step.row)) if step.row[Column.KIND] else step.scalar
    name = e.constant(f"{step.name}.weight", tensor)
    return e.emit("Mul" if step.op is Op.SCALE else "Add", [xs[0], name], step.name)


def _extend(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    axis, name = step.row[Column.AXIS], step.name
    tensor = e.constant(f"{name}.weight", e.state[f"{name}.weight"][None])
    whole = e.emit("Shape", xs, f"{name}_whole")
    batch = e.emit("Slice", [whole, e.whole("from0", [0]), e.whole("to1", [1])], f"{name}_batch")
    sizes = e.emit("Concat", [batch, e.whole("ones3", [1, 1, 1])], f"{name}_sizes", axis=0)
    repeated = e.emit("Expand", [tensor, sizes], f"{name}_repeated")
    parts = [repeated, xs[0]] if step.row[Column.OFFSET_C + axis] else [xs[0], repeated]
    return e.emit("Concat", parts, name, axis=axis + 1)


def _leakyrelu(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    if not step.row[Column.PARAMS]:
        return e.emit("LeakyRelu", xs, step.name, alpha=step.scalar)
    slope = e.constant(f"{step.name}.weight", e.state[f"{step.name}.weight"].reshape(-1, 1, 1))
    return e.emit("PRelu", [*xs, slope], step.name)


def _pool(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    """A pool with explicit padding for all its windows, so that rounding rules of the reader do not matter."""
    row, (ph, pw), (h, w) = step.row, step.pair(Column.PAD_H), step.pair(Column.H_OUT)
    if step.op is Op.AVGPOOL and row[Column.COUNT_PAD]:
        rounded = [-(-_span(row, i) // row[Column.STRIDE_H + i]) + 1 for i in range(2)]
        if not row[Column.CEIL_MODE] or rounded == [h, w]:
            flags = {"ceil_mode": row[Column.CEIL_MODE], "count_include_pad": 1}
            return e.emit("AveragePool", xs, step.name, **_window(step), pads=[ph, pw, ph, pw], **flags)
        # One axis rounds up, the other drops a window: the padding, which counts, becomes part of the map.
        pads = e.whole(f"{step.name}_pads", [0, 0, ph, pw, 0, 0, ph, pw])
        xs, ph, pw = [e.emit("Pad", [xs[0], pads], f"{step.name}_padded")], 0, 0
    beyond = [max(0, (n - 1) * row[Column.STRIDE_H + i] - _span(row, i)) for i, n in enumerate((h, w))]
    op = "MaxPool" if step.op is Op.MAXPOOL else "AveragePool"
    return e.emit(op, xs, step.name, **_window(step), pads=[ph, pw, ph + beyond[0], pw + beyond[1]])


def _span(row: tuple[int, ...], axis: int) -> int:
    """How far a window can move along height (0) or width (1)."""
    return row[Column.H_IN + axis] + 2 * row[Column.PAD_H + axis] - row[Column.KERNEL_H + axis]


def _gelu(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    """The operator, or before opset 20 x · (1 + curve) / 2."""
    x, name, tanh = xs[0], step.name, step.row[Column.KIND]
    if e.opset >= 20:
        return e.emit("Gelu", xs, name, approximate="tanh" if tanh else "none")
    if tanh:
        cubic = e.emit(
            "Mul",
            [e.emit("Pow", [x, e.constant("three", 3.0)], f"{name}_cube"), e.constant("gelu_cubic", 0.044715)],
            f"{name}_cubic",
        )
        total = e.emit("Add", [x, cubic], f"{name}_total")
        scaled = e.emit("Mul", [total, e.constant("gelu_tanh", math.sqrt(2 / math.pi))], f"{name}_scaled")
    else:
        scaled = e.emit("Mul", [x, e.constant("gelu_scale", math.sqrt(0.5))], f"{name}_scaled")
    curve = e.emit("Tanh" if tanh else "Erf", [scaled], f"{name}_curve")
    shifted = e.emit("Add", [curve, e.constant("gelu_one", 1.0)], f"{name}_shifted")
    half = e.emit("Mul", [x, e.constant("gelu_half", 0.5)], f"{name}_half")
    return e.emit("Mul", [half, shifted], name)


def _swish(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    return e.emit("Mul", [xs[0], e.emit("Sigmoid", xs, f"{step.name}_gate")], step.name)


def _relu6(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    return e.emit("Clip", [xs[0], e.constant("relu6_min", 0.0), e.constant("relu6_max", 6.0)], step.name)


def _softmax(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    if step.row[Column.KIND]:
        rows, columns = step.pair(Column.H_OUT)
        mask = e.constant(f"causal{rows}x{columns}", np.triu(np.full((rows, columns), -np.inf), 1))
        xs = [e.emit("Add", [xs[0], mask], f"{step.name}_masked")]
    return e.emit("Softmax", xs, step.name, axis=step.row[Column.AXIS] + 1)


def _matmul(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    right = e.emit("Transpose", xs[1:], f"{step.name}_turned", perm=[0, 1, 3, 2]) if step.row[Column.KIND] else xs[1]
    return e.emit("MatMul", [xs[0], right], step.name)


def _plain(op: str, **attributes: Any) -> Callable[[Emitter, PlanStep, list[str]], str]:
    return lambda e, step, xs: e.emit(op, xs, step.name, **attributes)


#: Functions that emit the ONNX nodes of an operation: (emitter, step, names of inputs) -> name of the result.
EMIT: dict[Op, Callable[[Emitter, PlanStep, list[str]], str]] = {
    Op.INPUT: lambda _e, _step, _xs: "image",
    Op.OUTPUT: lambda e, _step, xs: e.emit("Identity", xs, "result"),
    Op.CONV: _conv,
    Op.DEPTHWISE: _conv,
    Op.CONVTRANSPOSE: _conv,
    Op.LINEAR: _linear,
    Op.BATCHNORM: _batchnorm,
    Op.LAYERNORM: _layernorm,
    Op.GROUPNORM: _groupnorm,
    Op.SCALE: _learnt,
    Op.SHIFT: _learnt,
    Op.LEAKYRELU: _leakyrelu,
    Op.EXTEND: _extend,
    Op.RELU: _plain("Relu"),
    Op.RELU6: _relu6,
    Op.SIGMOID: _plain("Sigmoid"),
    Op.TANH: _plain("Tanh"),
    Op.SWISH: _swish,
    Op.GELU: _gelu,
    Op.HARDSIGMOID: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    Op.SOFTMAX: _softmax,
    Op.IDENTITY: _plain("Identity"),
    Op.ZERO: lambda e, step, xs: e.emit("Mul", [xs[0], e.constant("zero", 0.0)], step.name),
    Op.POWER: lambda e, step, xs: e.emit("Pow", [xs[0], e.constant(f"{step.name}_exponent", step.scalar)], step.name),
    Op.ADD: lambda e, step, xs: e.fold("Add", xs, step.name),
    Op.MUL: lambda e, step, xs: e.fold("Mul", xs, step.name),
    Op.CONCAT: lambda e, step, xs: e.emit("Concat", xs, step.name, axis=step.row[Column.AXIS] + 1),
    Op.MATMUL: _matmul,
    Op.MEAN: _plain("GlobalAveragePool"),
    Op.MAXPOOL: _pool,
    Op.AVGPOOL: _pool,
    Op.SLICE: maps.cut,
    Op.PAD: maps.pad,
    Op.RESIZE: maps.resize,
    Op.RESHAPE: maps.reshape,
    Op.PERMUTE: lambda e, step, xs: e.emit(
        "Transpose", xs, step.name, perm=[0, *(axis + 1 for axis in permutation(step.row))]
    ),
    Op.SPACETODEPTH: maps.space_to_depth,
    Op.DEPTHTOSPACE: lambda e, step, xs: e.emit(
        "DepthToSpace", xs, step.name, blocksize=step.row[Column.KERNEL_H], mode="CRD"
    ),
}
