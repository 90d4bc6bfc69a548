"""``gennape best``: the most accurate network within limits."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import onnx
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_runs import stored_run
from typer.testing import CliRunner

from gennape.errors import ConfigError, GennapeError
from gennape.jobs.cli import app
from gennape.platform.search.choice import best_point
from gennape.platform.search.limits import parse_limits
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.graphs.graph import pack


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    stored_run(folder, "whole")
    stored_run(folder, "cut", generations=2)
    return folder


def best(workspace: Path, *arguments: str, run: str = "whole") -> Any:
    words = ["best", "--run", run, "--workspace", str(workspace), *arguments]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def front(workspace: Path, run: str = "whole") -> pd.DataFrame:
    return pd.read_csv(workspace / "runs" / run / "report" / "front.csv")


def test_it_is_the_most_accurate_one_within_the_limits(workspace: Path) -> None:
    table = front(workspace)
    bound = table["flops"].median()
    expected = table[table["flops"] <= bound].sort_values("accuracy").iloc[-1]
    found = json.loads(best(workspace, "--constraint", f"flops<={bound}", "--json").stdout)
    assert found["run"] == "whole"
    assert found["space"] == "hiaml"
    assert found["constraints"] == [f"flops<={bound:.0f}"]
    assert found["best"]["index"] == expected["index"]
    assert found["best"]["architecture"] == json.loads(expected["architecture"])
    assert found["exported"] is None
    space = family("hiaml")
    graph = space.graph(space.decode(found["best"]["architecture"]))
    assert flops(pack([graph]))[0] == found["best"]["flops"] <= bound


def test_without_limits_it_is_the_most_accurate_one(workspace: Path) -> None:
    table = front(workspace)
    shown = best(workspace).stdout
    assert shown.startswith(f"index {table['accuracy'].argmax()} of the front of whole\n")
    assert f"{table['accuracy'].max():.2f} %" in shown
    assert table["architecture"][table["accuracy"].argmax()] in shown


def test_it_is_written_as_export_writes_it(workspace: Path, tmp_path: Path) -> None:
    there, here = tmp_path / "there.onnx", tmp_path / "here.onnx"
    found = json.loads(best(workspace, "--export", str(here), "--seed", "3", "--json").stdout)
    assert found["exported"] == str(here)
    words = ["export", "--run", "whole", "--index", str(found["best"]["index"]), "--seed", "3"]
    words += ["--to", str(there), "--workspace", str(workspace)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    assert onnx.load(here) == onnx.load(there)


def test_the_next_command_works(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in best(workspace).stdout.splitlines() if line.startswith("take home ")]
    words = shlex.split(line.removeprefix("take home "))
    assert CliRunner().invoke(app, words[1:], catch_exceptions=False).exit_code == 0
    assert (tmp_path / "model.onnx").exists()


def test_a_run_that_was_cut_off_says_so(workspace: Path) -> None:
    done = best(workspace, "--json", run="cut")
    assert "cut was interrupted" in done.stderr
    assert json.loads(done.stdout)["run"] == "cut"


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            "flops<1",
            "cannot read the limit 'flops<1'; write a measure, <= or >=, and a number",
        ),
        ("flop<=1", "unknown measure 'flop' .*; known are accuracy, .*; did you mean flops"),
        ("flops<=many", "cannot read the limit 'flops<=many'"),
        ("flops<=nan", "cannot read the limit 'flops<=nan'"),
        ("flops<=1", "no network of the front has flops<=1; the front has flops from .* Widen"),
        ("index<=1", "unknown measure 'index'"),
    ],
)
def test_a_limit_that_cannot_be_met_or_read_is_told_and_nothing_is_written(
    workspace: Path, tmp_path: Path, constraint: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        best(workspace, "--constraint", constraint, "--export", str(tmp_path / "n.py"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(GennapeError, match=r"cannot export to 'n\.txt'"):
        best(tmp_path, "--export", "n.txt")


POINTS = st.lists(
    st.fixed_dictionaries({"accuracy": st.floats(0, 100), "flops": st.integers(0, 9), "params": st.integers(0, 9)}),
    min_size=1,
)


@given(POINTS, st.integers(0, 9), st.integers(0, 9))
def test_no_point_within_the_limits_is_more_accurate(points: list[dict[str, float]], most: int, least: int) -> None:
    limits = parse_limits([f"flops<={most}", f" params >= {least}"], tuple(points[0]))
    within = [point["accuracy"] for point in points if point["flops"] <= most and point["params"] >= least]
    if not within:
        with pytest.raises(ConfigError, match="no network"):
            best_point(points, limits)
        return
    found = best_point(points, limits)
    assert found["accuracy"] == max(within)
    assert found["flops"] <= most
    assert found["params"] >= least
