"""Small ONNX models, written node by node, and the graphs that they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from space_checks import graph_hash

from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.graph import ComputationGraph
from gennape.search_spaces.importing.onnx import from_onnx

Build = Callable[[GraphBuilder, Value], Value]
IMAGE = (3, 8, 10)
#: The learnt and counted numbers of a batch normalisation of the image.
BN: dict[str, Any] = {f"bn{i}": (3,) for i in range(4)}


def graph_of(build: Build, shape: tuple[int, int, int] = IMAGE) -> ComputationGraph:
    b = GraphBuilder()
    b.output(build(b, b.input(*shape)))
    return b.build()


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are separated by spaces, ``_`` is one that is left out."""
    names = ["" if name == "_" else name for name in inputs.split(" ")]
    return helper.make_node(op, [name for name in names if inputs], outputs.split(" "), **attributes)


def model_of(
    *nodes: onnx.NodeProto, opset: int = 18, shape: tuple[int | str, ...] = ("n", *IMAGE), **constants: Any
) -> onnx.ModelProto:
    """A model that takes ``x`` and gives ``y``; a constant that is a tuple is a weight of that shape."""
    tensors = [
        numpy_helper.from_array(np.zeros(value, np.float32) if isinstance(value, tuple) else np.asarray(value), name)
        for name, value in constants.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def assert_same(model: onnx.ModelProto, build: Build, shape: tuple[int, int, int] = IMAGE) -> None:
    assert graph_hash(from_onnx(model).graph) == graph_hash(graph_of(build, shape))
