"""What the page is told of runs; and that nothing outside of the workspace is read."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from stored_runs import stored_run
from typer.testing import CliRunner

from gennape.errors import WorkspaceError
from gennape.jobs.cli import app
from gennape.platform.ui.catalogue import Catalogue
from gennape.platform.workspace.run_lock import lock_run


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    stored_run(folder, "one", evaluations=150)
    stored_run(folder, "cut", generations=2)
    return folder


def test_runs_say_how_they_stand(workspace: Path) -> None:
    with lock_run(workspace / "runs" / "cut"):
        found = {run["name"]: run for run in Catalogue(workspace).runs()}
    assert set(found) == {"one", "cut"}
    assert found["one"]["status"] == "finished"
    assert (found["one"]["evaluations"], found["one"]["target"]) == (150, 150)
    assert found["cut"]["status"] == "running"
    assert 0 < found["cut"]["evaluations"] < found["cut"]["target"]
    assert found["cut"]["objectives"] == "accuracy:max,flops:min"


def test_files_that_did_not_change_are_not_read_again(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(workspace)
    before = catalogue.runs()
    monkeypatch.setattr("gennape.platform.ui.catalogue.count_rows", lambda _: pytest.fail("counted again"))
    monkeypatch.setattr("gennape.platform.ui.catalogue.config_of", lambda _: pytest.fail("read again"))
    assert catalogue.runs() == before
    monkeypatch.undo()
    shutil.copy(workspace / "runs" / "one" / "evaluations" / "000002.parquet", workspace / "runs/cut/evaluations")
    after = {run["name"]: run["evaluations"] for run in catalogue.runs()}
    assert after["cut"] > {run["name"]: run["evaluations"] for run in before}["cut"]


def test_a_run_that_cannot_be_read_hides_no_other(workspace: Path) -> None:
    (workspace / "runs" / "cut" / "config.json").write_text("{")
    (workspace / "runs" / "empty").mkdir()
    found = {run["name"]: run for run in Catalogue(workspace).runs()}
    assert "config.json" in found["cut"]["problem"]
    assert "config.json" in found["empty"]["problem"]
    assert "problem" not in found["one"]
    with pytest.raises(WorkspaceError, match=r"config\.json"):
        Catalogue(workspace).front("cut")


def test_the_front_is_that_of_the_report_with_texts_for_people(workspace: Path) -> None:
    found = Catalogue(workspace).front("one")
    report = pd.read_csv(workspace / "runs" / "one" / "report" / "front.csv").set_index("hash")
    alive = {one["key"]: one for one in found["networks"] if one["until"] is None}
    assert set(alive) == set(report.index)
    for key, one in alive.items():
        assert one["values"]["flops"] == report["flops"][key]
        assert one["texts"]["accuracy"] == f"{report['accuracy'][key]:.2f} %"
        assert one["texts"]["flops"].endswith(" FLOPs")
    assert found["title"] == f"Pareto front of hiaml: {len(report)} of 150 evaluated networks"
    assert "run one" in found["subtitle"]
    assert "checkpoint" in found["subtitle"]
    assert "NAS-Bench-101" in found["subtitle"]
    assert Catalogue(workspace).front("one", found["version"]) == {"version": found["version"], "unchanged": True}


def test_the_command_of_a_network_writes_it(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    catalogue = Catalogue(workspace)
    networks = catalogue.front("one")["networks"]
    left = next(one for one in networks if one["until"] is not None)
    stays = next(one for one in networks if one["until"] is None)
    for number, one in enumerate((left, stays)):
        found = catalogue.network("one", one["key"])
        words = shlex.split(found["export"])
        assert words[0] == "gennape"
        assert str(workspace) in words
        done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
        assert done.exit_code == 0
        assert json.dumps(json.loads(found["architecture"])) in done.stdout
        (tmp_path / "model.onnx").rename(tmp_path / f"{number}.onnx")
    assert found["index"] is not None


def test_the_drawing_is_a_picture_that_runs_nothing(workspace: Path) -> None:
    catalogue = Catalogue(workspace)
    key = catalogue.front("one")["networks"][0]["key"]
    root = ET.fromstring(catalogue.drawing("one", key))  # noqa: S314  # our own
    assert root.tag.endswith("svg")
    assert not [part for part in root.iter() if part.tag.endswith(("script", "foreignObject", "a", "image"))]


@pytest.mark.parametrize("name", ["..", "../one", "/etc", "", ".", "on", "latest", "one/evaluations", "x" * 5000])
def test_only_names_of_runs_are_runs(workspace: Path, name: str) -> None:
    with pytest.raises(WorkspaceError, match="no run"):
        Catalogue(workspace).front(name)


@pytest.mark.parametrize("link", ["", "config.json", "status.json", "evaluations", "evaluations/000001.parquet"])
def test_a_link_that_leads_out_is_not_followed(workspace: Path, tmp_path: Path, link: str) -> None:
    outside = stored_run(tmp_path / "elsewhere", "foreign")
    inside = workspace / "runs" / "one"
    if link:
        target = inside / link
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        target.symlink_to(outside / link)
    else:
        shutil.rmtree(inside)
        inside.symlink_to(outside)
    with pytest.raises(WorkspaceError, match="leads out of the workspace"):
        Catalogue(workspace).front("one")


def test_a_workspace_behind_a_link_is_shown(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(workspace)
    assert Catalogue(tmp_path / "link").front("one")["networks"]


def test_a_workspace_without_runs_is_empty(tmp_path: Path) -> None:
    assert Catalogue(tmp_path).runs() == []


def test_nothing_is_written(workspace: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        paths = [Path(root, name) for root, _, names in os.walk(workspace) for name in names]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}

    before, catalogue = state(), Catalogue(workspace)
    catalogue.runs()
    catalogue.network("one", catalogue.front("one")["networks"][0]["key"])
    assert state() == before
