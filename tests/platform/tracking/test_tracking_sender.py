"""The sender of a journal and who registers by it, against a real store, without Ray."""

from __future__ import annotations

import re
import shutil
import time
from functools import partialmethod
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from gennape.errors import CheckpointError, WorkspaceError
from gennape.platform.tracking import model as registered_model
from gennape.platform.tracking.journal import (
    Journal,
    JournalRecord,
    journal_folder,
    keep_image,
    lock_journal,
    read_record,
    write_record,
)
from gennape.platform.tracking.registration import register_checkpoint
from gennape.platform.tracking.resend import resend_pending
from gennape.platform.tracking.sender import Sender
from gennape.platform.tracking.store import open_store
from gennape.predictors.model.checkpoint import checkpoint_name, shipped_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlflow.entities import Run

pytestmark = [
    pytest.mark.cluster,
    # MLflow's own, of its tables.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]
START = {"start": "label-1", "parameters": {"seed": "3"}, "tags": {}}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def _metric(step: int, child: str | None = None) -> dict[str, Any]:
    return {"metrics": {"loss": float(step)}, "step": step, "child": child}


def _sent(workspace: Path, entries: Sequence[dict[str, Any]], run_id: str | None = None) -> Sender:
    """Entries more in the journal of the run, and all of it sent, by a process of its own."""
    folder = journal_folder(workspace, "label-1")
    folder.mkdir(parents=True, exist_ok=True)
    record = read_record(folder) or JournalRecord(None, "token")
    write_record(folder, JournalRecord(record.server, record.token, run_id or record.run_id))
    journal = Journal(folder)
    for entry in entries:
        journal.append({**entry, "time": int(time.time() * 1000)})
    journal.close()
    sender = Sender(folder, workspace)
    sender.send()
    return sender


def _runs(workspace: Path) -> dict[str, Run]:
    client, experiment = open_store(workspace)
    runs = client.search_runs([experiment])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def _without_store(workspace: Path, into: Path) -> None:
    """What is left of a workspace whose store is lost: elsewhere, for within a process MLflow keeps a file open."""
    shutil.copytree(workspace / "tracking", into / "tracking")


def test_a_run_whose_store_was_lost_goes_on_as_one_new_run(tmp_path: Path) -> None:
    """What goes on knows the old id alone, each time; in the new store it is one run all the same."""
    lost = _sent(tmp_path / "old", [START, _metric(0), _metric(0, "island-0")]).record.run_id
    _without_store(tmp_path / "old", tmp_path / "new")
    for step in (1, 2):
        _sent(tmp_path / "new", [START, _metric(step), _metric(step, "island-0")], lost)
    runs = _runs(tmp_path / "new")
    assert sorted(runs) == ["island-0", "label-1"]
    assert runs["label-1"].info.run_id != lost
    assert (runs["label-1"].data.params, runs["label-1"].data.metrics) == ({"seed": "3"}, {"loss": 2.0})
    assert runs["island-0"].data.tags["mlflow.parentRunId"] == runs["label-1"].info.run_id


def test_what_waits_in_the_middle_of_a_run_is_sent_where_its_store_was_lost(tmp_path: Path) -> None:
    _sent(tmp_path / "old", [START])
    _without_store(tmp_path / "old", tmp_path / "new")
    folder = journal_folder(tmp_path / "new", "label-1")
    journal = Journal(folder)
    for entry in (_metric(1), {"end": "FINISHED"}):
        journal.append({**entry, "time": int(time.time() * 1000)})
    journal.close()
    assert [(found.values, found.problem) for found in resend_pending(tmp_path / "new")] == [(1, "")]
    run = _runs(tmp_path / "new")["label-1"]
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})
    assert not folder.exists()


def test_a_run_whose_process_was_killed_is_called_killed_and_goes_on(tmp_path: Path) -> None:
    """MLflow called it running for ever."""
    begun = time.time() * 1000
    run_id = _sent(tmp_path, [START, _metric(0), _metric(0, "island-0")]).record.run_id
    assert [(found.values, found.problem) for found in resend_pending(tmp_path)] == [(0, "")]
    assert {run.info.status for run in _runs(tmp_path).values()} == {"KILLED"}
    assert begun - 1000 <= _runs(tmp_path)["label-1"].info.end_time <= time.time() * 1000
    assert list(resend_pending(tmp_path)) == []
    _sent(tmp_path, [START, _metric(1)], run_id)
    assert _runs(tmp_path)["label-1"].info.status == "RUNNING"
    _sent(tmp_path, [{"end": "FINISHED"}])
    assert len(list(resend_pending(tmp_path))) == 1  # killed before its journal was removed
    assert _runs(tmp_path)["label-1"].info.status == "FINISHED"


