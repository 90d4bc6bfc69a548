"""Runs in MLflow, against a real store."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import gennape
from gennape.errors import WorkspaceError
from gennape.platform.tracking.journal import Journal, JournalRecord, write_record
from gennape.platform.tracking.resend import resend_pending
from gennape.platform.tracking.store import open_store, provenance, store_uri
from gennape.platform.tracking.tracker import track

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow.entities import Run

# MLflow's own, of its tables.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gennape.platform.tracking.tracker.GRACE_S", 0.5)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a workspace #1")


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
        with track(workspace, f"ended {status}", {}) as tracker:
            tracker.metrics(0, {"hypervolume": 1.0})
            raise error

    with pytest.raises(type(error)):
        search()
    run = _called(workspace, f"ended {status}")
    assert run.info.status == status
    assert run.data.metrics == {"hypervolume": 1.0}


def _called(workspace: Path, name: str) -> Run:
    client, experiment = open_store(workspace)
    (run,) = client.search_runs([experiment], f"attributes.run_name = '{name}'")
    return run


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
def test_a_run_whose_folder_is_deleted_is_ended_in_mlflow_at_once(workspace: Path) -> None:
    folder, known = workspace / "runs" / "deleted", []
    folder.mkdir(parents=True)

    def deleted_in_mid_run() -> None:
        with track(workspace, "deleted", {}) as tracker:
            known.extend([tracker.run_id, time.monotonic()])
            shutil.rmtree(folder)
            raise WorkspaceError("gone")

    with pytest.raises(WorkspaceError, match="gone"):
        deleted_in_mid_run()
    run_id, began = known
    assert time.monotonic() - began < 5
    assert _run(workspace, run_id).info.status == "FAILED"
    assert not (workspace / "runs" / "deleted").exists()


@pytest.mark.cluster
def test_a_run_that_the_store_does_not_hold_any_more_is_begun_anew(workspace: Path) -> None:
    with track(workspace, "lost", {"seed": "3"}, "f" * 32) as tracker:
        run_id = tracker.run_id
    run = _called(workspace, "lost")
    assert run.info.run_id == run_id != "f" * 32
    assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "3"})


@pytest.mark.cluster
def test_tags_change_where_a_run_goes_on(workspace: Path) -> None:
    run_id = None
    for best in ("64", "96"):
        with track(workspace, "tagged", {}, run_id) as tracker:
            tracker.tags({"best.hidden": best})
        run_id = tracker.run_id
    assert _called(workspace, "tagged").data.tags["best.hidden"] == "96"


@pytest.mark.cluster
def test_logging_does_not_hold_up_the_search(workspace: Path) -> None:
    with track(workspace, "fast", {}) as tracker:
        began = time.monotonic()  # the store is not even open yet
        for step in range(1000):
            tracker.metrics(step, {"hypervolume": 1.0})
        assert time.monotonic() - began < 1


@pytest.mark.cluster
def test_a_lost_tracker_costs_no_search_and_no_value(workspace: Path) -> None:
    with track(workspace, "unlucky", {}) as tracker:
        run_id = tracker.run_id
        psutil.Process(tracker._sender.pid).kill()
        for step in range(3):
            tracker.metrics(step, {"hypervolume": float(step)})
    history = open_store(workspace)[0].get_metric_history(run_id, "hypervolume")
    assert [(value.step, value.value) for value in history] == [(step, float(step)) for step in range(3)]
    assert _run(workspace, run_id).info.status == "FINISHED"


@pytest.mark.cluster
def test_an_unreadable_store_is_reported_and_caught_up_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: Any
) -> None:
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING), track(tmp_path, "x", {"seed": "3"}) as tracker:
        tracker.metrics(0, {"hypervolume": 1.0, "best": 2.0})
        with pytest.raises(WorkspaceError, match=r"mlflow\.db"):
            tracker.run_id  # noqa: B018
    (record,) = [record for record in caplog.records if record.name == "gennape.platform.tracking.tracker"]
    assert "2 values" in record.getMessage()
    assert "gennape ui" in record.getMessage()
    (tmp_path / "mlflow.db").unlink()
    assert [(found.folder, found.values, found.problem) for found in resend_pending(tmp_path)] == [
        (folder / "tracking", 2, "")
    ]
    assert list(resend_pending(tmp_path)) == []
    run = _called(tmp_path, "x")
    assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "3"})
    assert run.data.metrics == {"hypervolume": 1.0, "best": 2.0}
    told = [str(warning.message) for warning in recwarn.list]
    assert [text for text in told if "noload" not in text] == []  # MLflow's own, of its tables, the first time


@pytest.mark.cluster
def test_islands_are_child_runs_of_their_search(workspace: Path) -> None:
    (workspace / "runs" / "archipelago").mkdir(parents=True)
    for generation in range(2):  # the second time it is continued
        with track(workspace, "archipelago", {}) as tracker:
            for name in ("island-0", "island-1"):
                tracker.metrics(generation, {"evaluations": float(name[-1])}, child=name)
            tracker.metrics(generation, {"evaluations": 1.0})
            parent = tracker.run_id
    client, experiment = open_store(workspace)
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert sorted(child.info.run_name for child in children) == ["island-0", "island-1"]
    for child in children:
        assert child.info.status == "FINISHED"
        history = client.get_metric_history(child.info.run_id, "evaluations")
        assert [(value.step, value.value) for value in history] == [(g, float(child.info.run_name[-1])) for g in (0, 1)]
    assert len(client.get_metric_history(parent, "evaluations")) == 2


@pytest.mark.cluster
def test_what_a_killed_run_left_is_sent_before_what_follows(workspace: Path) -> None:
    """The journal as a driver leaves it that is killed in the middle of a line."""
    folder = workspace / "tracking" / "killed"
    folder.mkdir(parents=True)
    write_record(folder, JournalRecord(None, "token"))
    journal = Journal(folder)
    journal.append({"start": "killed", "parameters": {"seed": "3"}, "tags": {}, "time": 1000})
    for step in range(3):
        journal.append({"metrics": {"loss": float(step)}, "step": step, "child": None, "time": 2000 + step})
    journal.close()
    with (folder / "journal-000001.jsonl").open("a") as file:
        file.write('{"metrics": {"lo')
    with track(workspace, "killed", {"seed": "3"}) as tracker:
        tracker.metrics(3, {"loss": 3.0})
    client, _ = open_store(workspace)
    run = _called(workspace, "killed")
    assert (run.info.run_name, run.info.start_time, run.info.status) == ("killed", 1000, "FINISHED")
    assert [value.step for value in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2, 3]
    assert not folder.exists()


@pytest.mark.cluster
def test_a_value_that_mlflow_refuses_takes_no_other_with_it(workspace: Path) -> None:
    with track(workspace, "refused", {}) as tracker:
        tracker.metrics(0, {"good": 1.0, "bad|name": 2.0})
        tracker.artifacts(workspace / "nowhere")
        tracker.metrics(1, {"good": 2.0})
    run = _called(workspace, "refused")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"good": 2.0})
    kept = [json.loads(line) for line in (workspace / "tracking/refused/refused.jsonl").read_text().splitlines()]
    assert kept[0]["metrics"] == {"bad|name": 2.0}
    assert kept[1]["artifacts"] == str(workspace / "nowhere")


@pytest.mark.cluster
def test_two_processes_do_not_track_one_run(workspace: Path) -> None:
    with (
        track(workspace, "twice", {}),
        pytest.raises(WorkspaceError, match="another process"),
        track(workspace, "twice", {}),
    ):
        pass


def test_a_path_that_mlflow_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="%"):
        store_uri(tmp_path / "100%")


def test_provenance_names_version_and_commit() -> None:
    tags = provenance()
    assert tags["gennape.version"] == gennape.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", tags.get("mlflow.source.git.commit", "0" * 40))
