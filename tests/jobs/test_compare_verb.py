"""``gennape compare``: fronts of several runs, from one reference point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_runs import stored_run
from typer.testing import CliRunner

from gennape.errors import ConfigError
from gennape.jobs.cli import app
from gennape.platform.search import comparison
from gennape.platform.search.comparison import compare_runs
from gennape.platform.search.config import search_config


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    stored_run(folder, "one")
    stored_run(folder, "two", seed=1, searcher="random")
    stored_run(folder, "same")
    stored_run(folder, "three-1", objectives="accuracy:max,flops:min,params:min")
    stored_run(folder, "three-2", objectives="accuracy:max,flops:min,params:min", seed=1)
    stored_run(folder, "inception", space="inception", evaluations=20)
    return folder


def compare(workspace: Path, *arguments: str) -> Any:
    words = ["compare", *arguments, "--workspace", str(workspace)]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def dominated(point: pd.Series, others: pd.DataFrame) -> bool:
    better = (others["accuracy"] >= point["accuracy"]) & (others["flops"] <= point["flops"])
    strictly = (others["accuracy"] > point["accuracy"]) | (others["flops"] < point["flops"])
    return bool((better & strictly).any())


def area(front: pd.DataFrame, reference: dict[str, float]) -> float:
    """The area between a front and the reference point, as the sum of the rectangles below its steps."""
    rows = front.sort_values("flops")
    ends = [*rows["flops"].tolist()[1:], reference["flops"]]
    best = np.maximum.accumulate(rows["accuracy"].to_numpy())
    return float(
        sum((end - start) * (top - reference["accuracy"]) for start, end, top in zip(rows["flops"], ends, best))  # noqa: B905
    )


def test_volumes_and_survivors_are_those_that_the_tables_give(workspace: Path) -> None:
    found = json.loads(compare(workspace, "one", "two", "--json").stdout)
    tables = [pd.read_csv(workspace / "runs" / name / "report" / "front.csv") for name in ("one", "two")]
    both = pd.concat(tables)
    for name, best, worst in (("accuracy", "max", "min"), ("flops", "min", "max")):
        span = both[name].agg(worst) - both[name].agg(best)
        assert found["reference"][name] == pytest.approx(both[name].agg(worst) + 0.1 * span)
    for run, table in zip(found["runs"], tables, strict=True):
        alive = [int(row["index"]) for _, row in table.iterrows() if not dominated(row, both)]
        assert run["survivors"] == alive
        assert run["networks"] == len(table)
        assert run["share"] == pytest.approx(len(alive) / len(table))
        assert run["hypervolume"] == pytest.approx(area(table, found["reference"]))


def test_equal_fronts_survive_in_each_other(workspace: Path) -> None:
    found = json.loads(compare(workspace, "one", "same", "--json").stdout)
    assert [run["share"] for run in found["runs"]] == [1.0, 1.0]
    assert found["runs"][0]["hypervolume"] == found["runs"][1]["hypervolume"]


@pytest.mark.parametrize("names", [["one", "two"], ["three-1", "three-2"]])
def test_page_and_picture_are_written(workspace: Path, tmp_path: Path, names: list[str]) -> None:
    shown = compare(workspace, *names, "--to", str(tmp_path / "new" / "folder"))
    assert shown.exit_code == 0
    for name in ("compare.html", "compare.png"):
        assert str(tmp_path / "new" / "folder" / name) in shown.stdout
    page = (tmp_path / "new" / "folder" / "compare.html").read_text()
    assert "<title>2 fronts of hiaml - gennape</title>" in page
    assert "https://" not in page.partition("<body>")[2].rpartition("Plotly.newPlot")[2]
    assert (tmp_path / "new" / "folder" / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], "two or more different runs, got one"),
        (["one", "one"], "two or more different runs, got one, one"),
        (["one", "three-1"], "within one objectives: that of one is accuracy:max,flops:min, that of three-1 is"),
        (["one", "inception"], "within one search space: that of one is hiaml, that of inception is inception"),
    ],
)
def test_runs_that_differ_in_what_matters_are_refused(workspace: Path, names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(workspace, *names)


def test_runs_on_different_scales_are_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = iter(["NAS-Bench-101", "the labels of hiaml"])
    monkeypatch.setattr(comparison, "scale_name", lambda _: next(scales))
    with pytest.raises(ConfigError, match="one scale of accuracies: that of one is NAS-Bench-101, that of two is the"):
        compare(workspace, "one", "two")


FRONTS = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=6),
    min_size=2, max_size=3,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(FRONTS)
def test_what_survives_is_what_no_point_of_any_front_dominates(fronts: list[list[tuple[int, int, int]]]) -> None:
    config = search_config(space="hiaml", objectives="accuracy:max,flops:min,params:min")
    folders = [Path(f"run-{number}") for number in range(len(fronts))]
    tables = [
        [{"index": i, "accuracy": float(a), "flops": f, "params": p} for i, (a, f, p) in enumerate(front)]
        for front in fronts
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "config_of", lambda _: config)
        patch.setattr(comparison, "read_front", lambda folder: tables[folders.index(folder)])
        found = compare_runs(folders)
    every = [point for front in fronts for point in front]
    for run, front in zip(found.runs, fronts, strict=True):
        expected = [
            not any((a >= mine[0] and f <= mine[1] and p <= mine[2]) and (a, f, p) != mine for a, f, p in every)
            for mine in front
        ]
        assert run.survives.tolist() == expected
        assert run.share == pytest.approx(sum(expected) / len(front))
        assert run.hypervolume > 0
