from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from gennape.errors import InvalidDataError
from gennape.jobs.conform import conform
from gennape.search_spaces.families.conformance import (
    FixtureRow,
    check_row,
    fixture_files,
    measure,
    read_rows,
    space_of,
    uniform,
)
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.builder import GraphBuilder

FIXTURES = Path(__file__).parents[3].parent / "shared" / "fixtures"
CONFIG = ["hiaml_l20", "hiaml_t20", "hiaml_l20", "hiaml_src8"]


def _row(**changes: Any) -> dict[str, Any]:
    """A row that agrees with the project's own network, but for ``changes``; None takes a key away."""
    space = family("hiaml")
    measured = measure(space.graph(space.decode(CONFIG)))
    row = {
        "family": "hiaml",
        "id": 7,
        "config": CONFIG,
        "params": measured.params,
        "macs": measured.macs,
        "out_shape": [1, 10],
        "conv_linear_sha256": measured.conv_linear_sha256,
        "logits8": measured.logits[:8].tolist(),
        "logits_l2": float(np.linalg.norm(measured.logits)),
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


def _problems(row: dict[str, Any]) -> str:
    return "; ".join(check_row(family("hiaml"), FixtureRow("7", row)))


def test_oracle_is_splitmix64() -> None:
    # The first outputs of splitmix64 from seed 0, as its reference implementation prints them.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert uniform(3, 0).tolist() == [(z >> 11) * 2.0**-53 for z in published]
    assert uniform(2, 1).tolist() == uniform(3, 0)[1:].tolist()
    assert len(uniform(100_000, 5)) == 100_000


def test_layers_and_macs_are_those_that_execute() -> None:
    b = GraphBuilder()
    x = b.conv(b.input(3, 9, 8), 4, (3, 1), (2, 1), dilation=2, bias=True)
    x = b.depthwise(b.batchnorm(x), 5, 2)
    b.output(b.linear(b.mean(b.relu(x)), 6))
    measured = measure(b.build())
    # 3x1 kernel, dilation 2: padding 2x0, rows (9 + 4 - 4 - 1) // 2 + 1 = 5; then 5x5/2 on 5x8: 3x4.
    assert measured.layers == [
        "conv i3 o4 k3x1 s2x1 p2x0 d2x2 g1 b1 @5x8",
        "conv i4 o4 k5x5 s2x2 p2x2 d1x1 g4 b0 @3x4",
        "linear i4 o6 b1",
    ]
    assert measured.macs == 4 * 5 * 8 * (3 * 3) + 4 * 3 * 4 * 25 + 4 * 6
    assert measured.params == (4 * 9 + 4) + 2 * 4 + 4 * 25 + (4 * 6 + 6)
    assert measured.out_shape == [1, 6]
    assert measured.conv_linear_sha256 == hashlib.sha256("\n".join(measured.layers).encode()).hexdigest()


def test_weights_and_input_follow_the_oracle() -> None:
    """One 1x1 convolution with bias on a 1x1 image, computed by hand."""
    b = GraphBuilder()
    b.output(b.conv(b.input(3, 1, 1), 2, bias=True))
    weight = (2 * uniform(6, 0) - 1).reshape(2, 3) * np.sqrt(6 / 3)
    bias, image = 0.1 * (2 * uniform(2, 2**20) - 1), 2 * uniform(3, 7 * 2**20) - 1
    np.testing.assert_allclose(measure(b.build()).logits, weight @ image + bias, rtol=1e-12)


def test_a_row_that_agrees_passes() -> None:
    assert _problems(_row()) == ""


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"params": 1}, r"params is \d+, expected 1$"),
        ({"macs": 1}, r"macs is \d+, expected 1$"),
        ({"out_shape": [1, 100]}, r"out_shape is \[1, 10\], expected \[1, 100\]"),
        ({"conv_linear_sha256": "0" * 64}, "conv_linear_sha256 is [0-9a-f]{64}, expected 0{64}"),
        ({"logits8": [0.0] * 8}, "logits8 is"),
        ({"logits8": [float("nan")] * 8}, "logits8 is"),
        ({"logits_l2": 1.0}, "logits_l2 is"),
        ({"logits_l2": "1"}, "logits_l2 is '1', not a number"),
        ({"logits8": ["x"]}, "not numbers"),
        ({"params": None, "macs": None}, "lacks params, macs"),
        ({"config": None}, "lacks config"),
        ({"config": ["hiaml_l20"]}, "4 block names"),
        ({"config": ["hiaml_l20"] * 3 + ["hiaml_x"]}, "hiaml_x"),
        ({"family": "nb101"}, "belongs to family 'nb101'"),
        ({"family": ["x"]}, "belongs to family"),
    ],
)
def test_a_row_that_differs_says_where(changes: dict[str, Any], match: str) -> None:
    assert re.search(match, _problems(_row(**changes)))


def test_logits_are_compared_to_a_millionth_of_their_norm() -> None:
    row = _row()
    for error, passes in ((0.5e-6, True), (2e-6, False)):
        logits = [row["logits8"][0] + error * row["logits_l2"], *row["logits8"][1:]]
        assert (_problems({**row, "logits8": logits}) == "") is passes


