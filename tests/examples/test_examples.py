"""The programs of ``examples/`` run as they are, on their small budgets."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import onnx
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a program in an empty folder; gives what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)

    def run_program(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_program


@pytest.mark.cluster
def test_first_search(run, tmp_path: Path) -> None:
    shown = run("first_search.py", "--evaluations", "60", "--population", "10")
    assert "written to best.onnx" in shown
    onnx.checker.check_model(tmp_path / "best.onnx")
    (folder,) = (tmp_path / "gennape-workspace" / "runs").iterdir()
    assert (folder / "report" / "front.csv").is_file()


def test_predict_my_network(run) -> None:
    small = run("predict_my_network.py", "--width", "8", "--depth", "3", "--others", "10")
    large = run("predict_my_network.py", "--others", "10")
    accuracies = [float(re.search(r": ([\d.]+) %,", shown)[1]) for shown in (small, large)]
    assert accuracies[0] < accuracies[1]


def test_onnx_model(run, tmp_path: Path) -> None:
    assert "the same graph: True" in run("onnx_model.py")
    assert (tmp_path / "network.svg").read_text().startswith("<svg")
    assert "the same graph: True" in run(
        "onnx_model.py", "again.onnx", "--shape", "3", "32", "32", "--to", "third.onnx"
    )


def test_few_labels(run) -> None:
    zero_shot, tuned = map(float, re.findall(r": (0\.\d+)\n", run("few_labels.py"))[:2])
    assert tuned > zero_shot


@pytest.mark.cluster
def test_own_family(run, own_folder: Path) -> None:
    shown = run("own_family.py", "--evaluations", "40")
    assert shown.startswith("SearchResult(")
    assert "kernel 0" in shown
    (folder,) = (own_folder / "gennape-workspace" / "runs").iterdir()
    assert folder.name.startswith("plain-")


def test_own_searcher(run) -> None:
    shown = run("own_searcher.py")
    assert "check_resume_equals_uninterrupted" in shown
    assert "best: " in shown


def test_every_program_is_short_listed_and_tested() -> None:
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == [path.name for path in PROGRAMS]
    tests = {node.name for node in ast.parse(Path(__file__).read_text()).body if isinstance(node, ast.FunctionDef)}
    for path in PROGRAMS:
        assert len(path.read_text().splitlines()) < 50, path
        assert f"test_{path.stem}" in tests
        assert f"python examples/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))
