"""The files that a search leaves behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from gennape.errors import WorkspaceError
from gennape.platform.search.config import search_config
from gennape.platform.search.front_page import About, about_run
from gennape.platform.search.objectives import Objective, parse_objectives
from gennape.platform.search.report import write_report

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


def _figure(folder: Path, objectives: str, about: About | None = None) -> dict[str, Any]:
    """What the page gives to Plotly: its traces and its layout."""
    rows = ROWS.assign(macs=ROWS["flops"] / 2, deviation=[0.25, np.nan, np.nan])
    write_report(folder, _front(rows), rows, parse_objectives(objectives), about)
    page = (folder / "front.html").read_text()
    text = page[page.index("Plotly.newPlot") :]
    decoder = json.JSONDecoder()
    traces, end = decoder.raw_decode(text[text.index("[") :])
    rest = text[text.index("[") + end :]
    return {"page": page, "traces": traces, "layout": decoder.raw_decode(rest[rest.index("{") :])[0]}


def test_what_a_pointer_shows_is_written_for_people(tmp_path: Path) -> None:
    first, second = _figure(tmp_path, "accuracy:max,flops:min")["traces"][1]["text"]  # along x: bb, then aa
    assert "100 MFLOPs<br>2 M parameters" in first
    assert "70.10 %<br>" in first  # its deviation is unknown
    assert "71.25 % ± 0.25 %<br>300 MFLOPs<br>4 M parameters" in second
    assert '{"depth": 3, "note": "&lt;b&gt;&amp;"}' in second  # quotation marks as they are, which Plotly shows so
    assert "operations" not in first + second


@pytest.mark.parametrize(("third", "values"), [("params:min", [2e6, 4e6]), ("macs:min", [5e7, 1.5e8])])
def test_a_third_objective_is_the_colour_and_no_line_joins_what_is_no_neighbour(
    tmp_path: Path, third: str, values: list[float]
) -> None:
    two = _figure(tmp_path, "accuracy:max,flops:min")["traces"][1]
    three = _figure(tmp_path, f"accuracy:max,flops:min,{third}")["traces"][1]
    assert "lines" in two["mode"]
    assert three["mode"] == "markers"
    assert three["marker"]["color"] == values
    assert three["marker"]["colorbar"]["ticktext"][0] == {"params:min": "2 M", "macs:min": "50 M"}[third]
    assert "lower is better" in three["marker"]["colorbar"]["title"]["text"]
    four = _figure(tmp_path, "accuracy:max,flops:min,params:min,macs:min")["traces"][1]
    assert four["marker"]["size"] == [7, 17]


def test_the_title_says_what_the_front_is_of(tmp_path: Path) -> None:
    about = About(
        "ofa_mbv3",
        "ofa_mbv3-20260101-120000-s0",
        "0123456789ab (shipped)",
        "NAS-Bench-101 (CIFAR-10), as relative scores",
    )
    found = _figure(tmp_path, "accuracy:max,flops:min", about)
    title = found["layout"]["title"]
    assert title["text"] == "Pareto front of ofa_mbv3: 2 of 3 evaluated networks"
    assert all(part in title["subtitle"]["text"] for part in (about.run, about.checkpoint, about.scale))
    assert "<title>ofa_mbv3-20260101-120000-s0 - gennape</title>" in found["page"]


def test_what_a_run_is_of_comes_from_its_settings(tmp_path: Path) -> None:
    config = search_config(space="hiaml", checkpoint_sha256="ab" * 32)
    about = about_run(tmp_path / "hiaml-s0", config)
    assert about == About("hiaml", "hiaml-s0", "abababababab (shipped)", "NAS-Bench-101 (CIFAR-10), as relative scores")
    moved = search_config(space="hiaml", checkpoint=str(tmp_path / "gone"), checkpoint_sha256="ab" * 32)
    assert about_run(tmp_path, moved).scale == ""


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
