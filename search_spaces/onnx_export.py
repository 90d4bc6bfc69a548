"""Take a network home: ONNX, an exported PyTorch program, or a Python file that defines it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from gennape.errors import ConfigError
from gennape.search_spaces.atomic import replacing
from gennape.search_spaces.graph import Column, ComputationGraph
from gennape.search_spaces.module import LAYERS, Step, execution_plan
from gennape.search_spaces.ops import Op
from gennape.search_spaces.python_export import to_python

__all__ = ["to_onnx", "to_pt2", "to_python"]

_DTYPES = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE}
_OPSETS = range(13, 24)


def to_onnx(graph: ComputationGraph, module: nn.Module, path: Path, opset: int = 18) -> None:
    """Write ``graph`` with the weights of ``module`` as ONNX: ``image`` in, ``result`` out, any batch size.

    ``module`` is what :func:`compile_graph` made of ``graph`` (float32 or float64); the file describes it at inference.
    Raises :class:`ConfigError` for an opset outside 13..23 or another number type, :class:`WorkspaceError` where
    ``path`` cannot be written.
    """
    if opset not in _OPSETS:
        raise ConfigError(f"opset is {opset}, must be {_OPSETS[0]}..{_OPSETS[-1]}")
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    if dtype not in _DTYPES:
        raise ConfigError(f"the module computes in {dtype}; convert it to float32 or float64 before the export")
    model = _model(graph, module, dtype, opset)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def to_pt2(graph: ComputationGraph, module: nn.Module, path: Path) -> None:
    """Write ``module`` in inference mode as a program that ``torch.export.load`` reads; it takes any batch size.

    Raises :class:`WorkspaceError` where ``path`` cannot be written.
    """
    row = graph.nodes[graph.nodes[:, Column.OP] == Op.INPUT][0]
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    image = torch.zeros((2, *row[Column.C_IN : Column.W_IN + 1].tolist()), dtype=dtype)
    training = module.training
    try:
        program = torch.export.export(module.eval(), (image,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    finally:
        module.train(training)
    with replacing(path) as temporary:
        torch.export.save(program, temporary)


class _Emitter:
    """Collects the nodes and constants of an ONNX graph."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def emit(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add one node; returns the name of its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any, dtype: Any = None) -> str:
        """Add a tensor, by default of the network's number type; equal names are the same tensor."""
        self.constants[name] = numpy_helper.from_array(np.asarray(values, dtype or self.dtype), name)
        return name

    def fold(self, op: str, inputs: list[str], output: str) -> str:
        """A two-input operation over any number of inputs, from the left."""
        total = inputs[0]
        for i, value in enumerate(inputs[1:], 2):
            total = self.emit(op, [total, value], output if i == len(inputs) else f"{output}_part{i}")
        return total if len(inputs) > 1 else self.emit("Identity", inputs, output)


def _model(graph: ComputationGraph, module: nn.Module, dtype: torch.dtype, opset: int) -> onnx.ModelProto:
    plan = execution_plan(graph)
    emitter = _Emitter(np.dtype(helper.tensor_dtype_to_np_dtype(_DTYPES[dtype])))
    state = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    names: dict[int, str] = {}
    flat = {step.node: step.flat for step in plan}
    for step in plan:
        taken = [names[node] for node in step.inputs]
        if not step.flat and step.op not in (Op.LINEAR, Op.INPUT):
            for i, node in enumerate(step.inputs):
                if flat[node]:
                    axes = emitter.constant("map_axes", [2, 3], np.int64)
                    taken[i] = emitter.emit("Unsqueeze", [names[node], axes], f"{step.name}_map{i}")
        if step.op is Op.LINEAR and not flat[step.inputs[0]]:
            taken = [emitter.emit("Flatten", taken, f"{step.name}_flat", axis=1)]
        if step.op in LAYERS:
            taken += [
                emitter.constant(f"{step.name}.{part}", state[f"{step.name}.{part}"])
                for part in ("weight", "bias", "running_mean", "running_var")
                if f"{step.name}.{part}" in state
            ]
        names[step.node] = _EMIT[step.op](emitter, step, taken)
    (source,) = (step for step in plan if step.op is Op.INPUT)
    (sink,) = (step for step in plan if step.op is Op.OUTPUT)
    c, h, w = source.row[Column.C_IN : Column.W_IN + 1]
    shape: list[str | int | None] = ["batch", *sink.row[Column.C_OUT : Column.C_OUT + (1 if sink.flat else 3)]]
    proto = helper.make_graph(
        emitter.nodes,
        "gennape",
        [helper.make_tensor_value_info("image", _DTYPES[dtype], ["batch", c, h, w])],
        [helper.make_tensor_value_info("result", _DTYPES[dtype], shape)],
        list(emitter.constants.values()),
    )
    opsets = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(opsets)
    return helper.make_model(proto, opset_imports=opsets, ir_version=version, producer_name="gennape")


