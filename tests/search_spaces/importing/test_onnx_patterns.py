"""What exporters write as several nodes of ONNX, as the one that it means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx_models import assert_same, model_of, node

from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx import from_onnx


@pytest.mark.parametrize("order", ["x g", "g x"])
def test_swish_is_put_together(order: str) -> None:
    assert_same(model_of(node("Sigmoid", "x", "g"), node("Mul", order)), lambda b, x: b.elementwise(Op.SWISH, x))


def test_a_gate_that_others_take_is_no_swish() -> None:
    model = model_of(node("Sigmoid", "x", "g"), node("Mul", "x g", "m"), node("Add", "m g"))

    def build(b: GraphBuilder, x: Value) -> Value:
        gate = b.elementwise(Op.SIGMOID, x)
        return b.add(b.mul(x, gate), gate)

    assert_same(model, build)


@pytest.mark.parametrize(
    "products",
    [
        [("Mul", "x o", "p"), ("Mul", "p h", "y")],
        [("Mul", "h o", "p"), ("Mul", "p x", "y")],
        [("Mul", "x h", "p"), ("Mul", "p o", "y")],
        [("Div", "x two", "p"), ("Mul", "o p", "y")],
    ],
)
def test_gelu_is_put_together_in_any_order(products: list[tuple[str, str, str]]) -> None:
    curve = [node("Div", "x r", "s"), node("Erf", "s", "e"), node("Add", "one e", "o")]
    model = model_of(
        *curve,
        *(node(op, inputs, out) for op, inputs, out in products),
        r=np.float32(math.sqrt(2)),
        one=np.float32(1),
        h=np.float32(0.5),
        two=np.float32(2),
    )
    assert_same(model, lambda b, x: b.gelu(x))


def test_another_erf_is_no_gelu() -> None:
    curve = [node("Mul", "x r", "s"), node("Erf", "s", "e"), node("Add", "e r", "o"), node("Mul", "o x")]
    imported = from_onnx(model_of(*curve, r=np.float32(0.5)))
    assert imported.others == {"erf": 1}


def test_layernorm_is_put_together() -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
        node("ReduceMean", "t", "m", axes=[-1]),
        node("Sub", "t m", "d"),
        node("Pow", "d two", "p"),
        node("ReduceMean", "p", "v", axes=[-1]),
        node("Add", "v eps", "e"),
        node("Sqrt", "e", "s"),
        node("Div", "d s", "n"),
        node("Mul", "n w", "k"),
        node("Add", "k b", "z"),
        node("Transpose", "z", perm=[0, 3, 1, 2]),
    ]
    constants: dict[str, Any] = {"two": np.float32(2), "eps": np.float32(1e-5), "w": (3,), "b": (3,)}
    assert_same(model_of(*nodes, opset=13, **constants), lambda b, x: b.layernorm(x))


def test_shapes_that_a_network_computes_are_known() -> None:
    """view(x.size(0), -1) as an exporter writes it, and the size of an upsampling."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n zeros", "u"),
        node("Constant", "", "rest", value=numpy_helper.from_array(np.array([-1]))),
        node("Concat", "u rest", "t", axis=0),
        node("Reshape", "x t", "flat"),
        node("Gemm", "flat w"),
    ]
    constants: dict[str, Any] = {"zero": np.array(0), "zeros": np.array([0]), "w": (240, 5)}
    assert_same(model_of(*nodes, **constants), lambda b, x: b.linear(b.reshape(x, 240, 1, 1), 5, bias=False))


def test_normalisations_without_learnt_tensors_are_told_apart() -> None:
    fills = [
        helper.make_node("ConstantOfShape", ["n"], [name], value=numpy_helper.from_array(np.array([v], np.float32)))
        for name, v in (("ones", 1), ("zeros", 0))
    ]
    model = model_of(*fills, node("BatchNormalization", "x ones zeros m v"), n=np.array([3]), m=(3,), v=(3,))
    assert_same(model, lambda b, x: b.batchnorm(x, affine=False))


def test_parts_without_use_are_left_out() -> None:
    model = model_of(node("Foo", "x", "unused"), node("Split", "x", "p q r", axis=1), node("Relu", "q"))
    assert_same(model, lambda b, x: b.relu(b.slice(x, 1, offset_c=1)))
