"""Every command that a message names exists, takes its options, and works when it is pasted into a shell."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import typer

from gennape.jobs.cli import app
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import SearchResult
from gennape.platform.workspace.hints import command, workspace_option

label, search, tune = (importlib.import_module(f"gennape.jobs.{name}") for name in ("label", "search", "tune"))
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("jobs", "platform", "predictors", "search_spaces")
CLI: Any = typer.main.get_command(app)
#: A text that names a verb, up to where the command ends.
NAMED = re.compile(r"gennape ([a-z]+)((?: (?:--?[\w-]+|[\w./…{}~-]+))*)")


def parse(line: str) -> dict[str, Any]:
    """What the command line makes of a command; fails where it refuses it."""
    program, verb, *rest = shlex.split(line)
    assert program == "gennape"
    parameters: dict[str, Any] = CLI.commands[verb].make_context(verb, rest).params
    return parameters


def commands_in(text: str) -> list[str]:
    return [line[line.index("gennape ") :] for line in text.splitlines() if "gennape " in line]


def texts_of(path: Path) -> list[str]:
    """Every text of a module, what is put into it being left out; without the documentation of modules."""
    tree = ast.parse(path.read_text())
    joined = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    whole = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in joined]
    parts = [
        "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
    ]
    return [text for text in (*whole, *parts) if isinstance(text, str)]


def test_verbs_and_options_in_messages_exist() -> None:
    found = 0
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for text in texts_of(path):
            for verb, rest in NAMED.findall(text):
                if verb not in CLI.commands:  # prose: "gennape reads", or a model's name
                    assert not re.search(rf"`gennape {verb}", text), f"{path}: no verb {verb!r}"
                    continue
                known = {name for parameter in CLI.commands[verb].params for name in parameter.opts} | {"--help"}
                options = {word for word in rest.split() if word.startswith("--")}
                if verb != "submit":  # which takes those of another
                    assert options <= known, f"{path}: {text!r}"
                found += 1
    assert found > 20


def test_commands_are_quoted() -> None:
    line = command("search", space="nb101", checkpoint=Path("my $tuned [1]"), workspace=None, resume=False)
    assert line == "gennape search --space nb101 --checkpoint 'my $tuned [1]'"
    assert command("evaluate", data="d", no_members=True) == "gennape evaluate --data d --no-members"
    assert command("show", "a b.onnx") == "gennape show 'a b.onnx'"


def test_the_usual_workspace_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    assert workspace_option(tmp_path / "gennape-workspace") is None
    assert workspace_option(tmp_path / "other") == tmp_path / "other"
    monkeypatch.setenv("GENNAPE_WORKSPACE", str(tmp_path / "other"))
    assert workspace_option(tmp_path / "other") is None


def test_the_last_words_of_a_search_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my runs [1]" / "runs" / "hiaml-20260101-120000-s0"
    front = pd.DataFrame(
        {"index": [0], "hash": ["a"], "accuracy": [90.0], "flops": [2e9], "params": [3e6], "architecture": ["{}"]}
    )
    config = search_config(space="hiaml")
    search._summary(folder, config, SearchResult(front, 1.0, "done", folder), "http://127.0.0.1:5000")
    named = [parse(line) for line in commands_in(capsys.readouterr().out)]
    assert [part["workspace"] for part in named] == [folder.parents[1]] * 2
    assert named[0]["tracking_uri"] == "http://127.0.0.1:5000"
    assert (named[1]["run"], named[1]["index"]) == (folder.name, 0)


def test_what_other_verbs_propose_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my labels" / "l.csv"
    label._summary(out, "hiaml", SimpleNamespace(notes=[], before=0, labels=2, failed=0, others=0))
    (proposed,) = [parse(line) for line in commands_in(capsys.readouterr().out)]
    assert (proposed["space"], proposed["labels"]) == ("hiaml", out)
    settings = SimpleNamespace(options=lambda: {"fit": {"epochs": 3}})
    found = SimpleNamespace(settings=settings, before=0, results=1, trial=0, result={"srcc": 0.5}, failed=[])
    tune._summary(tmp_path / "a b.json", "nb101", out, found)
    first, second = [parse(line) for line in commands_in(capsys.readouterr().out)]
    assert first["data"] == [out]
    assert first["settings"] == second["settings"] == tmp_path / "a b.json"
    assert second["encoder"] == first["out"]
