"""Pools of ONNX give the numbers that onnxruntime gives, whatever their padding, rounding and windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from example_counts import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx_models import model_of, node
from onnx_numbers import assert_as_onnxruntime

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx import from_onnx

POOLS = ("MaxPool", "AveragePool")
PAIRS = ((1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 3), (5, 4), (2, 5))


def pool(op: str, size: tuple[int, int], opset: int = 19, **attributes: Any) -> onnx.ModelProto:
    return model_of(node(op, "x", **attributes), opset=opset, shape=(1, 2, *size))


def image(size: tuple[int, int], seed: int = 0) -> np.ndarray[Any, Any]:
    # Below zero, so that zeros taken for padding would be seen in a maximum.
    return np.random.default_rng(seed).normal(size=(1, 2, *size)).astype(np.float32) - 4


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [(2, 2), (2, 1), (1, 2), (4, 3)])
@pytest.mark.parametrize("op", POOLS)
def test_a_pool_of_even_windows_keeps_the_size(op: str, kernel: tuple[int, int], automatic: str) -> None:
    model = pool(op, (13, 13), kernel_shape=kernel, strides=[1, 1], auto_pad=automatic)
    assert assert_as_onnxruntime(model, image((13, 13)))
    graph = from_onnx(model).graph
    assert graph.nodes[-1, 1:7].tolist() == [2, 13, 13, 2, 13, 13]
    # Padding that is not counted needs no map that is padded beforehand.
    assert Op.PAD not in graph.nodes[:, 0]


def test_padding_that_is_written_out_is_that_of_same() -> None:
    written = pool("AveragePool", (13, 13), kernel_shape=[2, 2], strides=[1, 1], pads=[0, 0, 1, 1])
    assert assert_as_onnxruntime(written, image((13, 13)))


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_every_pool_gives_the_numbers_of_onnxruntime(data: st.DataObject) -> None:
    op, size = data.draw(st.sampled_from(POOLS)), data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    kernel, strides = (data.draw(st.sampled_from(PAIRS)) for _ in range(2))
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if data.draw(st.booleans()):
        attributes["auto_pad"] = data.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        attributes["pads"] = [data.draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4)]
        attributes["ceil_mode"] = data.draw(st.integers(0, 1))
    if op == "AveragePool":
        attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    try:
        model = pool(op, size, **attributes)
        from_onnx(model)
    except InvalidGraphError as error:
        assert "do not fit" in str(error) or "skip pixels" in str(error)  # noqa: PT017 - what may be refused
        assume(False)
    assume(attributes.get("auto_pad", "VALID") == "VALID" or all(np.less_equal(strides, kernel)))
    # Where a mean leaves out more padding than half a window, the graph has a node without a code for it.
    far = op == "AveragePool" and not attributes.get("count_include_pad")
    assert_as_onnxruntime(model, image(size, 1), executable=not far)


@pytest.mark.parametrize("op", POOLS)
def test_a_dilated_pool_is_an_operation_outside_the_vocabulary(op: str) -> None:
    model = pool(op, (9, 8), kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 1, 1])
    imported = from_onnx(model)
    assert imported.others == {f"dilated_{'max' if op == 'MaxPool' else 'avg'}_pool": 1}
    assert not assert_as_onnxruntime(model, image((9, 8)), executable=False)


def test_a_pool_of_several_maps_is_one_of_all_their_channels() -> None:
    model = model_of(
        node("Reshape", "x s", "m"),
        node("MaxPool", "m", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "p t"),
        shape=(1, 6, 4, 4),
        s=np.array([2, 3, 4, 4]),
        t=np.array([1, 6, 2, 2]),
    )
    assert assert_as_onnxruntime(model, np.random.default_rng(0).normal(size=(1, 6, 4, 4)).astype(np.float32))
