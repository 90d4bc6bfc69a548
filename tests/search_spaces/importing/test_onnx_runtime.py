"""Files that onnxruntime optimised: the graph of the optimised file is the graph of the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_models import IMAGE, model_of, node
from space_checks import graph_hash

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx import from_onnx

if TYPE_CHECKING:
    from onnx import NodeProto

_RANDOM = np.random.default_rng(0)


def _numbers(*shape: int) -> Any:
    return _RANDOM.normal(size=shape).astype(np.float32)


_TENSORS: dict[str, Any] = {
    "w": _numbers(8, 3, 3, 3),
    "b": _numbers(8),
    "m": _numbers(10, 10),
    "v": _numbers(10),
    "f": _numbers(80, 6),
    "s": np.array(0.25, np.float32),
    "low": np.array(-1, np.float32),
    "high": np.array(2, np.float32),
    "half": np.array(0.5, np.float32),
    "one": np.array(1, np.float32),
    "two": np.array(2**0.5, np.float32),
    "quick": np.array(1.702, np.float32),
}
_CONV = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])
_GELU = [
    node("Div", "a two", "d"),
    node("Erf", "d", "e"),
    node("Add", "e one", "f1"),
    node("Mul", "a f1", "g"),
    node("Mul", "g half"),
]
NETWORKS: dict[str, list[NodeProto]] = {
    "relu": [_CONV, node("Relu", "c")],
    "sigmoid": [_CONV, node("Sigmoid", "c")],
    "tanh": [_CONV, node("Tanh", "c")],
    "leaky relu": [_CONV, node("LeakyRelu", "c", alpha=0.3)],
    "hard sigmoid": [_CONV, node("HardSigmoid", "c", alpha=0.25, beta=0.4)],
    "clip": [_CONV, node("Clip", "c low high")],
    "a residual": [_CONV, node("Conv", "x w", "d", pads=[1, 1, 1, 1]), node("Add", "c d", "a"), node("Relu", "a")],
    "a classifier": [
        _CONV,
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "q"),
        node("Gemm", "q h k", "g"),
        node("Relu", "g"),
    ],
    "attention": [
        node("MatMul", "x m", "q"),
        node("Transpose", "x", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "q t", "a"),
        node("Mul", "a s", "z"),
        node("Softmax", "z", "r"),
        node("MatMul", "r q"),
    ],
    "gelu": [node("Identity", "x", "a"), *_GELU],
    "gelu of a sum": [node("Reshape", "x rows", "i"), node("MatMul", "i m", "z"), node("Add", "z v", "a"), *_GELU],
    "quick gelu": [node("Mul", "x quick", "q"), node("Sigmoid", "q", "r"), node("Mul", "x r")],
    "a normalised sum": [
        node("MatMul", "x m", "z"),
        node("Add", "z x", "a"),
        node("LayerNormalization", "a v v2", "n", axis=-1),
        node("Relu", "n"),
    ],
    "a normalised sum of tokens": [
        node("Reshape", "x rows", "i"),
        node("MatMul", "i m", "z"),
        node("Add", "z i", "a"),
        node("LayerNormalization", "a v v2", "n", axis=-1),
        node("MatMul", "n m", "o"),
        node("Add", "o a", "a2"),
        node("LayerNormalization", "a2 v v2", axis=-1),
    ],
}
_TENSORS |= {"h": _numbers(8, 5), "k": _numbers(5), "v2": _numbers(10), "rows": np.array([1, 24, 10])}


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_optimised_file_is_the_same_network(name: str, level: str, tmp_path: Path) -> None:
    taken = {x for n in NETWORKS[name] for x in n.input}
    model = model_of(*NETWORKS[name], shape=(1, *IMAGE), **{k: v for k, v in _TENSORS.items() if k in taken})
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert graph_hash(from_onnx(optimised).graph) == graph_hash(from_onnx(model).graph)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (node("FusedConv", "x w b", domain="com.microsoft", activation="Swirl"), "com.microsoft.FusedConv"),
        (node("FusedConv", "x w b", domain="com.example", activation="Relu"), "com.example.FusedConv"),
        (node("FusedConv", "x w b", domain="com.microsoft", activation="LeakyRelu"), "com.microsoft.FusedConv"),
        (node("Inverse", "x", domain="com.microsoft"), "com.microsoft.Inverse"),
    ],
)
def test_what_is_not_known_of_it_is_refused_by_its_name(made: NodeProto, why: str) -> None:
    with pytest.raises(InvalidGraphError, match=why):
        from_onnx(model_of(made, shape=(1, *IMAGE), w=_TENSORS["w"], b=_TENSORS["b"]))


def test_the_sum_that_is_normalised_may_be_taken_too() -> None:
    tokens = node("Reshape", "x rows", "i")
    fused = node("SkipLayerNormalization", "i i v v2 v", "n _ _ s", domain="com.microsoft", epsilon=1e-6)
    fused.output[1] = fused.output[2] = ""
    written = [
        node("Add", "i i", "t"),
        node("Add", "t v", "s"),
        node("LayerNormalization", "s v v2", "n", axis=-1, epsilon=1e-6),
    ]
    last = node("Mul", "n s")
    tensors = {name: _TENSORS[name] for name in ("rows", "v", "v2")}
    models = [model_of(tokens, *nodes, last, shape=(1, *IMAGE), **tensors) for nodes in ([fused], written)]
    assert len({graph_hash(from_onnx(model).graph) for model in models}) == 1
