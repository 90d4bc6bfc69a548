"""What depends on constants alone is computed, within bounds of size and time."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import IMAGE, model_of, node
from onnx_numbers import assert_as_onnxruntime, by_onnxruntime

from gennape.errors import GennapeError, InvalidGraphError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing import onnx as onnx_import
from gennape.search_spaces.importing.onnx import from_onnx
from gennape.search_spaces.importing.onnx_nodes.constants import evaluate
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode

RNG = np.random.default_rng(0)
A = RNG.normal(size=(2, 3, 4)).astype(np.float32)
FLAGS = RNG.random((3, 4)) < 0.5

#: An operator, its attributes and its inputs: what it makes must be what onnxruntime makes.
ON_CONSTANTS: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("GreaterOrEqual", {}, [A, A[::-1].copy()]),
    ("LessOrEqual", {}, [A, np.float32(0)]),
    ("Xor", {}, [FLAGS, ~FLAGS[:1]]),
    ("ScatterND", {}, [A, np.array([[0, 1], [1, 2]]), np.ones((2, 4), np.float32)]),
    ("ScatterElements", {"axis": 2}, [A, np.zeros((2, 3, 1), np.int64), np.ones((2, 3, 1), np.float32)]),
    ("GatherElements", {"axis": 1}, [A, np.zeros((2, 2, 4), np.int64)]),
    ("GatherND", {}, [A, np.array([[0, 1], [1, 2]])]),
    ("LayerNormalization", {"axis": -1}, [A, np.ones(4, np.float32), np.ones(4, np.float32)]),
    ("Trilu", {"upper": 0}, [A]),
    ("Softmax", {"axis": 1}, [A]),
    ("Erf", {}, [A]),
    ("CumSum", {}, [A, np.array(1)]),
    ("Sign", {}, [A]),
    ("Round", {}, [2 * A]),
    ("IsNaN", {}, [A]),
    ("Tan", {}, [A]),
    ("ArgMax", {"axis": 1, "keepdims": 0}, [A]),
    ("TopK", {"axis": -1}, [A, np.array([2])]),
    ("OneHot", {"axis": 1}, [np.array([0, 2, 1]), np.array(4), np.array([0, 1], np.float32)]),
    ("NonZero", {}, [FLAGS]),
    ("Compress", {"axis": 0}, [A, np.array([False, True])]),
    ("Pad", {"mode": "reflect"}, [A, np.array([0, 1, 1, 0, 0, 2])]),
    ("Split", {"axis": 1}, [A, np.array([1, 2])]),
    ("MatMul", {}, [A, A.transpose(0, 2, 1).copy()]),
    ("Einsum", {"equation": "aij,ajk->aik"}, [A, A.transpose(0, 2, 1).copy()]),
    ("Resize", {"mode": "linear"}, [A, None, np.array([1, 2, 2], np.float32)]),
    ("Resize", {"mode": "cubic"}, [A[None], None, None, np.array([1, 2, 6, 4])]),
    ("ReduceLogSumExp", {"keepdims": 0}, [A, np.array([2])]),
    ("ReduceSumSquare", {}, [A]),
    ("Sum", {}, [A, A, A]),
    ("Selu", {}, [A]),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, [RNG.normal(size=(1, 8, 2, 2)).astype(np.float32)]),
]


@pytest.mark.parametrize(("op", "attributes", "inputs"), ON_CONSTANTS, ids=lambda x: x if isinstance(x, str) else "")
def test_a_constant_is_what_onnxruntime_computes(op: str, attributes: dict[str, Any], inputs: list[Any]) -> None:
    names = tuple("" if x is None else f"c{i}" for i, x in enumerate(inputs))
    held = {name: x for name, x in zip(names, inputs, strict=True) if name}
    xs = [Constant(np.shape(x), np.asarray(x)) if x is not None else None for x in inputs]
    (made, *_) = evaluate(OnnxNode(op, "", names, ("y", "")[: 1 + (op == "Split")], attributes), xs, 18)
    results = "y z" if op in ("TopK", "Split") else "y"
    model = model_of(node(op, " ".join(name or "_" for name in names), results, **attributes), **held)
    del model.graph.input[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("unused", 1, [1]))
    kinds = {np.dtype(np.bool_): 9, np.dtype(np.int64): 7}
    model.graph.output[0].type.tensor_type.elem_type = kinds.get(np.asarray(made.values).dtype, 1)
    expected = by_onnxruntime(model, np.zeros(1, np.float32))
    assert made.shape == expected.shape
    np.testing.assert_allclose(made.values, expected, 1e-4, 1e-5)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 19, 21])
def test_quantised_weights_of_every_opset_are_weights(opset: int) -> None:
    """The format of onnxruntime's quantisation: a bias per channel, and a weight, as whole numbers and their scales."""
    per_channel = {"axis": 0} if opset >= 13 else {}
    scales = np.full(4, 0.5, np.float32) if opset >= 13 else np.float32(0.5)
    model = model_of(
        node("DequantizeLinear", "q s z", "w"),
        node("DequantizeLinear", "p t", "b", **per_channel),
        node("Conv", "x w b"),
        opset=opset,
        q=np.ones((4, 3, 3, 3), np.int8), s=np.float32(0.25), z=np.int8(0), p=np.ones(4, np.int32), t=scales,
    )  # fmt: skip
    graph = from_onnx(model).graph
    assert cost.params(pack([graph]))[0] == 4 * 3 * 3 * 3 + 4
    assert cost.macs(pack([graph]))[0] == 4 * 3 * 3 * 3 * 6 * 8


