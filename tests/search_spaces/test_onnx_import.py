"""What of an ONNX file is read, and what is refused, and how."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gennape.errors import GennapeError, InvalidDataError, InvalidGraphError
from gennape.search_spaces import cost, onnx_import
from gennape.search_spaces.builder import GraphBuilder, Value
from gennape.search_spaces.canonical import canonical_hashes
from gennape.search_spaces.graph import ComputationGraph, pack
from gennape.search_spaces.onnx_import import from_onnx, read_onnx
from gennape.search_spaces.onnx_in import file

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


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_free_sizes_are_given_or_refused() -> None:
    model = _model(_node("Relu", "x"), shape=("n", 3, "height", "width"))
    with pytest.raises(
        InvalidGraphError, match=r"free dimensions: 2 \(height\), 3 \(width\); give its shape as shape="
    ):
        from_onnx(model)
    assert _hash(from_onnx(model, (1, *IMAGE)).graph) == _hash(_graph(lambda b, x: b.relu(x)))
    with pytest.raises(InvalidGraphError, match="sizes must be positive"):
        from_onnx(model, (1, 3, 0, 8))
    with pytest.raises(InvalidGraphError, match=r"'x' is a batch of 4; give shape=\(1, 3, 8, 10\)"):
        from_onnx(_model(_node("Relu", "x"), shape=(4, *IMAGE)))


# What is refused -----------------------------------------------------------------------------------------------------


def test_all_that_is_not_known_is_listed_at_once() -> None:
    model = _model(
        helper.make_node("LSTM", ["x", "w", "w"], ["a"], name="memory"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("Fancy", ["b"], ["c"], name="own", domain="com.example"),
        helper.make_node("Loop", ["c", "", "x"], ["d"], name="again"),
        helper.make_node("Conv", ["x", "w"], ["e"], name="wrong"),
        helper.make_node("Add", ["d", "e"], ["y"], name="last"),
        w=(4, 5, 1, 1),
    )
    with pytest.raises(InvalidGraphError) as caught:
        from_onnx(model)
    lines = str(caught.value).splitlines()
    assert "4 of its parts are not known" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:5]] == [
        "node 'memory' (LSTM)",
        "node 'own' (com.example.Fancy)",
        "node 'again' (Loop)",
        "node 'wrong' (Conv)",
    ]
    assert "[4, 5, 1, 1] in 1 groups does not fit 3 channels" in lines[4]


REFUSED: dict[str, tuple[onnx.ModelProto, type[GennapeError], str]] = {
    "old": (_model(_node("Relu", "x"), opset=10), InvalidGraphError, r"opset \[10\], must be 11\.\.23"),
    "new": (_model(_node("Relu", "x"), opset=24), InvalidGraphError, r"opset \[24\]"),
    "cycle": (_model(_node("Add", "x b", "a"), _node("Relu", "a", "b"), _node("Relu", "b")), InvalidDataError, "cycle"),
    "missing": (_model(_node("Relu", "nowhere")), InvalidDataError, "takes 'nowhere', but nothing makes"),
    "twice": (_model(_node("Relu", "x"), _node("Tanh", "x")), InvalidDataError, "makes 'y' a second time"),
    "no output": (_model(_node("Relu", "x", "z")), InvalidDataError, "no node makes the output 'y'"),
    "constant": (_model(_node("Relu", "c"), c=(3,)), InvalidGraphError, "known|depend"),
    "confused": (
        _model(_node("Softmax", "x", axis="one")),
        InvalidGraphError,
        "'axis' must be a whole number, got 'one'",
    ),
    "no axis": (_model(_node("Concat", "x x")), InvalidGraphError, "'axis' is missing"),
    "far axis": (_model(_node("Softmax", "x", axis=9)), InvalidGraphError, "axis 9 of a value of 4 dimensions"),
    "computed weight": (_model(_node("Conv", "x x")), InvalidGraphError, "input 1 is computed of the image"),
    "training": (
        _model(_node("BatchNormalization", "x bn0 bn1 bn2 bn3", training_mode=1), **_BN),
        InvalidGraphError,
        "export the model for inference",
    ),
    "reshape": (
        _model(_node("Reshape", "x s"), s=np.array([7, -1])),
        InvalidGraphError,
        r"shape \[7, -1\] does not hold",
    ),
    "huge fill": (
        _model(_node("ConstantOfShape", "s", "c"), _node("Add", "x c"), s=np.array([2**31 - 1] * 4)),
        InvalidGraphError,
        "do not fit each other",
    ),
    "endless range": (
        _model(_node("Range", "a b c", "r"), _node("Add", "x r"), a=np.float32(0), b=np.float32(1), c=np.float32(0)),
        InvalidGraphError,
        "constant inputs",
    ),
    "huge pad": (_model(_node("Pad", "x p"), p=np.array([0, 0, 0, 0, 0, 0, 2**40, 0])), InvalidGraphError, "beyond 32"),
    "no inputs": (_model(_node("InstanceNormalization", "")), InvalidGraphError, "input 0 is missing"),
    "sequence": (
        _model(_node("SplitToSequence", "x n", "s", axis=1), _node("Relu", "s"), n=np.array([1, 2])),
        InvalidGraphError,
        "takes a sequence",
    ),
    "beyond price": (
        _model(_node("Pad", "x p"), p=np.array([0, 2**30, 0, 0, 0, 0, 2**30, 0])),
        InvalidGraphError,
        "would cost",
    ),
    "negative size": (_model(_node("Relu", "x"), shape=(1, 3, -8, 10)), InvalidGraphError, "sizes must be positive"),
    "huge size": (_model(_node("Relu", "x"), shape=(1, 2**40, 8, 10)), InvalidGraphError, "sizes must be positive"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_model_is_refused_by_name(name: str) -> None:
    model, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        from_onnx(model)


def test_an_import_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_import, "_MAX_SECONDS", -1.0)
    with pytest.raises(InvalidDataError, match=r"took over -1 s, up to node 'y' \(Relu\)"):
        from_onnx(_model(_node("Relu", "x")))


def test_several_inputs_or_outputs_are_refused_by_name() -> None:
    model = _model(_node("Add", "x z"))
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, *IMAGE]))
    with pytest.raises(InvalidGraphError, match=r"2 inputs \(x, z\), must have one"):
        from_onnx(model)


def test_files_that_are_no_onnx_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(InvalidDataError, match=r"cannot read .*: No such file"):
        read_onnx(path)
    path.write_bytes(b"")
    with pytest.raises(InvalidDataError, match="holds no graph"):
        read_onnx(path)
    path.write_bytes(b"PK\x03\x04 something else entirely")
    with pytest.raises(InvalidDataError, match="not an ONNX model"):
        read_onnx(path)
    data = _model(_node("Relu", "x")).SerializeToString()
    path.write_bytes(data[:-3])
    with pytest.raises(InvalidDataError, match="truncated"):
        read_onnx(path)
    path.write_bytes(data)
    with pytest.raises(InvalidDataError, match=f"{len(data)} bytes, more than the 10"):
        read_onnx(path, max_bytes=10)
    monkeypatch.setattr(file, "_MAX_PARTS", 1000)
    path.write_bytes(b"\x42\x00" * 501)  # an empty part again and again
    with pytest.raises(InvalidDataError, match="more than 1000 parts"):
        read_onnx(path)


# Weights -------------------------------------------------------------------------------------------------------------


def test_weights_cost_no_memory(tmp_path: Path) -> None:
    """80 MiB of weights, written as raw bytes, as numbers and in a node, are passed over."""
    path = tmp_path / "model.onnx"
    model = _model(
        _node("Constant", "", "c", value=numpy_helper.from_array(np.zeros((64, 2**18), np.float32))),
        _node("Flatten", "x", "f"),
        _node("Gemm", "f w", "g"),
        _node("MatMul", "g v", "h"),
        _node("MatMul", "h c"),
        w=(240, 16384),
        v=(16384, 64),
    )
    model.graph.initializer[1].ClearField("raw_data")
    model.graph.initializer[1].float_data.extend([0.0] * 2**20)
    path.write_bytes(model.SerializeToString())
    assert path.stat().st_size > 80 * 2**20
    del model
    tracemalloc.start()
    try:
        graph = read_onnx(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20
    assert cost.params(pack([graph]))[0] == 240 * 16384 + 16384 * 64 + 64 * 2**18


def test_external_data_is_not_looked_for(tmp_path: Path) -> None:
    model = _model(_node("Conv", "x w"), w=(4, 3, 3, 3))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../absent.bin"), ("offset", "0"), ("length", "432")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert _hash(read_onnx(path)) == _hash(_graph(lambda b, x: b.conv(x, 4, 3, 1, 0)))


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_model() -> bytes:
    nodes = [
        _node("Shape", "x", "s"),
        _node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        _node("BatchNormalization", "c bn0 bn1 bn2 bn3", "n"),
        _node("Sigmoid", "n", "g"),
        _node("Mul", "n g", "m"),
        _node("Reshape", "m t", "r"),
        _node("Transpose", "r", "q", perm=[0, 2, 1]),
        _node("MatMul", "q v"),
    ]
    return _model(*nodes, **_BN, w=(3, 3, 3, 3), b=(3,), t=np.array([0, 3, -1]), v=(3, 4)).SerializeToString()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_with_a_name(data: st.DataObject, small_model: bytes, tmp_path: Path) -> None:
    damaged = bytearray(
        small_model[: data.draw(st.one_of(st.just(len(small_model)), st.integers(0, len(small_model))))]
    )
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.onnx"
    path.write_bytes(damaged)
    start = time.monotonic()
    with suppress(GennapeError):
        assert cost.macs(pack([read_onnx(path)]))[0] >= 0
    assert time.monotonic() - start < 5
