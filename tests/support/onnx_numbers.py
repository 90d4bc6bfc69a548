"""Numbers of an ONNX model by onnxruntime, and of the graph that is read from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx import from_onnx


def by_onnxruntime(model: onnx.ModelProto, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    model.ir_version = min(model.ir_version, 10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: image})
    return np.asarray(result)


def by_graph(
    graph: ComputationGraph, image: np.ndarray[Any, Any], weights: dict[str, np.ndarray[Any, Any]] | None = None
) -> np.ndarray[Any, Any]:
    module = compile_graph(graph).eval()
    state = {name: torch.from_numpy(np.asarray(values)) for name, values in (weights or {}).items()}
    module.load_state_dict(state, strict=set(state) != set())
    with torch.no_grad():
        return np.asarray(module(torch.from_numpy(image)).numpy())


def is_executable(graph: ComputationGraph) -> bool:
    return not (graph.nodes[:, Column.OP] == Op.OTHER).any()


def assert_as_onnxruntime(
    model: onnx.ModelProto, image: np.ndarray[Any, Any], executable: bool = True, tolerance: float = 1e-5
) -> bool:
    """Equal numbers, in the same order; ``executable`` False lets a graph hold operations outside the vocabulary.

    Returns whether the graph was executed.
    """
    graph = from_onnx(model).graph
    expected = by_onnxruntime(model, image)
    if not is_executable(graph):
        assert not executable
        assert np.prod(graph.nodes[-1, Column.C_OUT : Column.W_OUT + 1]) == expected.size
        return False
    np.testing.assert_allclose(by_graph(graph, image).reshape(expected.shape), expected, tolerance, tolerance)
    return True
