"""Operators that do nothing, those that only look so, and results that nothing takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import IMAGE, assert_same, model_of, node
from onnx_numbers import assert_as_onnxruntime, by_onnxruntime

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx import from_onnx

X = 3 * np.random.default_rng(0).normal(size=(1, *IMAGE)).astype(np.float32)


def cast(*targets: int, **constants: Any) -> onnx.ModelProto:
    names = ["x", *(f"c{i}" for i in range(len(targets) - 1)), "y"]
    nodes = [node("Cast", a, b, to=to) for a, b, to in zip(names[:-1], names[1:], targets, strict=True)]
    return model_of(*nodes, shape=(1, *IMAGE), **constants)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.FLOAT])
def test_a_cast_between_real_numbers_is_nothing(kind: int) -> None:
    assert_same(cast(kind, TensorProto.FLOAT), lambda _, x: x)
    np.testing.assert_allclose(by_onnxruntime(cast(kind, TensorProto.FLOAT), X), X, 0.01)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TensorProto.INT32, "trunc"),
        (TensorProto.INT64, "trunc"),
        (TensorProto.UINT8, "trunc"),
        (TensorProto.BOOL, "ne"),
    ],
)
def test_a_cast_to_whole_numbers_is_seen(kind: int, name: str) -> None:
    model = cast(kind, TensorProto.FLOAT)
    assert from_onnx(model).others == {name: 1}
    assert (by_onnxruntime(model, np.abs(X)) != np.abs(X)).any()


def test_whole_numbers_stay_what_they_are_where_they_fit() -> None:
    model = cast(TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT)
    assert from_onnx(model).others == {"trunc": 1}
    assert from_onnx(cast(TensorProto.INT32, TensorProto.INT8, TensorProto.FLOAT)).others == {"trunc": 1, "wrap": 1}
    assert from_onnx(cast(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT)).others == {"round_to_few_bits": 1}


def test_a_cast_like_another_value_is_a_cast() -> None:
    like = model_of(node("CastLike", "x i", "w"), node("Cast", "w", to=1), shape=(1, *IMAGE), i=np.array([1]))
    assert from_onnx(like).others == {"trunc": 1}
    assert_same(model_of(node("CastLike", "x f"), f=np.float32(1)), lambda _, x: x)
    # A constant is cut off before it is added: 1.75 becomes 1.
    cut = model_of(
        node("CastLike", "c i", "w"), node("Cast", "w", "v", to=1), node("Add", "x v"), i=1, c=np.float32(1.75)
    )
    assert_same(cut, lambda b, x: b.shift(x, (), 1.0))


def test_images_of_bytes_come_in() -> None:
    model = model_of(node("Cast", "x", "f", to=TensorProto.FLOAT), node("Relu", "f"), shape=(1, *IMAGE))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    assert_same(model, lambda b, x: b.relu(x))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_bytes_are_not_reckoned_with_as_real_numbers(op: str) -> None:
    """200 + 100 is 44 and 7 / 2 is 3, which no sum or product of a graph gives."""
    model = model_of(node(op, "x c", "z"), node("Cast", "z", to=TensorProto.FLOAT), shape=(1, *IMAGE), c=np.uint8(100))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    assert sum(from_onnx(model).others.values()) == 1


def test_a_mean_of_whole_numbers_is_whole() -> None:
    means = node("ReduceMean", "i a", "m", keepdims=1), node("Cast", "m", to=TensorProto.FLOAT)
    model = model_of(node("Cast", "x", "i", to=TensorProto.INT32), *means, shape=(1, *IMAGE), a=np.array([2, 3]))
    assert from_onnx(model).others == {"floor_mean": 1, "trunc": 1}
    made = by_onnxruntime(model, X)
    assert (made == np.trunc(made)).all()


def test_dropout_is_nothing_but_in_training() -> None:
    ratio, yes, no = np.float32(0.5), np.array(True), np.array(False)
    for model in (
        model_of(node("Dropout", "x r", "y m"), r=ratio),
        model_of(node("Dropout", "x r t", "y m"), r=ratio, t=no),
        model_of(node("Dropout", "x r t"), r=np.float32(0), t=yes),
    ):
        assert_same(model, lambda _, x: x)
        np.testing.assert_array_equal(by_onnxruntime(model, X), X)
    with pytest.raises(InvalidGraphError, match="drops values at random"):
        from_onnx(model_of(node("Dropout", "x r t"), r=ratio, t=yes))


UNUSED: dict[str, onnx.ModelProto] = {
    "mask": model_of(node("Dropout", "x", "y mask")),
    "places": model_of(node("MaxPool", "x", "y places", kernel_shape=[2, 2])),
    "mean": model_of(node("LayerNormalization", "x s b", "y mean deviation", axis=-1), s=(10,), b=(10,)),
    "parts": model_of(node("Split", "x", "a y b", axis=3, num_outputs=3)),
}


@pytest.mark.parametrize("name", UNUSED)
def test_results_that_nothing_takes_are_left_out(name: str) -> None:
    graph = from_onnx(UNUSED[name]).graph
    if name == "parts":  # 10 columns in three: 4, 4 and 2
        assert graph.nodes[-1, 4:7].tolist() == [3, 8, 4]


def test_results_that_are_taken_are_not_left_out() -> None:
    model = model_of(node("MaxPool", "x", "p i", kernel_shape=[2, 2]), node("Cast", "i", to=TensorProto.FLOAT))
    with pytest.raises(InvalidGraphError, match="indices of the maxima, is used"):
        from_onnx(model)
    several = model_of(node("Dropout", "x", "y m"))
    several.graph.output.append(helper.make_tensor_value_info("m", TensorProto.BOOL, None))
    with pytest.raises(InvalidGraphError, match=r"2 outputs \(y, m\)"):
        from_onnx(several)


def test_a_mask_that_is_taken_keeps_everything() -> None:
    model = model_of(node("Dropout", "x", "d m"), node("Cast", "m", "f", to=TensorProto.FLOAT), node("Mul", "d f"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert from_onnx(model).graph.n_nodes >= 2


@pytest.mark.parametrize(
    "model",
    [
        model_of(node("Identity", "x"), shape=(1, *IMAGE)),
        model_of(node("Add", "x c"), shape=(1, *IMAGE), c=np.float32(0)),
        model_of(node("Mul", "x c"), shape=(1, *IMAGE), c=np.float32(1)),
        model_of(node("Pad", "x p"), shape=(1, *IMAGE), p=np.zeros(8, np.int64)),
        model_of(node("Expand", "x s"), shape=(1, *IMAGE), s=np.array([1, 1, 1, 10])),
        model_of(node("Slice", "x a b"), shape=(1, *IMAGE), a=np.array([0, 0]), b=np.array([1, 3])),
        model_of(node("Resize", "x _ s"), shape=(1, *IMAGE), s=np.ones(4, np.float32)),
        model_of(node("Concat", "x", axis=1), shape=(1, *IMAGE)),
        model_of(node("Tile", "x r"), shape=(1, *IMAGE), r=np.ones(4, np.int64)),
    ],
    ids=lambda model: model.graph.node[0].op_type,
)
def test_what_is_dropped_does_nothing(model: onnx.ModelProto) -> None:
    assert from_onnx(model).graph.n_nodes == 2
    assert assert_as_onnxruntime(model, X)
