"""``gennape convert``: what it prints, and what it says of wrong commands and interruptions."""

from __future__ import annotations

import pytest
import typer
from conversion_cases import write_in_process, write_labels
from typer.testing import CliRunner

from gennape.errors import ConfigError, InvalidDataError
from gennape.jobs.convert import convert as convert_verb
from gennape.platform.conversion import convert as conversion
from gennape.search_spaces.graphs.parquet import read_graphs

app = typer.Typer()
app.command("convert")(convert_verb)
app.command("other")(lambda: None)


@pytest.fixture
def in_process(monkeypatch):
    return write_in_process(monkeypatch)


def call(*arguments):
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.usefixtures("in_process")
def test_the_verb(tmp_path):
    command = ["--space", "hiaml", "--sample", 30, "--shard-size", 20, "--spectrum", 3, "--to", tmp_path / "out"]
    assert "30 graphs in 2 files:" in call(*command).output
    assert "30 graphs in 2 files, 2 of them before" in call(*command).output
    assert read_graphs(tmp_path / "out")[1]["spectrum"].type.list_size == 3
    write_labels(tmp_path / "labels.csv", 4)
    labelled = call("--space", "hiaml", "--labels", tmp_path / "labels.csv", "--to", tmp_path / "labelled")
    assert "4 graphs in 1 files" in labelled.output
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.onnx").write_bytes(b"rubbish")
    assert "1 rejected (1 INVALID)" in call("--onnx", tmp_path / "in", "--to", tmp_path / "onnx").output


@pytest.mark.parametrize("seconds", ["inf", "1e12", "nan"])
def test_a_timeout_that_no_clock_holds_is_refused(tmp_path, seconds):
    found = CliRunner().invoke(app, ["convert", "--onnx", "x", "--timeout", seconds, "--to", str(tmp_path / "out")])
    assert found.exit_code == 2
    assert "Invalid value for '--timeout'" in found.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one of --sample N, --labels FILE, --onnx FOLDER; got"),
        (["--sample", "5", "--onnx", "x"], "Give one of"),
        (["--sample", "5"], "Give --space"),
        (["--space", "nb102", "--sample", "5"], "unknown search space 'nb102'"),
        (["--onnx", "x", "--space", "nb101"], "leave out --space"),
        (["--onnx", "missing"], "missing does not exist"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_wrong_commands_start_nothing(tmp_path, arguments, message):
    with pytest.raises((ConfigError, InvalidDataError), match=message):
        call(*arguments, "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_process")
def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(conversion, "write_jobs", interrupted)
    result = call("--space", "hiaml", "--sample", 5, "--to", tmp_path / "out")
    assert result.exit_code == 130
    assert "repeat the command" in result.output
