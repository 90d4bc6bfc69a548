"""The journal of a run, without MLflow and without Ray."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import WorkspaceError
from gennape.platform.search.island_metrics import island_metrics
from gennape.platform.tracking import journal as tracking_journal
from gennape.platform.tracking.journal import (
    Journal,
    JournalRecord,
    Offset,
    clear,
    entries,
    journal_folder,
    journals,
    lock_journal,
    new_name,
    read_offset,
    read_record,
    run_name,
    segments,
    values_after,
    write_offset,
    write_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _steps(folder: Path, position: Offset = Offset()) -> list[int]:  # noqa: B008 (it is frozen)
    return [entry["step"] for entry, _ in entries(folder, position)]


@given(writers=st.lists(st.integers(1, 4), min_size=1, max_size=8), data=st.data())
@settings(max_examples=30, deadline=None)
def test_whatever_is_taken_and_whoever_writes_each_entry_is_read_once_and_in_order(
    writers: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Several writers in turn, each of some entries; the reader stops anywhere and goes on."""
    folder, read, step = tmp_path_factory.mktemp("journal"), [], 0
    for count in writers:
        journal = Journal(folder)
        for _ in range(count):
            journal.append({"metrics": {"a": 1.0}, "step": step})
            step += 1
        journal.close()
        waiting = list(entries(folder, read_offset(folder)))
        taken = waiting[: data.draw(st.integers(0, len(waiting)))]
        if taken:
            read += [entry["step"] for entry, _ in taken]
            write_offset(folder, taken[-1][1])
        assert values_after(folder, read_offset(folder)) == step - len(read)
    read += _steps(folder, read_offset(folder))
    assert read == list(range(step))


def test_a_segment_is_left_when_it_is_full_and_deleted_when_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_journal, "SEGMENT_BYTES", 30)
    journal = Journal(tmp_path)
    for step in range(7):
        journal.append({"metrics": {}, "step": step})  # 24 bytes: two in each
    assert len(segments(tmp_path)) == 4
    places = [position for _, position in entries(tmp_path, Offset())]
    write_offset(tmp_path, places[4])
    assert [segment.name for segment in segments(tmp_path)] == ["journal-000003.jsonl", "journal-000004.jsonl"]
    assert _steps(tmp_path, read_offset(tmp_path)) == [5, 6]
    assert journal.position == places[-1]
    journal.close()


def test_torn_and_damaged_lines_cost_only_themselves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "journal-000001.jsonl").write_text('{"step": 0}\n{"ste\n{"step": 1}\n{"step": 2')
    journal = Journal(tmp_path)
    journal.append({"step": 3})
    journal.close()
    assert _steps(tmp_path) == [0, 1, 3]
    assert "journal-000001.jsonl is damaged" in caplog.text