def _conv(e: _Emitter, step: Step, xs: list[str]) -> str:
    return e.emit(
        "Conv",
        xs,
        step.name,
        kernel_shape=step.pair(Column.KERNEL_H),
        strides=step.pair(Column.STRIDE_H),
        pads=step.pair(Column.PAD_H) * 2,
        dilations=step.pair(Column.DILATION_H),
        group=step.row[Column.GROUPS],
    )


def _pool(e: _Emitter, step: Step, xs: list[str]) -> str:
    """A pool with the padding that its windows reach, so that no rounding rule of the reader matters."""
    row, (ph, pw) = step.row, step.pair(Column.PAD_H)
    beyond = [
        max(0, (row[Column.H_OUT + i] - 1) * row[Column.STRIDE_H + i] + row[Column.KERNEL_H + i] - size - 2 * pad)
        for i, (size, pad) in enumerate(((row[Column.H_IN], ph), (row[Column.W_IN], pw)))
    ]
    if step.op is Op.AVGPOOL and row[Column.COUNT_PAD] and (ph or pw):
        # Zeros that count are made part of the map; what a rounded-up window reaches beyond them does not count.
        pads = e.constant(f"{step.name}_pads", [0, 0, ph, pw, 0, 0, ph, pw], np.int64)
        xs, ph, pw = [e.emit("Pad", [xs[0], pads], f"{step.name}_padded")], 0, 0
    return e.emit(
        "MaxPool" if step.op is Op.MAXPOOL else "AveragePool",
        xs,
        step.name,
        kernel_shape=step.pair(Column.KERNEL_H),
        strides=step.pair(Column.STRIDE_H),
        pads=[ph, pw, ph + beyond[0], pw + beyond[1]],
    )


def _slice(e: _Emitter, step: Step, xs: list[str]) -> str:
    starts = step.row[Column.OFFSET_C : Column.OFFSET_W + 1]
    ends = [start + size for start, size in zip(starts, step.row[Column.C_OUT : Column.W_OUT + 1], strict=True)]
    bounds = [e.constant(f"{step.name}_{key}", v, np.int64) for key, v in (("starts", starts), ("ends", ends))]
    return e.emit("Slice", [*xs, *bounds, e.constant("slice_axes", [1, 2, 3], np.int64)], step.name)


def _gelu(e: _Emitter, step: Step, xs: list[str]) -> str:
    """x · (1 + erf(x / √2)) / 2: opset 18 has no node of its own."""
    scaled = e.emit("Mul", [xs[0], e.constant("gelu_scale", math.sqrt(0.5))], f"{step.name}_scaled")
    shifted = e.emit(
        "Add", [e.emit("Erf", [scaled], f"{step.name}_erf"), e.constant("gelu_one", 1.0)], f"{step.name}_shifted"
    )
    half = e.emit("Mul", [xs[0], e.constant("gelu_half", 0.5)], f"{step.name}_half")
    return e.emit("Mul", [half, shifted], step.name)


def _linear(e: _Emitter, step: Step, xs: list[str]) -> str:
    return e.emit("Gemm", xs, step.name, transB=1)


def _swish(e: _Emitter, step: Step, xs: list[str]) -> str:
    return e.emit("Mul", [xs[0], e.emit("Sigmoid", xs, f"{step.name}_gate")], step.name)


def _relu6(e: _Emitter, step: Step, xs: list[str]) -> str:
    return e.emit("Clip", [xs[0], e.constant("relu6_min", 0.0), e.constant("relu6_max", 6.0)], step.name)


def _plain(op: str, **attributes: Any) -> Callable[[_Emitter, Step, list[str]], str]:
    return lambda e, step, xs: e.emit(op, xs, step.name, **attributes)


#: The ONNX nodes of an operation: (emitter, step, names of inputs and weights) -> name of the result.
_EMIT: dict[Op, Callable[[_Emitter, Step, list[str]], str]] = {
    Op.INPUT: lambda _e, _step, _xs: "image",
    Op.OUTPUT: lambda e, _step, xs: e.emit("Identity", xs, "result"),
    Op.CONV: _conv,
    Op.DEPTHWISE: _conv,
    Op.LINEAR: _linear,
    Op.BATCHNORM: lambda e, step, xs: e.emit("BatchNormalization", xs, step.name, epsilon=step.scalar),
    Op.RELU: _plain("Relu"),
    Op.RELU6: _relu6,
    Op.SIGMOID: _plain("Sigmoid"),
    Op.TANH: _plain("Tanh"),
    Op.SWISH: _swish,
    Op.GELU: _gelu,
    Op.HARDSIGMOID: _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    Op.IDENTITY: _plain("Identity"),
    Op.ZERO: lambda e, step, xs: e.emit("Mul", [xs[0], e.constant("zero", 0.0)], step.name),
    Op.ADD: lambda e, step, xs: e.fold("Add", xs, step.name),
    Op.MUL: lambda e, step, xs: e.fold("Mul", xs, step.name),
    Op.CONCAT: _plain("Concat", axis=1),
    Op.MEAN: _plain("GlobalAveragePool"),
    Op.MAXPOOL: _pool,
    Op.AVGPOOL: _pool,
    Op.SLICE: _slice,
}
