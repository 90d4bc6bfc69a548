"""What of an ONNX file is read, and what is refused, and how."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from example_counts import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_models import BN, IMAGE, graph_of, model_of, node
from space_checks import graph_hash

from gennape.errors import GennapeError, InvalidDataError, InvalidGraphError, OpenShapeError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing import onnx as onnx_import
from gennape.search_spaces.importing.onnx import from_onnx, read_onnx
from gennape.search_spaces.importing.onnx_nodes import file

# Sizes ---------------------------------------------------------------------------------------------------------------


def test_free_sizes_are_given_or_refused() -> None:
    model = model_of(node("Relu", "x"), shape=("n", 3, "height", "width"))
    message = (
        r"free dimensions: 2 \(height\), 3 \(width\); give its shape, as in --shape 1,3,224,224 "
        r"\(in Python shape=\(1, 3, 224, 224\)\)"
    )
    with pytest.raises(OpenShapeError, match=message):
        from_onnx(model)
    with pytest.raises(OpenShapeError, match="--shape 1,224,224,3 "):  # channels last
        from_onnx(model_of(node("Relu", "x"), shape=("n", "height", "width", 3)))
    unshaped = model_of(node("Relu", "x"))
    unshaped.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(OpenShapeError, match=r"has no shape; give it, as in --shape 1,3,224,224 "):
        from_onnx(unshaped)
    assert graph_hash(from_onnx(model, (1, *IMAGE)).graph) == graph_hash(graph_of(lambda b, x: b.relu(x)))
    with pytest.raises(InvalidGraphError, match="sizes from 1 to 2147483647"):
        from_onnx(model, (1, 3, 0, 8))
    with pytest.raises(OpenShapeError, match=r"'x' is a batch of 4; give --shape 1,3,8,10 \(in Python"):
        from_onnx(model_of(node("Relu", "x"), shape=(4, *IMAGE)))


def test_three_dimensions_are_an_image_or_a_batch_as_is_said() -> None:
    """Both remedies that the message names are taken."""
    model = model_of(node("Relu", "x"), shape=IMAGE)
    message = r"image of 3 channels give --shape 3,8,10 .* batch of 3 give --shape 1,8,10"
    with pytest.raises(OpenShapeError, match=message):
        from_onnx(model)
    assert graph_hash(from_onnx(model, IMAGE).graph) == graph_hash(graph_of(lambda b, x: b.relu(x)))
    assert from_onnx(model, (1, 8, 10)).graph.nodes[0, 1:4].tolist() == [10, 8, 1]


# What is refused -----------------------------------------------------------------------------------------------------


def test_all_that_is_not_known_is_listed_at_once() -> None:
    model = model_of(
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
    assert "4 of its parts are not supported" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:5]] == [
        "node 'memory' (LSTM)",
        "node 'own' (com.example.Fancy)",
        "node 'again' (Loop)",
        "node 'wrong' (Conv)",
    ]
    assert "[4, 5, 1, 1] in 1 groups does not match 3 channels" in lines[4]


def test_nodes_that_are_not_in_order_are_put_in_order() -> None:
    """As the converter to half precision of onnxruntime writes them: its casts lie behind what takes them."""
    nodes = [node("Add", "s r"), node("Sigmoid", "r", "s"), node("Relu", "x", "r"), node("Tanh", "y", "unused")]
    expected = model_of(nodes[2], nodes[1], nodes[0])
    assert graph_hash(from_onnx(model_of(*nodes)).graph) == graph_hash(from_onnx(expected).graph)
    deep = [node("Relu", f"v{i + 1}", f"v{i}") for i in range(2000)]
    long = model_of(node("Identity", "v0"), *deep, node("Identity", "x", "v2000"))
    assert from_onnx(long).graph.n_nodes == 2002


def test_a_sparse_initializer_is_a_weight(tmp_path: Path) -> None:
    """Its zeros are learnt, too: a layer computes with all of its numbers."""
    model = model_of(node("Conv", "x w b"), b=(4,))
    held = numpy_helper.from_array(np.ones(2, np.float32), "w"), numpy_helper.from_array(np.array([5, 9]), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(*held, [4, 3, 3, 3]))
    onnx.save(model, tmp_path / "sparse.onnx")
    for graph in (from_onnx(model).graph, read_onnx(tmp_path / "sparse.onnx")):
        assert cost.params(pack([graph]))[0] == 4 * 3 * 9 + 4
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
    with pytest.raises(InvalidDataError, match="two initializers"):
        from_onnx(model)


@pytest.mark.parametrize("shape", [(3, 8), (1, 3, 8, 10, 1)])
def test_a_shape_of_other_dimensions_is_refused(shape: tuple[int, ...]) -> None:
    model = model_of(node("Relu", "x"), shape=("n", 3, "height", "width"))
    with pytest.raises(OpenShapeError, match=r"'x' has 4 dimensions, got the shape .*; .*--shape 1,3,224,224 "):
        from_onnx(model, shape=shape)


@pytest.mark.parametrize("shape", [(1, 3, 0, 10), (1, 3, 2**31, 10)])
def test_a_shape_that_is_none_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidGraphError, match="must be 1 to 16 sizes from 1 to 2147483647"):
        from_onnx(model_of(node("Relu", "x")), shape=shape)


REFUSED: dict[str, tuple[onnx.ModelProto, type[GennapeError], str]] = {
    **{
        f"wide {mode}": (
            model_of(
                node("Pad", "x p", mode=mode), p=np.array([0, 0, 9 - (mode == "reflect"), 0, 0, 0, 0, 0]), opset=19
            ),
            InvalidGraphError,
            r"node 'y' \(Pad\): \w+ padding \(0, \d, 0\), \(0, 0, 0\) is wider than what it repeats of \(3, 8, 10\)",
        )
        for mode, width in (("reflect", 8), ("wrap", 9))
    },
    "old": (model_of(node("Relu", "x"), opset=10), InvalidGraphError, r"opset \[10\], must be 11\.\.28"),
    "new": (model_of(node("Relu", "x"), opset=29), InvalidGraphError, r"opset \[29\]"),
    "cycle": (model_of(node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b")), InvalidDataError, "cycle"),
    "missing": (model_of(node("Relu", "nowhere")), InvalidDataError, "takes 'nowhere', but no node makes it"),
    "twice": (model_of(node("Relu", "x"), node("Tanh", "x")), InvalidDataError, "makes 'y' a second time"),
    "no output": (model_of(node("Relu", "x", "z")), InvalidDataError, "no node makes the output 'y'"),
    "constant": (model_of(node("Relu", "c"), c=(3,)), InvalidGraphError, "known|depend"),
    "confused": (
        model_of(node("Softmax", "x", axis="one")),
        InvalidGraphError,
        "'axis' must be an integer, got 'one'",
    ),
    "no axis": (model_of(node("Concat", "x x")), InvalidGraphError, "'axis' is missing"),
    "far axis": (
        model_of(node("Softmax", "x", axis=9)),
        InvalidGraphError,
        "axis is 9, but its input has 4 dimensions",
    ),
    "computed weight": (model_of(node("Conv", "x x")), InvalidGraphError, "input 1 depends on the image"),
    "training": (
        model_of(node("BatchNormalization", "x bn0 bn1 bn2 bn3", training_mode=1), **BN),
        InvalidGraphError,
        "export the model for inference",
    ),
    "reshape": (
        model_of(node("Reshape", "x s"), s=np.array([7, -1])),
        InvalidGraphError,
        r"shape \[7, -1\] does not match",
    ),
    "huge fill": (
        model_of(node("ConstantOfShape", "s", "c"), node("Add", "x c"), s=np.array([2**31 - 1] * 4)),
        InvalidGraphError,
        "cannot be broadcast",
    ),
    "endless range": (
        model_of(node("Range", "a b c", "r"), node("Add", "x r"), a=np.float32(0), b=np.float32(1), c=np.float32(0)),
        InvalidGraphError,
        "constant inputs",
    ),
    "huge pad": (
        model_of(node("Pad", "x p"), p=np.array([0, 0, 0, 0, 0, 0, 2**40, 0])),
        InvalidGraphError,
        "beyond 32",
    ),
    "no inputs": (model_of(node("InstanceNormalization", "")), InvalidGraphError, "input 0 is missing"),
    "sequence": (
        model_of(node("SplitToSequence", "x n", "s", axis=1), node("Relu", "s"), n=np.array([1, 2])),
        InvalidGraphError,
        "input is a sequence",
    ),
    "beyond price": (
        model_of(node("Pad", "x p"), p=np.array([0, 2**30, 0, 0, 0, 0, 2**30, 0])),
        InvalidGraphError,
        "would cost",
    ),
    "negative size": (
        model_of(node("Relu", "x"), shape=(1, 3, -8, 10)),
        InvalidGraphError,
        "sizes from 1 to 2147483647",
    ),
    "huge size": (
        model_of(node("Relu", "x"), shape=(1, 2**40, 8, 10)),
        InvalidGraphError,
        "sizes from 1 to 2147483647",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_model_is_refused_by_name(name: str) -> None:
    model, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        from_onnx(model)


def test_an_import_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_import, "_MAX_SECONDS", -1.0)
    with pytest.raises(InvalidDataError, match=r"took over -1 s, up to node 'y' \(Relu\)"):
        from_onnx(model_of(node("Relu", "x")))


def test_several_inputs_or_outputs_are_refused_by_name() -> None:
    model = model_of(node("Add", "x z"))
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
    data = model_of(node("Relu", "x")).SerializeToString()
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
    model = model_of(
        node("Constant", "", "c", value=numpy_helper.from_array(np.zeros((64, 2**18), np.float32))),
        node("Flatten", "x", "f"),
        node("Gemm", "f w", "g"),
        node("MatMul", "g v", "h"),
        node("MatMul", "h c"),
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
    model = model_of(node("Conv", "x w"), w=(4, 3, 3, 3))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../absent.bin"), ("offset", "0"), ("length", "432")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert graph_hash(read_onnx(path)) == graph_hash(graph_of(lambda b, x: b.conv(x, 4, 3, 1, 0)))


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_model() -> bytes:
    nodes = [
        node("Shape", "x", "s"),
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c bn0 bn1 bn2 bn3", "n"),
        node("Sigmoid", "n", "g"),
        node("Mul", "n g", "m"),
        node("Reshape", "m t", "r"),
        node("Transpose", "r", "q", perm=[0, 2, 1]),
        node("MatMul", "q v"),
    ]
    return model_of(*nodes, **BN, w=(3, 3, 3, 3), b=(3,), t=np.array([0, 3, -1]), v=(3, 4)).SerializeToString()


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