def test_a_full_disk_is_told_and_got_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, write = Journal(tmp_path), os.write
    journal.append({"step": 0})

    def full(file: int, line: bytes) -> int:
        write(file, line[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            journal.append({"step": 1})
    journal.append({"step": 2})
    journal.close()
    assert _steps(tmp_path) == [0, 2]


def test_a_folder_is_of_one_process_at_a_time_and_says_whose(tmp_path: Path) -> None:
    folder = journal_folder(tmp_path, "pretrain-1")
    with lock_journal(folder), pytest.raises(WorkspaceError, match="pretrain-1"), lock_journal(folder):
        pass
    assert read_record(folder) is None
    write_record(folder, JournalRecord("http://host", "token", "id"))
    assert read_record(folder) == JournalRecord("http://host", "token", "id")


def test_journals_are_found_in_runs_and_beside_them(tmp_path: Path) -> None:
    (tmp_path / "runs" / "hiaml-1").mkdir(parents=True)
    assert journals(tmp_path) == []
    folders = [journal_folder(tmp_path, name) for name in ("hiaml-1", "pretrain-1")]
    assert folders == [tmp_path / "runs" / "hiaml-1" / "tracking", tmp_path / "tracking" / "pretrain-1"]
    for folder in folders:
        folder.mkdir(parents=True)
        assert folder not in journals(tmp_path)
        journal = Journal(folder)
        journal.append({"end": "FINISHED"})
        journal.close()
    assert journals(tmp_path) == folders


def test_names_of_one_second_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    names = [
        new_name(tmp_path, "label"),
        new_name(tmp_path, "label"),
        new_name(tmp_path, "tune"),
        new_name(tmp_path, "fit", "-0a"),
    ]
    assert names == [
        "label-20260101-000000", "label-20260101-000000-2", "tune-20260101-000000", "fit-20260101-000000-0a",
    ]  # fmt: skip
    assert [run_name(journal_folder(tmp_path, name)) for name in names] == names
    (tmp_path / "runs" / "hiaml-1").mkdir(parents=True)
    assert run_name(journal_folder(tmp_path, "hiaml-1")) == "hiaml-1"


def _finished(workspace: Path, name: str) -> Path:
    """The journal of a run that MLflow has taken wholly."""
    folder = journal_folder(workspace, name)
    with lock_journal(folder):
        write_record(folder, JournalRecord(None, "token", "id"))
        journal = Journal(folder)
        journal.append({"end": "FINISHED"})
        journal.close()
        write_offset(folder, journal.position)
        clear(folder, finished=True)
    return folder


def _finish_many(workspace: Path, verb: str) -> None:
    for number in range(300):
        _finished(workspace, f"{verb}-{number}")


@pytest.mark.cluster
def test_runs_that_end_beside_each_other_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each removes the folder that they share, whenever it is empty."""
    with ProcessPoolExecutor(2) as processes:
        list(processes.map(_finish_many, [tmp_path] * 2, ["label", "tune"]))
    assert not (tmp_path / "tracking").exists()


def _unlink_unless(name: str, keep: Callable[..., None]) -> Callable[..., None]:
    unlink = os.unlink

    def chosen(path: Any, *, dir_fd: int | None = None) -> None:
        (keep if os.path.basename(os.fsdecode(path)) == name else unlink)(path, dir_fd=dir_fd)

    return chosen


def _as_nfs(path: Any, *, dir_fd: int | None = None) -> None:
    """A file that is open is renamed, and its folder is not empty until it is closed."""
    os.rename(path, Path(os.fsdecode(path)).with_name(".nfs0001"), src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def _refused(path: Any, *, dir_fd: int | None = None) -> None:  # noqa: ARG001
    raise OSError(errno.EBUSY, "Device or resource busy", path)


def test_where_an_open_file_stays_a_finished_journal_is_none_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", _unlink_unless(".lock", _as_nfs))
        folder = _finished(tmp_path, "label-1")
    assert [path.name for path in folder.iterdir()] == [".nfs0001"]
    assert journals(tmp_path) == []
    assert read_record(folder) is None


@pytest.mark.parametrize("stays", [".lock", "run.json", "sent.json", "journal-000001.jsonl"])
def test_whatever_file_cannot_be_removed_nothing_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", _unlink_unless(stays, _refused))
        folder = _finished(tmp_path, "label-1")
    assert (folder / stays).exists()
    assert list(entries(folder, read_offset(folder))) == []


def test_a_folder_that_empties_late_goes_with_its_lock(tmp_path: Path) -> None:
    folder = journal_folder(tmp_path, "label-1")
    with lock_journal(folder):
        (folder / ".lock").unlink()
        (folder / ".nfs0001").touch()
        clear(folder, finished=False)
        (folder / ".nfs0001").unlink()
    assert not folder.parent.exists()


def test_metrics_of_islands_are_counted_by_who_found_a_network_first() -> None:
    metrics = island_metrics([4, 0, 2], np.array([9, 0, 5]), np.array([0, 0, 2]), np.array([2, 2, 0]))
    assert metrics == {
        "island-0": {"evaluations": 9, "front_size": 1, "unique_fraction": 0.5},
        "island-1": {"evaluations": 0, "front_size": 0, "unique_fraction": 0},
        "island-2": {"evaluations": 5, "front_size": 2, "unique_fraction": 0.5},
    }
