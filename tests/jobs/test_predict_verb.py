"""``gennape predict``: the rows that the predictor gives, in order, and what is said of what cannot be read."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from gennape.jobs.cli import app
from gennape.jobs.shared.tracked import warn_elsewhere
from gennape.predictors.model.checkpoint import load_pretrained, save_tuned
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import macs, params

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

SPACE = family("nb201")
KEYS = ["network", "space", "accuracy", "deviation", "flops", "macs", "params", "unit", "scale"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def rows_of(result: Result) -> list[dict[str, Any]]:
    networks: list[dict[str, Any]] = json.loads(result.stdout)["networks"]
    return networks


def cells(n: int) -> list[str]:
    return [SPACE.encode(genome) for genome in SPACE.sample(np.random.default_rng(7), n)]


def write_onnx(path: Path, shape: tuple[int | str, ...] = (1, 3, 8, 8)) -> Path:
    """One convolution of 3 to 4 channels, 3x3 with padding: on 8x8 pixels 8·8·4·27 = 6,912 MACs, 4·27 = 108 weights."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    weight = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in (("x", shape), ("y", None))]
    graph = helper.make_graph([conv], "one", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_json_has_one_object_a_network_the_best_first_and_nothing_else(tmp_path: Path) -> None:
    texts, file = cells(4), write_onnx(tmp_path / "one.ONNX")
    result = run("--space", "nb201", "--json", file, *texts)
    assert result.exit_code == 0, result.stderr
    rows = rows_of(result)
    assert all(list(row) == KEYS for row in rows)
    graphs = SPACE.graphs(np.stack([SPACE.decode(text) for text in texts]))
    expected = dict(zip(texts, load_pretrained().predict(graphs).accuracy, strict=True))
    assert {row["network"]: row["accuracy"] for row in rows if row["space"]} == pytest.approx(expected, abs=1e-6)
    assert [row["accuracy"] for row in rows] == sorted((row["accuracy"] for row in rows), reverse=True)
    costs = {row["network"]: (row["flops"], row["macs"], row["params"]) for row in rows}
    assert costs[str(file)] == (2 * 6912, 6912, 108)
    assert costs[texts[1]] == (2 * macs(graphs)[1], macs(graphs)[1], params(graphs)[1])
    assert {row["space"] for row in rows if row["deviation"] is None} == {None}  # zero-shot
    assert {row["unit"] for row in rows if row["space"]} == {"%"}
    (file_row,) = [row for row in rows if row["space"] is None]
    assert file_row["network"] == str(file)
    assert "NAS-Bench-101 (CIFAR-10)" in result.stderr


def test_programs_of_torch_export(tmp_path: Path) -> None:
    """The same network as :func:`write_onnx`: 6,912 MACs and 108 weights, whatever file it comes in."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), tmp_path / "one.PT2.pt2")
    result = run("--json", write_onnx(tmp_path / "one.onnx"), tmp_path / "one.PT2.pt2")
    assert result.exit_code == 0, result.stderr
    rows = rows_of(result)
    assert [(row["macs"], row["params"]) for row in rows] == [(6912, 108)] * 2
    assert rows[0]["accuracy"] == rows[1]["accuracy"]


def test_table_shows_the_same_to_people(tmp_path: Path) -> None:
    (text,) = cells(1)
    result = run(text, write_onnx(tmp_path / "one.onnx"), "--space", "nb201")
    head, *rows = result.stdout.splitlines()
    named = ["RANK", "ACCURACY", "DEVIATION", "FLOPS", "MACS", "PARAMETERS", "MEMBERSHIPS", "NETWORK"]
    assert head.split() == named
    assert [row.split()[0] for row in rows] == ["1", "2"]
    (small,) = [row for row in rows if row.endswith("one.onnx")]
    assert "13.8 k  6.91 k         108" in small
    memberships = [float(word) for word in small[head.index("MEMBERSHIPS") : head.index("NETWORK")].split()]
    assert sum(memberships) == pytest.approx(1, abs=0.031)  # six numbers of two digits


@pytest.mark.parametrize("name", ["a.csv", "a.CSV.GZ", "a.parquet", "a.json"])
def test_files_of_architectures(tmp_path: Path, name: str) -> None:
    texts, path = cells(3), tmp_path / name
    table = pd.DataFrame({"arch": texts, "anything": ["", "x", "y"]})
    if name == "a.json":
        path.write_text(json.dumps(texts))
    elif name == "a.parquet":
        table.to_parquet(path)
    else:
        content = table.to_csv(index=False).encode()
        path.write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
    result = run("--json", path, "--family", "nb201")
    assert result.exit_code == 0, result.stderr
    assert sorted(row["network"] for row in rows_of(result)) == sorted(texts)


def test_cells_as_bits(tmp_path: Path) -> None:
    """Input to convolution 3x3 to output: edges 0→1 (bit 0) and 1→2 (bit 2), so 5; digit 0 is the convolution."""
    path = tmp_path / "cells.csv"
    path.write_text("hash,n_vertices,adj_bits,ops\n" + "0" * 32 + ",3,5,0\n" + "1" * 32 + ",3,5,9\n")
    result = run("--json", path, "--space", "nb101")
    assert result.exit_code == 1
    (row,) = rows_of(result)
    assert json.loads(row["network"])["matrix"] == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert "cells.csv, row 2" in result.stderr


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    good, torn, empty = write_onnx(tmp_path / "good.onnx"), tmp_path / "torn.onnx", tmp_path / "empty.onnx"
    torn.write_bytes(good.read_bytes()[:40])
    empty.write_bytes(b"")
    table = tmp_path / "a.csv"
    table.write_text("architecture\n" + "\n".join([*cells(1), *(f"wrong{i}" for i in range(8))]) + "\n")
    result = run("--json", torn, good, empty, tmp_path / "goood.onnx", table, "--space", "nb201")
    assert result.exit_code == 1
    assert [row["network"] for row in rows_of(result) if row["space"] is None] == [str(good)]
    errors = [line for line in result.stderr.splitlines() if line.startswith("gennape: error: ")]
    told = "\n".join(errors)
    assert f"did you mean {good}?" in told
    assert f"{empty} is empty" in told
    assert str(torn) in told
    assert "a.csv, row 2: nb201" in told
    assert "and 3 more rows" in told
    assert len(errors) == 3 + 5 + 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "give its family with --space"),
        (["model.onx"], "has none of the suffixes that are read: .onnx, .pt2"),
        (["."], "is a folder"),
        (["a.csv"], "Give --space"),
        (["nothing", "--space", "nb20"], "did you mean nb201?"),
        (["{]", "--space", "nb201"], "must be JSON"),
        (["x", "--space", "nb201", "--shape", "3,8,8"], "--shape is for files"),
        (["absent.onnx", "absent.csv", "--space", "nb201"], "absent.csv does not exist"),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert told in (result.stderr or str(result.exception))
    assert result.stdout == ""


@pytest.mark.parametrize("text", ["3,8,8", "1,3,8,8", "3x8x8", "1X3X8X8", "(1, 3, 8, 8)"])
def test_shape_in_every_form(tmp_path: Path, text: str) -> None:
    path = write_onnx(tmp_path / "free.onnx", ("n", 3, "h", "w"))
    result = run("--json", path, "--shape", text)
    assert result.exit_code == 0, result.stderr
    assert [row["macs"] for row in rows_of(result)] == [6912]


@pytest.mark.parametrize("text", ["3,a", "", "3,,8", "0,8,8", "-1,3,8", "3.5,8,8", "3;8;8", "9" * 12])
def test_what_is_no_shape(tmp_path: Path, text: str) -> None:
    result = run(write_onnx(tmp_path / "one.onnx"), "--shape", text)
    assert result.exit_code == 2
    assert "is no shape" in result.stderr


def test_a_fine_tuned_checkpoint_tells_deviations_and_warns_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = cells(8)
    graphs = SPACE.graphs(np.stack([SPACE.decode(text) for text in texts]))
    predictor = load_pretrained().fit(graphs, np.linspace(60, 74, 8))
    save_tuned(tmp_path / "tuned", predictor, {"family": "nb201", "families": ["nb101", "nb201"]})
    at_home = run("--json", "--space", "nb201", "--checkpoint", tmp_path / "tuned", *texts[:2])
    assert at_home.exit_code == 0, at_home.stderr
    assert all(row["deviation"] > 0 for row in rows_of(at_home))
    assert "the labels of nb201" in at_home.stderr
    assert "warning" not in at_home.stderr
    hiaml = json.dumps(family("hiaml").encode(family("hiaml").sample(np.random.default_rng(0), 1)[0]))
    elsewhere = run("--json", "--space", "hiaml", "--checkpoint", tmp_path / "tuned", hiaml)
    assert "warning: the checkpoint was fine-tuned on nb201" in elsewhere.stderr
    assert "hiaml" in elsewhere.stderr
    warn_elsewhere(tmp_path / "tuned", "nb201")  # as search does
    assert capsys.readouterr().err == ""
    warn_elsewhere(str(tmp_path / "tuned"), "hiaml")
    assert "warning: the checkpoint was fine-tuned on nb201" in capsys.readouterr().err
    unknown = run("--json", "--checkpoint", tmp_path / "tuned", write_onnx(tmp_path / "one.onnx"))
    assert "networks of no known family" in unknown.stderr


@pytest.mark.cluster
def test_needs_no_ray(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom gennape.jobs.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'ray', 'mlflow'} & set(sys.modules)\n"
    )
    arguments = ["predict", "--json", str(write_onnx(tmp_path / "one.onnx"))]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [list(row) for row in json.loads(done.stdout)["networks"]] == [KEYS]
