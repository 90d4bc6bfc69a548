"""The files that a search leaves behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from gennape.errors import WorkspaceError
from gennape.platform.objectives import Objective, parse_objectives
from gennape.platform.report import write_report

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["front.csv", "front.json", "front.html", "front.png", "evaluations.parquet"]
TWO = parse_objectives("accuracy:max,flops:min")
# Three networks; the second dominates the third.
ROWS = pd.DataFrame(
    {
        "hash": ["aa", "bb", "cc"],
        "accuracy": [71.25, 70.1, 70.0],
        "flops": [3e8, 1e8, 2e8],
        "params": [4e6, 2e6, 3e6],
        "architecture": [json.dumps({"depth": d, "note": "<b>&"}) for d in (3, 1, 2)],
    }
)


def _front(rows: pd.DataFrame) -> pd.DataFrame:
    front = rows.head(2).reset_index(drop=True)
    front.insert(0, "index", np.arange(len(front)))
    return front


def _write(folder: Path, rows: pd.DataFrame = ROWS, objectives: tuple[Objective, ...] = TWO) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    paths = write_report(folder, _front(rows), rows, objectives)
    assert [path.name for path in paths] == NAMES
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    return {path.name: path.read_bytes() for path in paths}


def test_tables_read_back_as_given(tmp_path: Path) -> None:
    _write(tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "front.csv"), _front(ROWS))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "evaluations.parquet"), ROWS)
    document = json.loads((tmp_path / "front.json").read_text())
    assert document["objectives"] == [
        {"name": "accuracy", "direction": "max", "unit": "percent"},
        {"name": "flops", "direction": "min", "unit": "operations"},
    ]
    assert document["points"][1] == {
        "index": 1,
        "hash": "bb",
        "accuracy": 70.1,
        "flops": 1e8,
        "params": 2e6,
        "architecture": {"depth": 1, "note": "<b>&"},
    }


def test_the_same_search_gives_the_same_bytes(tmp_path: Path) -> None:
    assert _write(tmp_path / "a") == _write(tmp_path / "b")


def test_the_page_needs_no_network_and_shows_architectures(tmp_path: Path) -> None:
    page = _write(tmp_path)["front.html"].decode()
    assert "<script src" not in page
    drawn = page[page.index("Plotly.newPlot") :]
    assert "&lt;b&gt;&amp;" in drawn.replace("\\u0026", "&")  # markup in an architecture stays text
    assert "Pareto front: 2 of 3 evaluated networks" in page


def test_the_picture_is_not_blank(tmp_path: Path) -> None:
    _write(tmp_path)
    pixels = imread(tmp_path / "front.png")
    assert pixels.shape[:2] == (800, 1280)
    blue = np.abs(pixels[..., :3] - np.array([0x0B, 0x6E, 0x99]) / 255).max(-1) < 0.05
    assert blue.sum() > 500  # the front's line and markers


@pytest.mark.parametrize(
    "objectives", ["accuracy:max", "flops:min", "params:min,accuracy:max", "accuracy:max,flops:min,params:min"]
)
def test_any_objectives_are_drawn(tmp_path: Path, objectives: str) -> None:
    _write(tmp_path, objectives=parse_objectives(objectives))


def _rows(**columns: Any) -> pd.DataFrame:
    return ROWS.assign(**columns)


@pytest.mark.parametrize(
    "rows",
    [
        ROWS.head(0),
        ROWS.head(1),
        _rows(accuracy=[71.0, np.nan, np.inf]),
        _rows(flops=[1e7, 1e9, 5e11]),
        _rows(flops=[0.0, 1e9, 1e10]),
    ],
    ids=["nothing", "one point", "not finite", "decades", "zero"],
)
def test_odd_values_are_survived(tmp_path: Path, rows: pd.DataFrame) -> None:
    document = json.loads(_write(tmp_path, rows)["front.json"])
    assert len(document["points"]) == min(len(rows), 2)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(WorkspaceError, match="absent"):
        write_report(absent, _front(ROWS), ROWS, TWO)