def test_no_run_is_begun_anew_at_a_server_that_may_be_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("gennape.platform.tracking.sender.open_store", lambda *_: open_store(elsewhere))
    folder = _sent(tmp_path, [START]).folder
    write_record(folder, JournalRecord("http://host:5000", "token", "f" * 32))
    with pytest.raises(WorkspaceError, match=r"no MLflow run f+ at http://host:5000 .*--tracking-uri"):
        _sent(tmp_path, [START])
    assert list(_runs(elsewhere)) == ["label-1"]


def test_children_beyond_what_mlflow_tells_at_a_time_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time, where MLflow itself tells a thousand; each batch is of another process."""
    from mlflow import MlflowClient

    client = partialmethod(MlflowClient.search_runs, max_results=2)
    batch = [_metric(1, f"island-{i}") for i in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_runs", client)
        sender = _sent(tmp_path, [START, *batch])
        for _ in range(2):
            _sent(tmp_path, batch)
        sender = _sent(tmp_path, [{"end": "KILLED"}])
    assert sender.ended == "KILLED"
    runs = _runs(tmp_path)
    assert sorted(runs) == [*(f"island-{i}" for i in range(5)), "label-1"]
    assert {run.info.status for run in runs.values()} == {"KILLED"}


def test_a_child_whose_making_was_not_answered_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    make, lost = MlflowClient.create_run, []

    def unanswered(*arguments: Any, **named: Any) -> Any:
        made = make(*arguments, **named)
        if made.info.run_name == "island-1" and not lost:
            lost.append(made)
            raise ConnectionError("the answer is lost")
        return made

    monkeypatch.setattr(MlflowClient, "create_run", unanswered)
    with pytest.raises(ConnectionError):
        _sent(tmp_path, [START, _metric(0, "island-0"), _metric(0, "island-1")])
    sender = Sender(journal_folder(tmp_path, "label-1"), tmp_path)
    sender.send()
    assert sorted(_runs(tmp_path)) == ["island-0", "island-1", "label-1"]


def test_a_version_that_is_refused_is_answered_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> str:
        raise CheckpointError("the checkpoint is another by now")

    monkeypatch.setattr(registered_model, "add_version", refused)
    found = register_checkpoint(shipped_checkpoint(), tmp_path, "fit")
    assert (found.version, found.problem) == ("", "the checkpoint is another by now")
    (run,) = _runs(tmp_path).values()
    assert run.info.status == "FINISHED"


def test_two_that_are_registered_in_one_second_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    monkeypatch.setattr(registered_model, "add_version", lambda *_: "7")
    source = shipped_checkpoint()
    name = f"fit-20260101-000000-{checkpoint_name(source)[:8]}"
    with lock_journal(journal_folder(tmp_path, name)):
        assert register_checkpoint(source, tmp_path, "fit").problem == ""
    assert list(_runs(tmp_path)) == [f"{name}-2"]


def _pictures(workspace: Path) -> list[str]:
    client, _ = open_store(workspace)
    return sorted(file.path for file in client.list_artifacts(_runs(workspace)["label-1"].info.run_id, "images"))


def test_pictures_of_generations_are_shown_in_their_order_and_sent_once(tmp_path: Path) -> None:
    folder = journal_folder(tmp_path, "label-1")
    _sent(tmp_path, [START])
    for step in (0, 7):
        Image.new("RGB", (800, 500), (step, 0, 0)).save(tmp_path / "front.png")
        keep_image(folder, tmp_path / "front.png", f"front-{step}.png")
    again = [{"image": f"front-{step}.png", "key": "front", "step": step, "time": 1000 + step} for step in (0, 7)]
    for entry in again:
        keep_image(folder, tmp_path / "front.png", entry["image"])
        sender = Sender(folder, tmp_path)
        sender._image(entry)  # MLflow took it, and its answer was lost
        keep_image(folder, tmp_path / "front.png", entry["image"])
        sender._image(entry)
    names = [re.fullmatch(r"images/front\+step\+(\d+)\+timestamp\+(\d+)\+[0-9a-f-]{36}(.*)", name)
             for name in _pictures(tmp_path)]  # fmt: skip
    assert [found.groups() for found in names if found] == [
        (step, stamp, end) for step, stamp in (("0", "1000"), ("7", "1007")) for end in ("+compressed.webp", ".png")
    ]
    assert _runs(tmp_path)["label-1"].data.tags["mlflow.loggedImages"] == "True"
    assert list((folder / "images").iterdir()) == []


def test_a_picture_that_is_gone_holds_up_nothing(tmp_path: Path) -> None:
    _sent(tmp_path, [START, {"image": "front-0.png", "key": "front", "step": 0}, _metric(3)])
    assert _runs(tmp_path)["label-1"].data.metrics == {"loss": 3.0}
    assert "front-0.png" in (journal_folder(tmp_path, "label-1") / "refused.jsonl").read_text()
