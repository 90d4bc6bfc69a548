"""Graphs and ONNX files over HTTP, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from http_cases import LIMITS, SHA, ask_api, predict

from gennape.platform.serving.http import app as http_api
from gennape.platform.serving.http.app import example
from gennape.platform.serving.http.schemas import as_columns
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.importing.onnx import read_onnx

if TYPE_CHECKING:
    pass


def _columns(**changed: Any) -> dict[str, Any]:
    space = family("hiaml")
    return {**as_columns(space.graph(space.decode(example(space)))), **changed}


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_a_graph_is_answered_as_its_architecture_is(space: Any) -> None:
    columns = as_columns(space.graph(space.decode(example(space))))
    by_graph = ask_api("POST", "/predict/graphs", json={"graphs": [columns]})
    assert by_graph.status_code == 200, by_graph.text
    assert by_graph.json() == predict(json={"space": space.name, "architecture": example(space)}).json()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edge.source": []}, "edge.target has"),
        ({"edge.source": [0], "edge.target": [999]}, "names node 999"),
        ({"node.op": [2**40]}, "graphs.0.node.op.0: Input should be less than"),
        ({"node.op": [1.5]}, "valid integer"),
        ({"node.extra": []}, "graphs.0.node.extra"),
        ({"node.scalar": None}, "graphs.0.node.scalar"),
        ({name: [] for name in _columns()}, "graph 0 has no nodes"),
        ({"edge.source": [], "edge.target": []}, "only the input node has none"),
    ],
)
def test_what_is_no_graph_says_why(change: dict[str, Any], says: str) -> None:
    answer = ask_api("POST", "/predict/graphs", json={"graphs": [_columns(**change)]})
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("node.kernel_h", 0, "kernel (0, 3)"),
        ("node.kernel_w", 2**31 - 1, "does not fit an input of 32x32"),
        ("node.stride_h", 100_000, "claims to make [16, 32, 32] of [[3, 32, 32]]"),
        ("node.pad_w", 5, "claims to make [16, 32, 32]"),
        ("node.groups", 100_000, "groups that divide both channel counts; got 100000 groups for 3 -> 16"),
        ("node.bias", 2, "bias is 0 without and 1 with one, got 2"),
    ],
)
def test_a_convolution_that_cannot_be_is_refused(column: str, value: int, says: str) -> None:
    space = family("nb201")  # whose second node is a convolution of 3x3 from 3 to 16 channels of 32x32
    columns = as_columns(space.graph(space.sample(np.random.default_rng(0), 1)[0]))
    assert [columns[name][1] for name in ("node.kernel_h", "node.c_in", "node.c_out", "node.h_out")] == [3, 3, 16, 32]
    good = {name: list(values) for name, values in columns.items()}
    columns[column][1] = value
    answer = ask_api("POST", "/predict/graphs", json={"graphs": [good, columns]})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"].startswith("graph 1, node 1")
    assert says in answer.json()["error"]


def _onnx(tmp_path: Path, batch: Any = 1, size: Any = 32) -> bytes:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 3, size, size])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    w = onnx.numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "w")
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["c"]), onnx.helper.make_node("Relu", ["c"], ["y"])]
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y], [w]), opset_imports=opset)
    onnx.save(model, tmp_path / "model.onnx")
    return (tmp_path / "model.onnx").read_bytes()


def test_an_onnx_file_is_answered(tmp_path: Path) -> None:
    content = _onnx(tmp_path)
    answer = ask_api("POST", "/predict/onnx", content=content)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    assert row["accuracy"] == read_onnx(tmp_path / "model.onnx").n_nodes
    assert row["macs"] == 30 * 30 * 8 * 3 * 9  # without padding
    assert answer.json()["checkpoint"] == SHA


def test_a_free_input_takes_its_shape_from_the_request(tmp_path: Path) -> None:
    content = _onnx(tmp_path, "n", "side")
    assert ask_api("POST", "/predict/onnx?shape=1,3,34,34", content=content).json()["predictions"][0]["macs"] == (
        32 * 32 * 8 * 3 * 9
    )
    answer = ask_api("POST", "/predict/onnx", content=content)
    assert (answer.status_code, "shape" in answer.text) == (422, True), answer.text
    assert ask_api("POST", "/predict/onnx?shape=1,3,x", content=content).status_code == 422


def test_edges_are_limited_by_the_nodes() -> None:
    columns = _columns()
    times = LIMITS.max_edges_per_node + 1
    many = {name: columns[name] * times for name in ("edge.source", "edge.target")}
    answer = ask_api("POST", "/predict/graphs", json={"graphs": [_columns(), _columns(**many)]})
    assert answer.status_code == 422, answer.text
    edges, nodes = len(columns["edge.source"]) * times, len(columns["node.op"])
    assert f"graph 1 has {edges} edges, more than {LIMITS.max_edges_per_node} for each" in answer.json()["error"]
    assert f"its {nodes} nodes" in answer.json()["error"]


def _joined(n: int) -> bytes:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    nodes = [onnx.helper.make_node("Concat", ["x"] * n, ["y"], axis=1)]
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y]), opset_imports=opset)
    content: bytes = model.SerializeToString()
    return content


def test_edges_of_an_onnx_file_are_limited_before_most_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ask_api("POST", "/predict/onnx", content=_joined(200))
    assert (answer.status_code, "201 edges, more than" in answer.text) == (422, True), answer.text
    monkeypatch.setattr(http_api, "pack", lambda _: pytest.fail("it was imported"))
    most = LIMITS.max_edges_per_node * LIMITS.max_nodes
    answer = ask_api("POST", "/predict/onnx", content=_joined(most + 1))
    assert answer.status_code == 422, answer.text
    assert f"take {most + 1} inputs, more than the {most}" in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07" + bytes(1000)])
def test_what_is_no_onnx_file_says_so_and_not_where_it_lay(content: bytes) -> None:
    answer = ask_api("POST", "/predict/onnx", content=content)
    assert answer.status_code == 422, answer.text
    assert "the upload" in answer.json()["error"]
    assert "gennape-upload" not in answer.text
