"""General matrix products: what is learnt, and the numbers of onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import model_of, node
from onnx_numbers import assert_as_onnxruntime, by_graph, by_onnxruntime

from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.onnx import from_onnx

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1, 3, 1, 1)).astype(np.float32)
W = RNG.normal(size=(3, 4)).astype(np.float32)


def gemm(bias: Any = None, matrix: Any = W, **attributes: Any) -> Any:
    constants = {"w": matrix, "s": np.array([1, 3])} | ({} if bias is None else {"c": np.asarray(bias, np.float32)})
    nodes = [node("Reshape", "x s", "r"), node("Gemm", "r w" if bias is None else "r w c", **attributes)]
    return model_of(*nodes, shape=(1, 3, 1, 1), **constants)


@pytest.mark.parametrize(
    ("bias", "params"),
    [(None, 12), (0.5, 13), ([0.5], 13), ([[0.5]], 13), ([1, 2, 3, 4], 16), ([[1, 2, 3, 4]], 16)],
    ids=["none", "()", "[1]", "[1, 1]", "[n]", "[1, n]"],
)
def test_a_bias_counts_as_many_numbers_as_it_has(bias: Any, params: int) -> None:
    model = gemm(bias, alpha=0.5, beta=2.0)
    graph = from_onnx(model).graph
    assert cost.params(pack([graph]))[0] == params
    weights = {"linear1.weight": 0.5 * W.T}
    if params == 16:
        weights["linear1.bias"] = 2 * np.asarray(bias, np.float32).reshape(4)
    elif params == 13:
        weights["shift1.weight"] = 2 * np.asarray(bias, np.float32).reshape(1, 1, 1)
    made = by_graph(graph, X, weights).reshape(1, 4)
    np.testing.assert_allclose(made, by_onnxruntime(model, X), 1e-5)


def test_a_bias_that_counts_nothing_is_none() -> None:
    assert cost.params(pack([from_onnx(gemm([1, 2, 3, 4], beta=0.0)).graph]))[0] == 12


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_learnt_matrix_may_be_turned(turned: tuple[int, int]) -> None:
    columns, turns = np.array([3, 1] if turned[0] else [1, 3]), dict(zip(("transA", "transB"), turned, strict=True))
    matrix = np.ascontiguousarray(W.T) if turned[1] else W
    nodes = node("Reshape", "x s", "r"), node("Gemm", "r w", **turns)
    model = model_of(*nodes, shape=(1, 3, 1, 1), s=columns, w=matrix)
    made = by_graph(from_onnx(model).graph, X, {"linear1.weight": np.ascontiguousarray(W.T)})
    np.testing.assert_allclose(made.reshape(1, 4), by_onnxruntime(model, X), 1e-5)


@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_two_computed_matrices_are_multiplied(turned: tuple[int, int]) -> None:
    """A · B + C, all of the image: rows and columns of a map of 4x4."""
    turns = dict(zip(("transA", "transB"), turned, strict=True))
    nodes = node("Reshape", "x s", "a"), node("Relu", "a", "b"), node("Tanh", "a", "c")
    model = model_of(
        *nodes, node("Gemm", "a b c", alpha=0.5, beta=2.0, **turns), shape=(1, 1, 4, 4), s=np.array([4, 4])
    )
    assert assert_as_onnxruntime(model, RNG.normal(size=(1, 1, 4, 4)).astype(np.float32))