def test_whole_numbers_of_an_old_opset_become_what_their_scales_say() -> None:
    inputs = [np.arange(-6, 6, dtype=np.int8).reshape(3, 4), np.array([1, 2, 3], np.float32), np.int8([0, 1, 2])]
    xs: list[Constant | None] = [Constant(x.shape, x) for x in inputs]
    (made,) = evaluate(OnnxNode("DequantizeLinear", "", ("a", "b", "c"), ("y",), {"axis": 0}), xs, 13)
    expected = (inputs[0].astype(np.float32) - [[0], [1], [2]]) * [[1], [2], [3]]
    np.testing.assert_array_equal(made.numbers, expected)


def test_numbers_that_are_not_known_leave_a_shape() -> None:
    """A large embedding is resized, normalised and written into: of each only the shape is needed."""
    nodes = [
        node("Resize", "p _ s", "r", mode="cubic"),
        node("Add", "x r", "a"),
        node("LayerNormalization", "q g b", "n", axis=-1),
        node("Add", "a n"),
    ]
    sizes = {"p": (1, 64, 8, 8), "q": (1, 64, 16, 16), "g": (16,), "b": (16,)}
    model = model_of(*nodes, shape=(1, 64, 16, 16), s=np.array([1, 1, 2, 2], np.float32), **sizes)
    assert cost.params(pack([from_onnx(model).graph]))[0] == 64 * 8 * 8 + 64 * 16 * 16 + 2 * 16


def test_a_mask_that_is_made_of_constants_is_read() -> None:
    nodes = [
        node("Range", "zero n one", "r"),
        node("GreaterOrEqual", "r four", "m"),
        node("Cast", "m", "f", to=1),
        node("Add", "x f"),
    ]
    numbers = {"zero": np.array(0), "n": np.array(10), "one": np.array(1), "four": np.array(4)}
    assert from_onnx(model_of(*nodes, shape=(1, *IMAGE), **numbers)).graph.n_nodes == 3
    numbers["four"] = np.array(0)  # nothing but ones
    model = model_of(
        *nodes[:3], node("ReduceMean", "f", "o", keepdims=0), node("Add", "x o"), shape=(1, *IMAGE), **numbers
    )
    assert assert_as_onnxruntime(model, RNG.normal(size=(1, *IMAGE)).astype(np.float32))


def doubling(times: int, op: str) -> list[onnx.NodeProto]:
    nodes = [node(op, f"c{i} c{i}", f"c{i + 1}", **({"axis": 0} if op == "Concat" else {})) for i in range(times)]
    return [*nodes, node("ReduceMax", f"c{times}", "m", keepdims=0), node("Add", "x m")]