def test_resolution_of_the_row_counts() -> None:
    space = family("ofa_mbv3")
    units = [[[3, 3]] * 2] * 5
    measured = measure(space.graph(space.decode({"resolution": 128, "units": units})))
    row = _row(family="ofa_mbv3", config={"units": units}, resolution=128)
    row |= {"params": measured.params, "macs": measured.macs, "out_shape": [1, 1000]}
    row |= {"conv_linear_sha256": measured.conv_linear_sha256, "logits8": measured.logits[:8].tolist()}
    row |= {"logits_l2": float(np.linalg.norm(measured.logits))}
    assert check_row(space, FixtureRow("0", row)) == []
    row["config"] = {"units": units, "resolution": 224}
    assert check_row(space, FixtureRow("0", row)) == []


def test_nb101_checks_channels_and_hash() -> None:
    space = family("nb101")
    # Input to both vertices to output: channels split in two. Hash of the benchmark: not the row's.
    config = {
        "matrix": [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
        "ops": ["input", "maxpool3x3", "maxpool3x3", "output"],
    }
    channels = [
        [128, 64, 64, 128],
        [128, 128, 128, 256],
        [256, 128, 128, 256],
        [256, 256, 256, 512],
        [512, 256, 256, 512],
    ]
    row = _row(family="nb101", config=config, vertex_channels=channels, hash_md5="0")
    problems = "; ".join(check_row(space, FixtureRow("0", row)))
    assert "vertex_channels" not in problems
    assert "hash_md5 is" in problems
    channels[0][1] = 63
    assert "vertex_channels is" in "; ".join(check_row(space, FixtureRow("0", row)))


def test_lines_that_cannot_be_read_are_rows_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "hiaml.jsonl"
    path.write_text('{"id": 3}\n\n{"id": \n[1]\n')
    rows = read_rows(path)
    assert [row.identity for row in rows] == ["3", "line 3", "line 4"]
    assert [row.problem is None for row in rows] == [True, False, False]
    path.write_bytes(b"\xff\xfe")
    assert "cannot be read" in str(read_rows(path)[0].problem)
    path.write_text("\n")
    assert read_rows(path)[0].problem == "holds no rows"


def test_files_are_named_after_families(tmp_path: Path) -> None:
    space = space_of(tmp_path / "hiaml.jsonl")
    assert space is not None
    assert space.name == "hiaml"
    assert space_of(tmp_path / "atlantis.jsonl") is None
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "hiaml.jsonl").touch()
    (tmp_path / "README.md").touch()
    with pytest.raises(InvalidDataError, match=r"no <family>\.jsonl file"):
        fixture_files(tmp_path)
    with pytest.raises(InvalidDataError, match="not a folder"):
        fixture_files(tmp_path / "missing")
    (tmp_path / "graphs").mkdir()
    for path in (tmp_path / "nb101.jsonl", tmp_path / "graphs" / "hiaml.jsonl"):
        path.touch()
    assert fixture_files(tmp_path) == [tmp_path / "nb101.jsonl", tmp_path / "graphs" / "hiaml.jsonl"]


def _conform(directory: Path) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(conform)
    result = CliRunner().invoke(app, [str(directory)])
    return result.exit_code, result.stdout, result.exception


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_verb_counts_families_and_rows(tmp_path: Path) -> None:
    _write(tmp_path / "hiaml.jsonl", [_row()])
    _write(tmp_path / "atlantis.jsonl", [{}])
    code, out, _ = _conform(tmp_path)
    assert code == 0
    assert "atlantis: no such family here, not checked\n" in out
    assert "hiaml: 1 rows, 1 passed, 0 failed" in out
    assert out.endswith("1 file not checked\n1 passed, 0 failed\n")


def test_verb_fails_where_a_row_fails(tmp_path: Path) -> None:
    _write(tmp_path / "hiaml.jsonl", [_row(), _row(id=8, params=1)])
    code, out, _ = _conform(tmp_path)
    assert code == 1
    assert re.search(r"FAILED hiaml 8: params is \d+, expected 1\n", out)
    assert out.endswith("1 passed, 1 failed\n")


def test_verb_refuses_a_folder_without_known_families(tmp_path: Path) -> None:
    _write(tmp_path / "atlantis.jsonl", [{}])
    code, _, error = _conform(tmp_path)
    assert code == 1
    assert isinstance(error, InvalidDataError)
    assert "no family was checked" in str(error)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the measured fixtures are not beside this checkout")
@pytest.mark.parametrize(("name", "every"), [("hiaml", 1), ("nb101", 1), ("ofa_mbv3", 3), ("ofa_resnet", 3)])
def test_given_fixtures(name: str, every: int) -> None:
    """All rows of the small families, every third of the ImageNet ones; ``gennape conform`` checks every row."""
    rows = read_rows(FIXTURES / f"{name}.jsonl")
    failures = {row.identity: problems for row in rows[::every] if (problems := check_row(family(name), row))}
    assert len(rows) > 20
    assert failures == {}
