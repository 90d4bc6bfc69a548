"""What a file holds is shown on a terminal, and never obeyed by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest
import typer
from onnx import helper
from typer.testing import CliRunner

from gennape.jobs import cli
from gennape.jobs.predict import predict
from gennape.jobs.shared.visible_text import visible

if TYPE_CHECKING:
    from pathlib import Path

CLEAR = "\x1b[2J"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """An ONNX file whose operator clears the screen."""
    entry, result = (helper.make_tensor_value_info(name, 1, [1, 3, 8, 8]) for name in "xy")
    graph = helper.make_graph([helper.make_node(f"Bogus{CLEAR}", ["x"], ["y"])], "g", [entry], [result])
    path = tmp_path / "hostile.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_text_is_kept_and_what_is_not_printable_is_escaped() -> None:
    assert visible(f"a{CLEAR}\u009b1m\u202eb\r") == r"a\x1b[2J\x9b1m\u202eb" + r"\r"
    for kept in ("plain", "two\n\tlines", "é 漢 \\x1b '"):
        assert visible(kept) == kept


def test_errors_of_files_do_not_reach_the_terminal_raw(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(predict)
    printed = CliRunner().invoke(app, [str(hostile)]).output
    monkeypatch.setattr("sys.argv", ["gennape", "show", str(hostile)])
    monkeypatch.setattr(cli, "leave", lambda _: None)
    monkeypatch.setattr(cli, "end_on_signals", lambda: None)
    cli.main()
    for text in (printed, capsys.readouterr().err):
        assert r"Bogus\x1b[2J" in text
        assert CLEAR not in text