HOSTILE: dict[str, onnx.ModelProto] = {
    "joins that double": model_of(*doubling(40, "Concat"), c0=np.ones(64, np.float32)),
    "tile": model_of(
        node("Tile", "c r", "t"), node("Erf", "t", "e"), node("ReduceMax", "e", "m", keepdims=0), node("Add", "x m"),
        c=np.ones(2, np.float32), r=np.array([2**30]),
    ),
    "fill": model_of(
        node("ConstantOfShape", "s", "t"), node("Erf", "t", "e"), node("ReduceMax", "e", "m", keepdims=0),
        node("Add", "x m"), s=np.array([2**30, 2**30]),
    ),
    "range": model_of(
        node("Range", "a b d", "t"), node("Cast", "t", "e", to=1), node("ReduceMax", "e", "m", keepdims=0),
        node("Add", "x m"), a=np.array(0), b=np.array(2**31 - 2), d=np.array(1),
    ),
    "expand": model_of(
        node("Expand", "c s", "t"), node("TopK", "t k", "e i"), node("ReduceMax", "e", "m", keepdims=0),
        node("Add", "x m"), c=np.ones(1, np.float32), s=np.array([2**31 - 1]), k=np.array([2**30]),
    ),
    "pad": model_of(
        node("Pad", "c p", "t"), node("ReduceMax", "t", "m", keepdims=0), node("Add", "x m"),
        c=np.ones(3, np.float32), p=np.array([2**30, 2**30]),
    ),
    "resize": model_of(
        node("Resize", "c _ s", "t"), node("ReduceMax", "t", "m", keepdims=0), node("Add", "x m"),
        c=np.ones((1, 1, 30, 30), np.float32), s=np.array([1, 1, 2**15, 2**15], np.float32),
    ),
    "one hot": model_of(
        node("OneHot", "c d v", "t"), node("ReduceMax", "t", "m", keepdims=0), node("Add", "x m"),
        c=np.zeros(64, np.int64), d=np.array(2**30), v=np.array([0, 1], np.float32),
    ),
    "outer products": model_of(
        node("Einsum", "c c c c", "t", equation="a,b,c,d->a"), node("ReduceMax", "t", "m", keepdims=0),
        node("Add", "x m"), c=np.ones(250, np.float32),
    ),
    "products": model_of(
        node("MatMul", "c e", "t"), node("MatMul", "t t", "u"), node("ReduceMax", "u", "m", keepdims=0),
        node("Add", "x m"), c=np.ones((250, 1), np.float32), e=np.ones((1, 250), np.float32),
    ),
    "blocks": model_of(
        node("SpaceToDepth", "c", "t", blocksize=2**20), node("ReduceMax", "t", "m", keepdims=0), node("Add", "x m"),
        c=np.ones((1, 1, 4, 4), np.float32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_constants_that_blow_up_cost_neither_memory_nor_time(name: str) -> None:
    with suppress(GennapeError):
        from_onnx(HOSTILE[name])  # what is imported at the first call is not of the model
    tracemalloc.start()
    start = time.monotonic()
    try:
        with suppress(GennapeError):
            from_onnx(HOSTILE[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20
    assert time.monotonic() - start < 20


def test_many_constants_keep_their_shapes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_import, "_MAX_CONSTANTS", 100)
    nodes = [node("Erf", f"c{i}", f"c{i + 1}") for i in range(5)]
    model = model_of(*nodes, node("Add", "x c5"), shape=(1, *IMAGE), c0=np.ones((1, 3, 1, 1), np.float32))
    assert cost.params(pack([from_onnx(model).graph]))[0] == 3


def test_the_time_of_constants_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_import, "_MAX_SECONDS", -1.0)
    with pytest.raises(GennapeError, match=r"took over -1 s, up to node 'e' \(Erf\)"):
        from_onnx(model_of(node("Erf", "c", "e"), node("Add", "x e"), c=np.ones(1, np.float32)))


@pytest.mark.parametrize("op", ["RandomNormalLike", "Bernoulli", "Loop", "If"])
def test_chance_and_programs_are_not_run(op: str) -> None:
    with pytest.raises(InvalidGraphError, match="no operation is known"):
        from_onnx(model_of(node(op, "c", "r"), node("Add", "x r"), c=np.ones(1, np.float32)))


def test_other_domains_are_not_run() -> None:
    own = onnx.helper.make_node("Erf", ["c"], ["r"], domain="com.example")
    with pytest.raises(InvalidGraphError, match=r"com\.example\.Erf"):
        from_onnx(model_of(own, node("Add", "x r"), c=np.ones(1, np.float32)))
