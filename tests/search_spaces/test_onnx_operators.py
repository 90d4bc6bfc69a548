"""Each operator of ONNX, and each pattern that exporters make of one, as the nodes that it should be."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gennape.errors import GennapeError
from gennape.search_spaces import cost
from gennape.search_spaces.builder import GraphBuilder, Value
from gennape.search_spaces.canonical import canonical_hashes
from gennape.search_spaces.graph import ComputationGraph, pack
from gennape.search_spaces.onnx_import import from_onnx
from gennape.search_spaces.ops import Op

Build = Callable[[GraphBuilder, Value], Value]
IMAGE = (3, 8, 10)


def _hash(graph: ComputationGraph) -> str:
    return canonical_hashes(pack([graph]))[0]


def _graph(build: Build, shape: tuple[int, int, int] = IMAGE) -> ComputationGraph:
    b = GraphBuilder()
    b.output(build(b, b.input(*shape)))
    return b.build()


def _node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are separated by spaces, ``_`` is one that is left out."""
    names = ["" if name == "_" else name for name in inputs.split(" ")]
    return helper.make_node(op, [name for name in names if inputs], outputs.split(" "), **attributes)


def _model(
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


def _same(model: onnx.ModelProto, build: Build, shape: tuple[int, int, int] = IMAGE) -> None:
    assert _hash(from_onnx(model).graph) == _hash(_graph(build, shape))


_BN: dict[str, Any] = {f"bn{i}": (3,) for i in range(4)}
OPERATORS: dict[str, tuple[onnx.ModelProto, Build]] = {
    "conv": (
        _model(_node("Conv", "x w b", pads=[1, 2, 1, 2], strides=[2, 1], dilations=[1, 2]), w=(6, 3, 3, 3), b=(6,)),
        lambda b, x: b.conv(x, 6, 3, (2, 1), (1, 2), (1, 2), bias=True),
    ),
    "depthwise": (
        _model(_node("Conv", "x w", kernel_shape=[3, 3], group=3), w=(3, 1, 3, 3)),
        lambda b, x: b.conv(x, 3, 3, 1, 0, groups=3),
    ),
    # 8 rows at stride 2 need (4 - 1) * 2 + 3 - 8 = 1 row more, below; 10 columns likewise.
    "conv same upper": (
        _model(_node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2]), w=(4, 3, 3, 3)),
        lambda b, x: b.conv(b.pad(x, (0, 0, 0), (0, 1, 1)), 4, 3, 2, 0),
    ),
    "conv same lower": (
        _model(_node("Conv", "x w", auto_pad="SAME_LOWER", strides=[2, 2]), w=(4, 3, 3, 3)),
        lambda b, x: b.conv(b.pad(x, (0, 1, 1), (0, 0, 0)), 4, 3, 2, 0),
    ),
    "conv same odd": (
        _model(_node("Conv", "x w", auto_pad="SAME_UPPER"), w=(4, 3, 5, 5)),
        lambda b, x: b.conv(x, 4, 5, 1, 2),
    ),
    "conv valid": (_model(_node("Conv", "x w", auto_pad="VALID"), w=(4, 3, 3, 3)), lambda b, x: b.conv(x, 4, 3, 1, 0)),
    "conv pads differ": (
        _model(_node("Conv", "x w", pads=[0, 1, 1, 1]), w=(4, 3, 3, 3)),
        lambda b, x: b.conv(b.pad(x, (0, 0, 1), (0, 1, 1)), 4, 3, 1, 0),
    ),
    "transposed": (
        _model(
            _node("ConvTranspose", "x w b", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
            w=(3, 4, 3, 3),
            b=(4,),
        ),
        lambda b, x: b.conv_transpose(x, 4, 3, 2, 1, 1, bias=True),
    ),
    "batchnorm": (
        _model(_node("BatchNormalization", "x bn0 bn1 bn2 bn3", epsilon=1e-3), **_BN),
        lambda b, x: b.batchnorm(x, 1e-3),
    ),
    "clip to 6": (_model(_node("Clip", "x a b"), a=np.float32(0), b=np.float32(6)), lambda b, x: b.relu6(x)),
    "clip below": (_model(_node("Clip", "x a"), a=np.float32(0)), lambda b, x: b.relu(x)),
    "clip otherwise": (_model(_node("Clip", "x _ b"), b=np.float32(1)), lambda b, x: b.other("clamp", IMAGE, x)),
    "leaky": (_model(_node("LeakyRelu", "x", alpha=0.1)), lambda b, x: b.leakyrelu(x, 0.1)),
    "prelu": (_model(_node("PRelu", "x s"), s=(3, 1, 1)), lambda b, x: b.leakyrelu(x, 0.0, 3)),
    "hardsigmoid": (_model(_node("HardSigmoid", "x", alpha=1 / 6)), lambda b, x: b.hardsigmoid(x)),
    "hardsigmoid 0.2": (_model(_node("HardSigmoid", "x")), lambda b, x: b.other("hard_sigmoid", IMAGE, x)),
    "hardswish": (_model(_node("HardSwish", "x")), lambda b, x: b.hardswish(x)),
    "gelu": (_model(_node("Gelu", "x", approximate="tanh"), opset=20), lambda b, x: b.gelu(x, True)),
    "softmax": (_model(_node("Softmax", "x", axis=1)), lambda b, x: b.softmax(x, 0)),
    "softmax last": (_model(_node("Softmax", "x")), lambda b, x: b.softmax(x, 2)),
    # Before opset 13 a softmax is over all dimensions from the axis on.
    "softmax old": (
        _model(_node("Softmax", "x"), opset=11),
        lambda b, x: b.softmax(b.reshape(x, 240, 1, 1)),
    ),
    "gemm": (
        _model(_node("Flatten", "x", "f"), _node("Gemm", "f w b", transB=1), w=(5, 240), b=(5,)),
        lambda b, x: b.linear(b.reshape(x, 240, 1, 1), 5),
    ),
    "gemm of a mean": (
        _model(
            _node("GlobalAveragePool", "x", "m"),
            _node("Reshape", "m s", "f"),
            _node("Gemm", "f w"),
            w=(3, 5),
            s=np.array([0, -1]),
        ),
        lambda b, x: b.linear(b.mean(x), 5, bias=False),
    ),
    "tokens": (
        _model(
            _node("Reshape", "x s", "r"),
            _node("Transpose", "r", "t", perm=[0, 2, 1]),
            _node("MatMul", "t w", "p"),
            _node("Add", "b p"),
            w=(3, 7),
            b=(7,),
            s=np.array([0, 3, -1]),
        ),
        lambda b, x: b.linear(b.reshape(x, 3, 80, 1), 7),
    ),
    "gram matrix": (
        _model(_node("Transpose", "x", "t", perm=[0, 1, 3, 2]), _node("MatMul", "x t")),
        lambda b, x: b.matmul(x, x, True),
    ),
    "add": (_model(_node("Relu", "x", "r"), _node("Add", "x r")), lambda b, x: b.add(x, b.relu(x))),
    "sum": (
        _model(_node("Relu", "x", "r"), _node("Sum", "x r x")),
        lambda b, x: b.add(x, b.relu(x), x),
    ),
    "gate": (
        _model(_node("GlobalAveragePool", "x", "m"), _node("Sigmoid", "m", "g"), _node("Mul", "g x")),
        lambda b, x: b.mul(x, b.elementwise(Op.SIGMOID, b.mean(x))),
    ),
    "plus a constant": (_model(_node("Add", "c x"), c=np.float32(0.1)), lambda b, x: b.shift(x, (), 0.1)),
    "minus a constant": (_model(_node("Sub", "x c"), c=np.float32(0.1)), lambda b, x: b.shift(x, (), -0.1)),
    "constant minus": (
        _model(_node("Sub", "c x"), c=np.float32(1)),
        lambda b, x: b.shift(b.scale(x, (), -1.0), (), 1.0),
    ),
    "over a constant": (_model(_node("Div", "x c"), c=np.float32(4)), lambda b, x: b.scale(x, (), 0.25)),
    "times zero": (_model(_node("Mul", "x c"), c=np.float32(0)), lambda b, x: b.zero(x)),
    "learnt scale": (_model(_node("Mul", "x c"), c=(1, 3, 1, 1)), lambda b, x: b.scale(x, (0,))),
    "learnt shift": (_model(_node("Add", "x c"), c=(3, 8, 10)), lambda b, x: b.shift(x, (0, 1, 2))),
    "difference": (
        _model(_node("Relu", "x", "r"), _node("Sub", "x r")),
        lambda b, x: b.other("sub", IMAGE, x, b.relu(x)),
    ),
    "concat": (_model(_node("Relu", "x", "r"), _node("Concat", "x r", axis=-3)), lambda b, x: b.concat(x, b.relu(x))),
    "max pool, up": (
        _model(_node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
        lambda b, x: b.maxpool(x, 3, 2, 0, True),
    ),
    # One row and column more at the end make as many windows as rounding up.
    "max pool, end": (
        _model(_node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])),
        lambda b, x: b.maxpool(x, 3, 2, 0, True),
    ),
    "mean pool, same": (
        _model(_node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")),
        lambda b, x: b.avgpool(x, 3, 2, 0, True),
    ),
    "mean pool, counted": (
        _model(_node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)),
        lambda b, x: b.avgpool(x, 3, 1, 1, False, True),
    ),
    "mean pool, counted end": (
        _model(_node("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)),
        lambda b, x: b.avgpool(b.pad(x, (0, 0, 0), (0, 1, 1)), 2, 1),
    ),
    "global max": (_model(_node("GlobalMaxPool", "x")), lambda b, x: b.maxpool(x, (8, 10), (8, 10))),
    "mean": (_model(_node("ReduceMean", "x a"), a=np.array([2, 3])), lambda b, x: b.mean(x)),
    "mean, old": (_model(_node("ReduceMean", "x", axes=[-1, -2], keepdims=0), opset=13), lambda b, x: b.mean(x)),
    "mean of all": (
        _model(_node("ReduceMean", "x a"), a=np.array([1, 2, 3])),
        lambda b, x: b.mean(b.reshape(x, 1, 24, 10)),
    ),
    "slice": (
        _model(
            _node("Slice", "x s e a t"),
            s=np.array([1, -4]),
            e=np.array([3, 2**31 - 1]),
            a=np.array([1, 3]),
            t=np.array([1, 2]),
        ),
        lambda b, x: b.slice(x, 2, 0, 6, 1, w=2, step=(1, 2)),
    ),
    "split": (
        _model(_node("Split", "x s", "p q", axis=1), _node("Identity", "q", "y"), s=np.array([1, 2])),
        lambda b, x: b.slice(x, 2, offset_c=1),
    ),
    "gather": (
        _model(_node("Gather", "x i", axis=2), i=np.array(-1)),
        lambda b, x: b.slice(x, 3, 7),
    ),
    "pad": (
        _model(_node("Pad", "x p c", mode="constant"), p=np.array([0, 1, 0, 2, 0, 0, 3, 4]), c=np.float32(0.5)),
        lambda b, x: b.pad(x, (1, 0, 2), (0, 3, 4), "constant", 0.5),
    ),
    "crop": (
        _model(_node("Pad", "x p"), p=np.array([0, 0, -1, 0, 0, 0, 0, -2])),
        lambda b, x: b.slice(x, 3, 1, 0, h=7, w=8),
    ),
    "edge": (
        _model(_node("Pad", "x p", mode="edge"), p=np.array([0, 0, 1, 1, 0, 0, 1, 1])),
        lambda b, x: b.pad(x, (0, 1, 1), (0, 1, 1), "replicate"),
    ),
    "resize": (
        _model(
            _node("Resize", "x _ s", mode="linear", coordinate_transformation_mode="align_corners"),
            s=np.array([1, 1, 2, 1.5], np.float32),
        ),
        lambda b, x: b.resize(x, 16, 15, "bilinear-aligned"),
    ),
    "resize twice": (
        _model(
            _node(
                "Resize", "x _ _ s", mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
            ),
            s=np.array([1, 3, 16, 20]),
        ),
        lambda b, x: b.resize(x, 16, 20, "nearest"),
    ),
    "shuffle": (
        _model(_node("Conv", "x w", "c"), _node("DepthToSpace", "c", blocksize=2, mode="CRD"), w=(8, 3, 1, 1)),
        lambda b, x: b.depth_to_space(b.conv(x, 8), 2),
    ),
    "unshuffle": (
        _model(
            _node("Reshape", "x s", "a"),
            _node("Transpose", "a", "b", perm=[0, 1, 3, 5, 2, 4]),
            _node("Reshape", "b t"),
            s=np.array([1, 3, 4, 2, 5, 2]),
            t=np.array([-1, 12, 4, 5]),
        ),
        lambda b, x: b.space_to_depth(x, 2),
    ),
    "layernorm of channels": (
        _model(
            _node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
            _node("LayerNormalization", "t w b", "n", epsilon=1e-6),
            _node("Transpose", "n", perm=[0, 3, 1, 2]),
            w=(3,),
            b=(3,),
        ),
        lambda b, x: b.layernorm(x, 1e-6),
    ),
    "layernorm of all": (
        _model(_node("LayerNormalization", "x w", axis=1), w=(3, 8, 10)),
        lambda b, x: b.layernorm(x, bias=False, axis=3),
    ),
    "groupnorm": (
        _model(_node("GroupNormalization", "x w b", num_groups=3), opset=21, w=(3,), b=(3,)),
        lambda b, x: b.groupnorm(x, 3),
    ),
    "instancenorm": (_model(_node("InstanceNormalization", "x w b"), w=(3,), b=(3,)), lambda b, x: b.groupnorm(x, 3)),
    "parts of a sequence": (
        _model(
            _node("SplitToSequence", "x n", "s", axis=1), _node("SequenceAt", "s i"), n=np.array([1, 2]), i=np.array(-1)
        ),
        lambda b, x: b.slice(x, 2, offset_c=1),
    ),
    "passing": (
        _model(
            _node("Identity", "x", "i"), _node("Cast", "i", "c", to=1), _node("Dropout", "c", "d"), _node("Relu", "d")
        ),
        lambda b, x: b.relu(x),
    ),
    "named others": (
        _model(_node("Exp", "x", "e"), _node("Pow", "e p", "q"), _node("Softplus", "q"), p=np.float32(2)),
        lambda b, x: b.other("softplus", IMAGE, b.other("pow", IMAGE, b.other("exp", IMAGE, x))),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_the_node_that_it_says(name: str) -> None:
    model, build = OPERATORS[name]
    _same(model, build)


@pytest.mark.parametrize("order", ["x g", "g x"])
def test_swish_is_put_together(order: str) -> None:
    _same(_model(_node("Sigmoid", "x", "g"), _node("Mul", order)), lambda b, x: b.elementwise(Op.SWISH, x))


def test_a_gate_that_others_take_is_no_swish() -> None:
    model = _model(_node("Sigmoid", "x", "g"), _node("Mul", "x g", "m"), _node("Add", "m g"))

    def build(b: GraphBuilder, x: Value) -> Value:
        gate = b.elementwise(Op.SIGMOID, x)
        return b.add(b.mul(x, gate), gate)

    _same(model, build)


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
    curve = [_node("Div", "x r", "s"), _node("Erf", "s", "e"), _node("Add", "one e", "o")]
    model = _model(
        *curve,
        *(_node(op, inputs, out) for op, inputs, out in products),
        r=np.float32(math.sqrt(2)),
        one=np.float32(1),
        h=np.float32(0.5),
        two=np.float32(2),
    )
    _same(model, lambda b, x: b.gelu(x))


def test_another_erf_is_no_gelu() -> None:
    curve = [_node("Mul", "x r", "s"), _node("Erf", "s", "e"), _node("Add", "e r", "o"), _node("Mul", "o x")]
    imported = from_onnx(_model(*curve, r=np.float32(0.5)))
    assert imported.others == {"erf": 1}


def test_layernorm_is_put_together() -> None:
    nodes = [
        _node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
        _node("ReduceMean", "t", "m", axes=[-1]),
        _node("Sub", "t m", "d"),
        _node("Pow", "d two", "p"),
        _node("ReduceMean", "p", "v", axes=[-1]),
        _node("Add", "v eps", "e"),
        _node("Sqrt", "e", "s"),
        _node("Div", "d s", "n"),
        _node("Mul", "n w", "k"),
        _node("Add", "k b", "z"),
        _node("Transpose", "z", perm=[0, 3, 1, 2]),
    ]
    constants: dict[str, Any] = {"two": np.float32(2), "eps": np.float32(1e-5), "w": (3,), "b": (3,)}
    _same(_model(*nodes, opset=13, **constants), lambda b, x: b.layernorm(x))


def test_shapes_that_a_network_computes_are_known() -> None:
    """view(x.size(0), -1) as an exporter writes it, and the size of an upsampling."""
    nodes = [
        _node("Shape", "x", "s"),
        _node("Gather", "s zero", "n"),
        _node("Unsqueeze", "n zeros", "u"),
        _node("Constant", "", "rest", value=numpy_helper.from_array(np.array([-1]))),
        _node("Concat", "u rest", "t", axis=0),
        _node("Reshape", "x t"),
    ]
    _same(_model(*nodes, zero=np.array(0), zeros=np.array([0])), lambda b, x: b.reshape(x, 240, 1, 1))


def test_normalisations_without_learnt_tensors_are_told_apart() -> None:
    fills = [
        helper.make_node("ConstantOfShape", ["n"], [name], value=numpy_helper.from_array(np.array([v], np.float32)))
        for name, v in (("ones", 1), ("zeros", 0))
    ]
    model = _model(*fills, _node("BatchNormalization", "x ones zeros m v"), n=np.array([3]), m=(3,), v=(3,))
    _same(model, lambda b, x: b.batchnorm(x, affine=False))


def test_parts_without_use_are_left_out() -> None:
    model = _model(_node("Foo", "x", "unused"), _node("Split", "x", "p q r", axis=1), _node("Relu", "q"))
    _same(model, lambda b, x: b.relu(b.slice(x, 1, offset_c=1)))


_NUMBERS = st.one_of(st.integers(-3, 12), st.sampled_from([2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63)]))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_confused_attributes_and_shapes_are_errors_with_a_name(data: st.DataObject) -> None:
    """Every operator with attributes and constants of another one, or with numbers that mean nothing."""
    model = onnx.ModelProto()
    model.CopyFrom(OPERATORS[data.draw(st.sampled_from(sorted(OPERATORS)))][0])
    other = OPERATORS[data.draw(st.sampled_from(sorted(OPERATORS)))][0]
    node = model.graph.node[data.draw(st.integers(0, len(model.graph.node) - 1))]
    change = data.draw(st.sampled_from(["op", "attributes", "numbers", "dims", "inputs"]))
    if change == "op":
        node.op_type = other.graph.node[0].op_type
    elif change == "attributes":
        node.attribute.extend(other.graph.node[0].attribute)
    elif change == "numbers":
        for attribute in node.attribute:
            attribute.ints[:] = [data.draw(_NUMBERS) for _ in attribute.ints]
            attribute.i = data.draw(_NUMBERS)
    elif change == "dims":
        for tensor in model.graph.initializer:
            tensor.dims[:] = [data.draw(_NUMBERS) for _ in range(data.draw(st.integers(0, 5)))]
    else:
        node.input[:] = data.draw(st.lists(st.sampled_from(["x", "", *(t.name for t in model.graph.initializer)])))
    with suppress(GennapeError):
        assert cost.macs(pack([from_onnx(model).graph]))[0] >= 0
