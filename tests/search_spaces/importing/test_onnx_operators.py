"""Each operator of ONNX as the nodes that it should be."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import BN, IMAGE, Build, assert_same, model_of, node

from gennape.errors import GennapeError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx import from_onnx

OPERATORS: dict[str, tuple[onnx.ModelProto, Build]] = {
    "conv": (
        model_of(node("Conv", "x w b", pads=[1, 2, 1, 2], strides=[2, 1], dilations=[1, 2]), w=(6, 3, 3, 3), b=(6,)),
        lambda b, x: b.conv(x, 6, 3, (2, 1), (1, 2), (1, 2), bias=True),
    ),
    "depthwise": (
        model_of(node("Conv", "x w", kernel_shape=[3, 3], group=3), w=(3, 1, 3, 3)),
        lambda b, x: b.conv(x, 3, 3, 1, 0, groups=3),
    ),
    # 8 rows at stride 2 need (4 - 1) * 2 + 3 - 8 = 1 row more, below; 10 columns likewise.
    "conv same upper": (
        model_of(node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2]), w=(4, 3, 3, 3)),
        lambda b, x: b.conv(b.pad(x, (0, 0, 0), (0, 1, 1)), 4, 3, 2, 0),
    ),
    "conv same lower": (
        model_of(node("Conv", "x w", auto_pad="SAME_LOWER", strides=[2, 2]), w=(4, 3, 3, 3)),
        lambda b, x: b.conv(b.pad(x, (0, 1, 1), (0, 0, 0)), 4, 3, 2, 0),
    ),
    "conv same odd": (
        model_of(node("Conv", "x w", auto_pad="SAME_UPPER"), w=(4, 3, 5, 5)),
        lambda b, x: b.conv(x, 4, 5, 1, 2),
    ),
    "conv valid": (model_of(node("Conv", "x w", auto_pad="VALID"), w=(4, 3, 3, 3)), lambda b, x: b.conv(x, 4, 3, 1, 0)),
    "conv pads differ": (
        model_of(node("Conv", "x w", pads=[0, 1, 1, 1]), w=(4, 3, 3, 3)),
        lambda b, x: b.conv(b.pad(x, (0, 0, 1), (0, 1, 1)), 4, 3, 1, 0),
    ),
    "transposed": (
        model_of(
            node("ConvTranspose", "x w b", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
            w=(3, 4, 3, 3),
            b=(4,),
        ),
        lambda b, x: b.conv_transpose(x, 4, 3, 2, 1, 1, bias=True),
    ),
    "batchnorm": (
        model_of(node("BatchNormalization", "x bn0 bn1 bn2 bn3", epsilon=1e-3), **BN),
        lambda b, x: b.batchnorm(x, 1e-3),
    ),
    "clip to 6": (model_of(node("Clip", "x a b"), a=np.float32(0), b=np.float32(6)), lambda b, x: b.relu6(x)),
    "smallest of it and a number": (model_of(node("Min", "x b"), b=np.float32(1)), lambda b, x: b.clamp(x, None, 1.0)),
    "largest of numbers and it": (
        model_of(node("Max", "a x b"), a=np.float32(0), b=np.float32([0])),
        lambda b, x: b.relu(x),
    ),
    "clip below": (model_of(node("Clip", "x a"), a=np.float32(0)), lambda b, x: b.relu(x)),
    "clip otherwise": (model_of(node("Clip", "x _ b"), b=np.float32(1)), lambda b, x: b.clamp(x, None, 1.0)),
    "leaky": (model_of(node("LeakyRelu", "x", alpha=0.1)), lambda b, x: b.leakyrelu(x, 0.1)),
    "prelu": (model_of(node("PRelu", "x s"), s=(3, 1, 1)), lambda b, x: b.leakyrelu(x, 0.0, 3)),
    "hardsigmoid": (model_of(node("HardSigmoid", "x", alpha=1 / 6)), lambda b, x: b.hardsigmoid(x)),
    "hardsigmoid 0.2": (model_of(node("HardSigmoid", "x")), lambda b, x: b.other("hard_sigmoid", IMAGE, x)),
    "hardswish": (model_of(node("HardSwish", "x")), lambda b, x: b.hardswish(x)),
    "gelu": (model_of(node("Gelu", "x", approximate="tanh"), opset=20), lambda b, x: b.gelu(x, True)),
    "softmax": (model_of(node("Softmax", "x", axis=1)), lambda b, x: b.softmax(x, 0)),
    "softmax last": (model_of(node("Softmax", "x")), lambda b, x: b.softmax(x, 2)),
    # Before opset 13 a softmax is over all dimensions from the axis on.
    "softmax old": (
        model_of(node("Softmax", "x"), opset=11),
        lambda b, x: b.softmax(b.reshape(x, 240, 1, 1)),
    ),
    "gemm": (
        model_of(node("Flatten", "x", "f"), node("Gemm", "f w b", transB=1), w=(5, 240), b=(5,)),
        lambda b, x: b.linear(b.reshape(x, 240, 1, 1), 5),
    ),
    "gemm of a mean": (
        model_of(
            node("GlobalAveragePool", "x", "m"),
            node("Reshape", "m s", "f"),
            node("Gemm", "f w"),
            w=(3, 5),
            s=np.array([0, -1]),
        ),
        lambda b, x: b.linear(b.mean(x), 5, bias=False),
    ),
    "tokens": (
        model_of(
            node("Reshape", "x s", "r"),
            node("Transpose", "r", "t", perm=[0, 2, 1]),
            node("MatMul", "t w", "p"),
            node("Add", "b p"),
            w=(3, 7),
            b=(7,),
            s=np.array([0, 3, -1]),
        ),
        lambda b, x: b.linear(b.reshape(x, 3, 80, 1), 7),
    ),
    "gram matrix": (
        model_of(node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t")),
        lambda b, x: b.matmul(x, x, True),
    ),
    "add": (model_of(node("Relu", "x", "r"), node("Add", "x r")), lambda b, x: b.add(x, b.relu(x))),
    "sum": (
        model_of(node("Relu", "x", "r"), node("Sum", "x r x")),
        lambda b, x: b.add(x, b.relu(x), x),
    ),
    "gate": (
        model_of(node("GlobalAveragePool", "x", "m"), node("Sigmoid", "m", "g"), node("Mul", "g x")),
        lambda b, x: b.mul(x, b.elementwise(Op.SIGMOID, b.mean(x))),
    ),
    "plus a constant": (model_of(node("Add", "c x"), c=np.float32(0.1)), lambda b, x: b.shift(x, (), 0.1)),
    "minus a constant": (model_of(node("Sub", "x c"), c=np.float32(0.1)), lambda b, x: b.shift(x, (), -0.1)),
    "constant minus": (
        model_of(node("Sub", "c x"), c=np.float32(1)),
        lambda b, x: b.shift(b.scale(x, (), -1.0), (), 1.0),
    ),
    "over a constant": (model_of(node("Div", "x c"), c=np.float32(4)), lambda b, x: b.scale(x, (), 0.25)),
    "times zero": (model_of(node("Mul", "x c"), c=np.float32(0)), lambda b, x: b.zero(x)),
    "learnt scale": (model_of(node("Mul", "x c"), c=(1, 3, 1, 1)), lambda b, x: b.scale(x, (0,))),
    "learnt shift": (model_of(node("Add", "x c"), c=(3, 8, 10)), lambda b, x: b.shift(x, (0, 1, 2))),
    "difference": (
        model_of(node("Relu", "x", "r"), node("Sub", "x r")),
        lambda b, x: b.add(x, b.scale(b.relu(x), (), -1.0)),
    ),
    "concat": (model_of(node("Relu", "x", "r"), node("Concat", "x r", axis=-3)), lambda b, x: b.concat(x, b.relu(x))),
    "max pool, up": (
        model_of(node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
        lambda b, x: b.maxpool(x, 3, 2, 0, True),
    ),
    # One row and column more at the end make as many windows as rounding up.
    "max pool, end": (
        model_of(node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])),
        lambda b, x: b.maxpool(x, 3, 2, 0, True),
    ),
    "mean pool, same": (
        model_of(node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")),
        lambda b, x: b.avgpool(x, 3, 2, 0, True),
    ),
    "mean pool, counted": (
        model_of(node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)),
        lambda b, x: b.avgpool(x, 3, 1, 1, False, True),
    ),
    "mean pool, counted end": (
        model_of(node("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)),
        lambda b, x: b.avgpool(b.pad(x, (0, 0, 0), (0, 1, 1)), 2, 1),
    ),
    "global max": (model_of(node("GlobalMaxPool", "x")), lambda b, x: b.maxpool(x, (8, 10), (8, 10))),
    "mean": (model_of(node("ReduceMean", "x a"), a=np.array([2, 3])), lambda b, x: b.mean(x)),
    "mean, old": (model_of(node("ReduceMean", "x", axes=[-1, -2], keepdims=0), opset=13), lambda b, x: b.mean(x)),
    "mean of all": (
        model_of(node("ReduceMean", "x a"), a=np.array([1, 2, 3])),
        lambda b, x: b.mean(b.reshape(x, 1, 24, 10)),
    ),
    "slice": (
        model_of(
            node("Slice", "x s e a t"),
            s=np.array([1, -4]),
            e=np.array([3, 2**31 - 1]),
            a=np.array([1, 3]),
            t=np.array([1, 2]),
        ),
        lambda b, x: b.slice(x, 2, 0, 6, 1, w=2, step=(1, 2)),
    ),
    "split": (
        model_of(node("Split", "x s", "p q", axis=1), node("Identity", "q", "y"), s=np.array([1, 2])),
        lambda b, x: b.slice(x, 2, offset_c=1),
    ),
    "gather": (
        model_of(node("Gather", "x i", axis=2), i=np.array(-1)),
        lambda b, x: b.slice(x, 3, 7),
    ),
    "pad": (
        model_of(node("Pad", "x p c", mode="constant"), p=np.array([0, 1, 0, 2, 0, 0, 3, 4]), c=np.float32(0.5)),
        lambda b, x: b.pad(x, (1, 0, 2), (0, 3, 4), "constant", 0.5),
    ),
    "crop": (
        model_of(node("Pad", "x p"), p=np.array([0, 0, -1, 0, 0, 0, 0, -2])),
        lambda b, x: b.slice(x, 3, 1, 0, h=7, w=8),
    ),
    "edge": (
        model_of(node("Pad", "x p", mode="edge"), p=np.array([0, 0, 1, 1, 0, 0, 1, 1])),
        lambda b, x: b.pad(x, (0, 1, 1), (0, 1, 1), "replicate"),
    ),
    "resize": (
        model_of(
            node("Resize", "x _ s", mode="linear", coordinate_transformation_mode="align_corners"),
            s=np.array([1, 1, 2, 1.5], np.float32),
        ),
        lambda b, x: b.resize(x, 16, 15, "bilinear-aligned"),
    ),
    "resize twice": (
        model_of(
            node(
                "Resize", "x _ _ s", mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
            ),
            s=np.array([1, 3, 16, 20]),
        ),
        lambda b, x: b.resize(x, 16, 20, "nearest"),
    ),
    "shuffle": (
        model_of(node("Conv", "x w", "c"), node("DepthToSpace", "c", blocksize=2, mode="CRD"), w=(8, 3, 1, 1)),
        lambda b, x: b.depth_to_space(b.conv(x, 8), 2),
    ),
    "unshuffle": (
        model_of(
            node("Reshape", "x s", "a"),
            node("Transpose", "a", "b", perm=[0, 1, 3, 5, 2, 4]),
            node("Reshape", "b t"),
            s=np.array([1, 3, 4, 2, 5, 2]),
            t=np.array([-1, 12, 4, 5]),
        ),
        lambda b, x: b.space_to_depth(x, 2),
    ),
    "layernorm of channels": (
        model_of(
            node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
            node("LayerNormalization", "t w b", "n", epsilon=1e-6),
            node("Transpose", "n", perm=[0, 3, 1, 2]),
            w=(3,),
            b=(3,),
        ),
        lambda b, x: b.layernorm(x, 1e-6),
    ),
    "layernorm of all": (
        model_of(node("LayerNormalization", "x w", axis=1), w=(3, 8, 10)),
        lambda b, x: b.layernorm(x, bias=False, axis=3),
    ),
    "groupnorm": (
        model_of(node("GroupNormalization", "x w b", num_groups=3), opset=21, w=(3,), b=(3,)),
        lambda b, x: b.groupnorm(x, 3),
    ),
    "instancenorm": (model_of(node("InstanceNormalization", "x w b"), w=(3,), b=(3,)), lambda b, x: b.groupnorm(x, 3)),
    "parts of a sequence": (
        model_of(
            node("SplitToSequence", "x n", "s", axis=1), node("SequenceAt", "s i"), n=np.array([1, 2]), i=np.array(-1)
        ),
        lambda b, x: b.slice(x, 2, offset_c=1),
    ),
    "passing": (
        model_of(
            node("Identity", "x", "i"), node("Cast", "i", "c", to=1), node("Dropout", "c", "d"), node("Relu", "d")
        ),
        lambda b, x: b.relu(x),
    ),
    "named others": (
        model_of(node("Exp", "x", "e"), node("Pow", "e p", "q"), node("Softplus", "q"), p=np.float32(2)),
        lambda b, x: b.other("softplus", IMAGE, b.power(b.other("exp", IMAGE, x), 2.0)),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_the_node_that_it_says(name: str) -> None:
    model, build = OPERATORS[name]
    assert_same(model, build)


_NUMBERS = st.one_of(st.integers(-3, 12), st.sampled_from([2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63)]))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_confused_attributes_and_shapes_are_errors_with_a_name(data: st.DataObject) -> None:
    """Every operator with attributes and constants of another one, or with numbers that mean nothing."""
    model = onnx.ModelProto()
    model.CopyFrom(OPERATORS[data.draw(st.sampled_from(sorted(OPERATORS)))][0])
    other = OPERATORS[data.draw(st.sampled_from(sorted(OPERATORS)))][0]
    changed = model.graph.node[data.draw(st.integers(0, len(model.graph.node) - 1))]
    change = data.draw(st.sampled_from(["op", "attributes", "numbers", "dims", "inputs"]))
    if change == "op":
        changed.op_type = other.graph.node[0].op_type
    elif change == "attributes":
        changed.attribute.extend(other.graph.node[0].attribute)
    elif change == "numbers":
        for attribute in changed.attribute:
            attribute.ints[:] = [data.draw(_NUMBERS) for _ in attribute.ints]
            attribute.i = data.draw(_NUMBERS)
    elif change == "dims":
        for tensor in model.graph.initializer:
            tensor.dims[:] = [data.draw(_NUMBERS) for _ in range(data.draw(st.integers(0, 5)))]
    else:
        changed.input[:] = data.draw(st.lists(st.sampled_from(["x", "", *(t.name for t in model.graph.initializer)])))
    with suppress(GennapeError):
        assert cost.macs(pack([from_onnx(model).graph]))[0] >= 0
