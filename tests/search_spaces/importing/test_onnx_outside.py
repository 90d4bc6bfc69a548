"""Operators outside the vocabulary: their shapes are onnxruntime's, and what can be told by others is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import IMAGE, assert_same, model_of, node
from onnx_numbers import assert_as_onnxruntime, by_graph

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx import from_onnx

X = np.random.default_rng(0).normal(size=(1, *IMAGE)).astype(np.float32)
GRID = np.zeros((1, 5, 6, 2), np.float32)


def one(op: str, inputs: str, outputs: str = "y", **given: Any) -> onnx.ModelProto:
    """A model of one operator; what is given as an array is a constant, else an attribute."""
    constants = {name: value for name, value in given.items() if isinstance(value, np.ndarray | np.generic)}
    attributes = {name: value for name, value in given.items() if name not in constants}
    return model_of(node(op, inputs, outputs, **attributes), opset=20, shape=(1, *IMAGE), **constants)


SHAPED: dict[str, tuple[onnx.ModelProto, str]] = {
    "grid": (one("GridSample", "x g", g=GRID), "grid_sampler"),
    "gather": (one("GatherElements", "x i", axis=3, i=np.zeros((1, 3, 8, 4), np.int64)), "gather"),
    "places": (one("GatherND", "x i", i=np.zeros((1, 2, 2), np.int64)), "index"),
    "scatter": (one("ScatterND", "x i u", i=np.zeros((1, 2), np.int64), u=np.ones((1, 8, 10), np.float32)), "scatter"),
    "largest": (one("TopK", "x k", "y p", axis=2, k=np.array([3])), "topk"),
    "picked": (one("Compress", "x c", axis=2, c=np.array([True, False, True])), "index"),
    "regions": (
        one(
            "RoiAlign", "x r i", output_height=3, output_width=2, r=np.ones((4, 4), np.float32), i=np.zeros(4, np.int64)
        ),
        "roi_align",
    ),
    "powers": (one("LpPool", "x", kernel_shape=[2, 3], strides=[2, 1]), "lp_pool"),
    "logarithm": (one("ReduceLogSum", "x a", a=np.array([2])), "log_sum"),
    "hyperbolic": (one("Asinh", "x"), "asinh"),
}


@pytest.mark.parametrize("name", SHAPED)
def test_a_result_has_the_shape_of_onnxruntime(name: str) -> None:
    model, operation = SHAPED[name]
    assert from_onnx(model).others == {operation: 1}
    assert not assert_as_onnxruntime(model, X, executable=False)


TOLD: dict[str, onnx.ModelProto] = {
    "mean": model_of(node("Relu", "x", "r"), node("Mean", "x r x"), shape=(1, *IMAGE)),
    "mean of one": one("Mean", "x"),
    "cut": one("CenterCropPad", "x s", axes=[2, 3], s=np.array([5, 7])),
    "padded": one("CenterCropPad", "x s", axes=[2, 3], s=np.array([11, 13])),
    "both": one("CenterCropPad", "x s", axes=[3, 2], s=np.array([13, 5])),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_others_can_tell_is_executed(name: str) -> None:
    assert assert_as_onnxruntime(TOLD[name], X)


def test_swish_is_one_where_nothing_is_scaled() -> None:
    swish = model_of(node("Swish", "x"), opset=24)
    assert_same(swish, lambda b, x: b.elementwise(Op.SWISH, x))
    scaled = from_onnx(model_of(node("Swish", "x", alpha=2.0), opset=24))
    assert scaled.others == {}
    np.testing.assert_allclose(by_graph(scaled.graph, X), X / (1 + np.exp(-2 * X)), rtol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        one("GridSample", "x g", g=GRID[..., :1]),
        one("TopK", "x k", "y p", k=np.array([99])),
        one("GatherND", "x i", i=np.zeros((1, 9), np.int64)),
        one("Compress", "x c", axis=1, c=np.array([False])),
        one("CenterCropPad", "x s", s=np.array([5, 7])),
    ],
)
def test_what_does_not_fit_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(InvalidGraphError):
        from_onnx(model)


def test_zeros_are_normalised_to_zeros() -> None:
    image = np.maximum(X, 0)
    image[:, :, 2] = 0
    assert assert_as_onnxruntime(one("LpNormalization", "x", axis=3, p=2), image, tolerance=1e-4)


def test_pixels_become_channels_in_both_orders() -> None:
    """In opset 28 the channels may be outermost; 3x8x10 in blocks of 2."""
    blocks = X.reshape(1, 3, 4, 2, 5, 2)
    for mode, order in (("CRD", (0, 1, 3, 5, 2, 4)), ("DCR", (0, 3, 5, 1, 2, 4))):
        # What only turns the result round is no part of a graph, so something takes it.
        turned = node("SpaceToDepth", "x", "turned", blocksize=2, mode=mode)
        model = model_of(turned, node("Relu", "turned"), opset=28)
        expected = np.maximum(blocks.transpose(order).reshape(1, 12, 4, 5), 0)
        np.testing.assert_array_equal(by_graph(from_onnx(model).graph, X), expected)
