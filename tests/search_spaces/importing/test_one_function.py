"""ONNX files rewritten in ways that keep their function: the form that predictions are made of stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx_models import IMAGE, model_of, node
from space_checks import graph_hash

from gennape.search_spaces.graphs.graph import pack, validate
from gennape.search_spaces.graphs.normal_form import normal_form
from gennape.search_spaces.importing.onnx import from_onnx

if TYPE_CHECKING:
    import onnx

C, H, W = IMAGE
_CONV, _POOL, _GEMM = node("Conv", "x w b", "c"), node("GlobalAveragePool", "r", "p"), node("Gemm", "f m v", "y")
_RELU, _FLAT = node("Relu", "c", "r"), node("Flatten", "p", "f")
_TENSORS: dict[str, Any] = {
    "w": np.ones((8, 3, 3, 3), np.float32),
    "b": np.arange(1, 9, dtype=np.float32),
    "m": np.ones((8, 5), np.float32),
    "v": np.arange(1, 6, dtype=np.float32),
}
_MORE: dict[str, Any] = {
    "b4": np.arange(1, 9, dtype=np.float32).reshape(1, 8, 1, 1),
    "axes": np.array([2, 3]),
    "two": np.array([-1, 8]),
    "none": np.array(0, np.float32),
    "six": np.array(6, np.float32),
    "s": np.array([0.5, 0.6, 0.7], np.float32).reshape(1, 3, 1, 1),
    "n": np.array(1 / 255, np.float32),
    "g": np.arange(1, 9, dtype=np.float32),
}


def _form(nodes: list[onnx.NodeProto], shape: tuple[int, ...] = (1, *IMAGE)) -> str:
    taken = {name for n in nodes for name in n.input}
    model = model_of(*nodes, shape=shape, **{k: v for k, v in (_TENSORS | _MORE).items() if k in taken})
    formed = normal_form(pack([from_onnx(model).graph]))
    validate(formed)
    return graph_hash(formed[0])


REWRITTEN: dict[str, list[onnx.NodeProto]] = {
    "identities": [
        node("Identity", "x", "i"),
        node("Conv", "i w b", "d"),
        node("Identity", "d", "c"),
        _RELU,
        _POOL,
        _FLAT,
        _GEMM,
    ],
    "dropout": [_CONV, _RELU, _POOL, _FLAT, node("Dropout", "f", "g2"), node("Gemm", "g2 m v")],
    "a cast to what it is": [
        node("Cast", "x", "i", to=TensorProto.FLOAT),
        node("Conv", "i w b", "c"),
        _RELU,
        _POOL,
        _FLAT,
        _GEMM,
    ],
    "turned and turned back": [
        _CONV,
        node("Transpose", "c", "t", perm=[0, 2, 3, 1]),
        node("Relu", "t", "u"),
        node("Transpose", "u", "r", perm=[0, 3, 1, 2]),
        _POOL,
        _FLAT,
        _GEMM,
    ],
    "a bias as a sum": [node("Conv", "x w", "d"), node("Add", "d b4", "c"), _RELU, _POOL, _FLAT, _GEMM],
    "a matrix and a sum": [_CONV, _RELU, _POOL, _FLAT, node("MatMul", "f m", "q"), node("Add", "q v")],
    "an unfolded normalisation": [
        node("Conv", "x w", "d"),
        node("BatchNormalization", "d g b g g", "c"),
        _RELU,
        _POOL,
        _FLAT,
        _GEMM,
    ],
    "a normalisation after a bias": [
        node("Conv", "x w b", "d"),
        node("BatchNormalization", "d g b g g", "c"),
        _RELU,
        _POOL,
        _FLAT,
        _GEMM,
    ],
    "a mean over axes": [_CONV, _RELU, node("ReduceMean", "r axes", "f", keepdims=0), _GEMM],
    "a mean that keeps axes": [_CONV, _RELU, node("ReduceMean", "r axes", "p", keepdims=1), _FLAT, _GEMM],
    "a reshape": [_CONV, _RELU, _POOL, node("Reshape", "p two", "f"), _GEMM],
    "a squeeze": [_CONV, _RELU, _POOL, node("Squeeze", "p axes", "f"), _GEMM],
    "a clip": [_CONV, node("Clip", "c none", "r"), _POOL, _FLAT, _GEMM],
    "a softmax": [_CONV, _RELU, _POOL, _FLAT, node("Gemm", "f m v", "l"), node("Softmax", "l")],
    "a softmax of logarithms": [_CONV, _RELU, _POOL, _FLAT, node("Gemm", "f m v", "l"), node("LogSoftmax", "l")],
    "a sigmoid": [_CONV, _RELU, _POOL, _FLAT, node("Gemm", "f m v", "l"), node("Sigmoid", "l")],
    "bytes as an image": [node("Mul", "x n", "i"), node("Conv", "i w b", "c"), _RELU, _POOL, _FLAT, _GEMM],
    "an image that is normalised": [
        node("Sub", "x s", "i"),
        node("Div", "i s", "j"),
        node("Conv", "j w b", "c"),
        _RELU,
        _POOL,
        _FLAT,
        _GEMM,
    ],
    "weights that are nodes": [
        node("Constant", "", "w2", value=numpy_helper.from_array(_TENSORS["w"])),
        node("Conv", "x w2 b", "c"),
        _RELU,
        _POOL,
        _FLAT,
        _GEMM,
    ],
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten_files_have_the_form_of_the_plain_one(name: str) -> None:
    assert _form(REWRITTEN[name]) == _form([_CONV, _RELU, _POOL, _FLAT, _GEMM])


def test_channels_last_with_all_of_it() -> None:
    nodes = [
        node("Mul", "x n", "i"),
        node("Transpose", "i", "j", perm=[0, 3, 1, 2]),
        node("Conv", "j w", "d"),
        node("BatchNormalization", "d g b g g", "c"),
        *(_RELU, _POOL, _FLAT),
        node("Gemm", "f m v", "l"),
        node("Softmax", "l"),
    ]
    assert _form(nodes, (1, H, W, C)) == _form([_CONV, _RELU, _POOL, _FLAT, _GEMM])


def test_another_activation_is_another_function() -> None:
    other = [_CONV, node("Clip", "c none six", "r"), _POOL, _FLAT, _GEMM]
    assert _form(other) != _form([_CONV, _RELU, _POOL, _FLAT, _GEMM])


@pytest.mark.parametrize(
    ("around", "own", "together"),
    [
        ((1, 1, 1, 1), (0, 0, 0, 0), (1, 1, 1, 1)),
        ((0, 0, 1, 1), (1, 1, 1, 1), (1, 1, 2, 2)),
        ((2, 0, 1, 3), (0,) * 4, (2, 0, 1, 3)),
    ],
)
def test_padding_may_be_an_operator_or_part_of_a_convolution(
    around: tuple[int, ...], own: tuple[int, ...], together: tuple[int, ...]
) -> None:
    top, left, bottom, right = around
    pad = node("Pad", "x around", "q")
    rest = [_RELU, _POOL, _FLAT, _GEMM]
    tensors = {**_TENSORS, "around": np.array([0, 0, top, left, 0, 0, bottom, right])}
    forms = set()
    for nodes in (
        [pad, node("Conv", "q w b", "c", pads=own), *rest],
        [node("Conv", "x w b", "c", pads=together), *rest],
    ):
        taken = {name for n in nodes for name in n.input}
        model = model_of(*nodes, shape=(1, *IMAGE), **{k: v for k, v in tensors.items() if k in taken})
        formed = normal_form(pack([from_onnx(model).graph]))
        validate(formed)
        forms.add(graph_hash(formed[0]))
    assert len(forms) == 1
