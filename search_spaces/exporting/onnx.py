"""Export a network as ONNX, as a PyTorch program, or as a Python file that defines it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from gennape.errors import ConfigError, InvalidGraphError
from gennape.search_spaces.exporting.onnx_nodes.emit import EMIT
from gennape.search_spaces.exporting.onnx_nodes.emitter import Emitter
from gennape.search_spaces.exporting.python import to_python
from gennape.search_spaces.files.atomic import replacing
from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.operations import unknown_name
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.plan import NOT_EXECUTABLE, execution_plan

__all__ = ["to_onnx", "to_pt2", "to_python"]

_DTYPES = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE}
_OPSETS = range(13, 24)


def to_onnx(graph: ComputationGraph, module: nn.Module, path: Path, opset: int = 18) -> None:
    """Write ``graph`` with the weights of ``module`` as ONNX: ``image`` in, ``result`` out, any batch size.

    ``module`` is the result of :func:`compile_graph` for ``graph`` (float32 or float64), exported for inference.
    Raises :class:`ConfigError` for an opset outside 13..23 or another dtype, :class:`InvalidGraphError` for a graph
    that cannot be executed, :class:`WorkspaceError` if ``path`` cannot be written.
    """
    if opset not in _OPSETS:
        raise ConfigError(f"opset is {opset}, must be {_OPSETS[0]}..{_OPSETS[-1]}")
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    if dtype not in _DTYPES:
        raise ConfigError(f"the module computes in {dtype}; convert it to float32 or float64 before the export")
    _refuse_unexecutable(graph)
    model = _model(graph, module, dtype, opset)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def to_pt2(graph: ComputationGraph, module: nn.Module, path: Path) -> None:
    """Write ``module`` in inference mode as a program for ``torch.export.load``; it takes any batch size.

    Raises :class:`WorkspaceError` if ``path`` cannot be written.
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


def _refuse_unexecutable(graph: ComputationGraph) -> None:
    refused = ", ".join(
        f"{node} ({unknown_name(tuple(graph.nodes[node].tolist()))})"
        for node in np.flatnonzero(np.isin(graph.nodes[:, Column.OP], NOT_EXECUTABLE))
    )
    if refused:
        raise InvalidGraphError(
            f"nodes {refused} are described by cost and shape alone and cannot be exported; export the original network"
        )


def _first_names(module: nn.Module) -> dict[str, str]:
    """The first name of each tensor, by all its names in the module."""
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _model(graph: ComputationGraph, module: nn.Module, dtype: torch.dtype, opset: int) -> onnx.ModelProto:
    plan = execution_plan(graph)
    state = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    number_type = np.dtype(helper.tensor_dtype_to_np_dtype(_DTYPES[dtype]))
    emitter = Emitter(number_type, opset, state, _first_names(module))
    names: dict[int, str] = {}
    flat = {step.node: step.flat for step in plan}
    for step in plan:
        taken = [names[node] for node in step.inputs]
        if not step.flat:
            for i, node in enumerate(step.inputs):
                if flat[node]:
                    axes = emitter.whole("pixel_axes", [2, 3])
                    taken[i] = emitter.emit("Unsqueeze", [names[node], axes], f"{step.name}_map{i}")
        elif step.op is Op.LINEAR and not flat[step.inputs[0]]:
            taken = [emitter.emit("Flatten", taken, f"{step.name}_flat", axis=1)]
        names[step.node] = EMIT[step.op](emitter, step, taken)
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
