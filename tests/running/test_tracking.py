"""Runs in MLflow, against a real store."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import ray

import gennape
from gennape.errors import WorkspaceError
from gennape.platform.cluster import local_ray
from gennape.platform.tracking import open_store, provenance, store_uri, track

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlflow.entities import Run

# MLflow's own, of its tables.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with local_ray(None, num_cpus=2):
        yield tmp_path_factory.mktemp("a workspace #1")


def _run(workspace: Path, run_id: str) -> Run:
    return open_store(workspace)[0].get_run(run_id)


@pytest.mark.cluster
def test_a_run_holds_what_was_logged(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "front.csv").write_text("index\n")
    with track(workspace, "first", {"space": "hiaml", "seed": "3"}) as tracker:
        for step in range(1500):  # more than MLflow takes in one call
            tracker.metrics(step, {"hypervolume": step / 2, "best": float("nan")})
        tracker.artifacts(tmp_path)
    client, experiment = open_store(workspace)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.info.experiment_id == experiment
    assert run.data.params == {"space": "hiaml", "seed": "3"}
    assert run.data.tags["gennape.version"] == gennape.__version__
    history = client.get_metric_history(tracker.run_id, "hypervolume")
    assert sorted((value.step, value.value) for value in history) == [(step, step / 2) for step in range(1500)]
    stored = list((workspace / "artifacts").rglob("front.csv"))
    assert [path.read_text() for path in stored] == ["index\n"]


@pytest.mark.cluster
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "KILLED"), (ValueError("x"), "FAILED")])
def test_status_tells_how_it_ended(workspace: Path, error: BaseException, status: str) -> None:
    def search() -> None:
        with track(workspace, "ended", {}) as tracker:
            tracker.metrics(0, {"hypervolume": 1.0})
            raise error

    with pytest.raises(type(error)):
        search()
    run = _run(workspace, _latest(workspace))
    assert run.info.status == status
    assert run.data.metrics == {"hypervolume": 1.0}


def _latest(workspace: Path) -> str:
    client, experiment = open_store(workspace)
    run_id: str = client.search_runs([experiment])[0].info.run_id
    return run_id


@pytest.mark.cluster
def test_a_run_is_continued(workspace: Path) -> None:
    with track(workspace, "cut off", {"seed": "3", "evaluations": "10"}) as tracker:
        tracker.metrics(0, {"hypervolume": 1.0})
    run_id = tracker.run_id
    with track(workspace, "cut off", {"seed": "3", "evaluations": "20", "new": "1"}, run_id) as tracker:
        assert tracker.run_id == run_id
        assert _run(workspace, run_id).info.status == "RUNNING"
        tracker.metrics(1, {"hypervolume": 2.0})
    run = _run(workspace, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "evaluations": "10", "new": "1"}
    assert run.data.tags["resumed.evaluations"] == "20"
    assert run.data.metrics == {"hypervolume": 2.0}


@pytest.mark.cluster
def test_an_unknown_run_is_named(workspace: Path) -> None:
    with track(workspace, "x", {}, "f" * 32) as tracker, pytest.raises(WorkspaceError, match="f" * 32):
        tracker.run_id  # noqa: B018


@pytest.mark.cluster
def test_logging_does_not_hold_up_the_search(workspace: Path) -> None:
    with track(workspace, "fast", {}) as tracker:
        began = time.monotonic()  # the store is not even open yet
        for step in range(1000):
            tracker.metrics(step, {"hypervolume": 1.0})
        assert time.monotonic() - began < 1


@pytest.mark.cluster
def test_a_lost_tracker_costs_no_search_and_no_value(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = workspace / "runs" / "unlucky"
    folder.mkdir(parents=True)
    with caplog.at_level(logging.WARNING), track(workspace, "unlucky", {}) as tracker:
        tracker.run_id  # noqa: B018
        ray.kill(tracker._actor)
        for step in range(3):
            tracker.metrics(step, {"hypervolume": float(step)})
        tracker.artifacts(folder)
    kept = [json.loads(line) for line in (folder / "unlogged_metrics.jsonl").read_text().splitlines()]
    assert [(row["name"], row["step"], row["value"]) for row in kept] == [
        ("hypervolume", s, float(s)) for s in range(3)
    ]
    (record,) = [record for record in caplog.records if record.name == "gennape.platform.tracking"]
    assert "3 values" in record.getMessage()
    assert "unlogged_metrics.jsonl" in record.getMessage()


@pytest.mark.cluster
def test_an_unreadable_store_is_reported(
    workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: Any
) -> None:
    assert workspace.is_dir()  # Ray runs
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING), track(tmp_path, "x", {}) as tracker:
        tracker.metrics(0, {"hypervolume": 1.0})
        with pytest.raises(WorkspaceError, match=r"mlflow\.db"):
            tracker.run_id  # noqa: B018
    assert (tmp_path / "unlogged_metrics.jsonl").exists()
    assert "1 values" in caplog.text
    assert not recwarn.list


def test_a_path_that_mlflow_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="%"):
        store_uri(tmp_path / "100%")


def test_provenance_names_version_and_commit() -> None:
    tags = provenance()
    assert tags["gennape.version"] == gennape.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", tags.get("mlflow.source.git.commit", "0" * 40))
