"""Workspaces, whole-or-absent files, and run folders."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from gennape.errors import WorkspaceError
from gennape.platform.labelling.study import study_folder
from gennape.platform.search.runs import create_run, find_run, set_status, status_of
from gennape.platform.training.pretraining import training_folder
from gennape.platform.training.tuning import tuning_folder
from gennape.platform.workspace.files import find_workspace, open_workspace
from gennape.platform.workspace.run_files import read_json
from gennape.platform.workspace.run_lock import lock_run
from gennape.search_spaces.files.atomic import atomic_path, atomic_write_bytes, replacing, write_json

NOON = datetime(2026, 11, 22, 12, 0, 5)


def test_workspace_is_the_argument_then_the_variable_then_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    assert open_workspace() == tmp_path / "gennape-workspace"
    monkeypatch.setenv("GENNAPE_WORKSPACE", str(tmp_path / "b"))
    assert open_workspace() == tmp_path / "b"
    assert open_workspace(tmp_path / "c" / "d") == tmp_path / "c" / "d"
    assert list((tmp_path / "c" / "d").iterdir()) == []


def test_unwritable_workspace_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match=r"cannot write to the workspace .*file/x .*--workspace"):
        open_workspace(tmp_path / "file" / "x")
    with pytest.raises(WorkspaceError, match="cannot write to the workspace /proc"):
        open_workspace(__import__("pathlib").Path("/proc/1/gennape"))


def fail_half_way(path, failure):
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise failure


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "value"
    atomic_write_bytes(path, b"old")
    for failure in (ValueError, KeyboardInterrupt):
        with pytest.raises(failure):
            fail_half_way(path, failure)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["value"]
    with pytest.raises(WorkspaceError, match="cannot write"):
        atomic_write_bytes(tmp_path / "absent" / "value", b"")


def test_run_names_are_readable_and_unique(tmp_path):
    names = [create_run(tmp_path, "ofa_mbv3", 7, NOON).name for _ in range(3)]
    assert names == ["ofa_mbv3-20261122-120005-s7", "ofa_mbv3-20261122-120005-s7-2", "ofa_mbv3-20261122-120005-s7-3"]


def test_a_workspace_that_is_not_there_is_said_to_be_none(tmp_path):
    with pytest.raises(WorkspaceError, match=r"no run 'hiaml': there is no workspace .*typo; give .*--workspace"):
        find_run(tmp_path / "typo", "hiaml")


def test_runs_are_found_by_name_unique_beginning_or_path(tmp_path):
    with pytest.raises(WorkspaceError, match="recent runs: none yet"):
        find_run(tmp_path, "hiaml")
    first = create_run(tmp_path, "hiaml", 0, NOON)
    second = create_run(tmp_path, "hiaml", 0, NOON)
    other = create_run(tmp_path, "nb101", 0, NOON)
    assert find_run(tmp_path, "nb") == other
    os.utime(second, ns=(10**18 * 4,) * 2)
    assert find_run(tmp_path, "latest") == second
    assert find_run(tmp_path, first.name) == first, "an exact name wins over the longer names that begin so"
    assert find_run(tmp_path, str(second)) == second
    with pytest.raises(WorkspaceError, match="names 2 runs"):
        find_run(tmp_path, "hiaml")
    for unknown in ("ofa", ""):
        with pytest.raises(WorkspaceError, match=rf"no run '{unknown}'.*recent runs: .*{other.name}"):
            find_run(tmp_path, unknown)


@pytest.mark.parametrize("folder_of", [study_folder, training_folder, tuning_folder])
def test_ways_to_one_output_are_one_piece_of_work(tmp_path, folder_of):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    expected = folder_of(tmp_path / "there" / "made", tmp_path)
    for way in ("link/made", "there/../there/made"):
        assert folder_of(tmp_path / way, tmp_path) == expected
    assert folder_of(tmp_path / "made", tmp_path) != expected


def test_status_is_kept_and_damaged_json_is_reported(tmp_path):
    assert status_of(tmp_path) == {}
    set_status(tmp_path, status="running", tracking_run="7")
    set_status(tmp_path, status="finished")
    assert status_of(tmp_path) == {"status": "finished", "tracking_run": "7"}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(WorkspaceError, match=r"cannot read .*bad\.json"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(WorkspaceError, match="does not exist"):
        read_json(tmp_path / "none.json")
    write_json(tmp_path / "bad.json", [1])
    assert read_json(tmp_path / "bad.json") == [1]


def test_two_processes_cannot_work_in_one_run(tmp_path):
    with lock_run(tmp_path), pytest.raises(WorkspaceError, match="another process"), lock_run(tmp_path):
        pass
    with lock_run(tmp_path):
        pass


@pytest.mark.parametrize("path", ["/dev/null/x.onnx", "x" * 250 + ".onnx"])
def test_what_cannot_be_written_is_one_error(tmp_path: Path, path: str) -> None:
    with (
        pytest.raises(WorkspaceError, match=r"cannot write .*choose a folder"),
        replacing(tmp_path / path) as temporary,
    ):
        temporary.write_text("something")


# Who may read -------------------------------------------------------------------------------------------------------


@pytest.fixture
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder):
    return {str(path.relative_to(folder)): path.lstat().st_mode & 0o777 for path in sorted(folder.rglob("*"))}


@pytest.mark.usefixtures("usual_umask")
def test_a_new_workspace_and_what_is_written_after_are_its_owners_alone(tmp_path):
    folder = open_workspace(tmp_path / "w")
    write_json(create_run(folder, "hiaml", 0) / "status.json", {})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert set(modes(folder).values()) == {0o700, 0o600}


@pytest.mark.usefixtures("usual_umask")
def test_a_workspace_of_an_earlier_version_is_closed_to_others(tmp_path):
    folder = tmp_path / "w"
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a" / "front.json").write_text("{}")
    (folder / "mlflow.db").write_bytes(b"")
    (folder / "mlflow.db").chmod(0o664)
    (folder / "runs" / "a" / "tool").write_text("")
    (folder / "runs" / "a" / "tool").chmod(0o755)
    open_workspace(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert modes(folder) == {
        "mlflow.db": 0o600, "runs": 0o700, "runs/a": 0o700, "runs/a/front.json": 0o600, "runs/a/tool": 0o700,
    }  # fmt: skip


@pytest.mark.usefixtures("usual_umask")
def test_what_gennape_did_not_make_keeps_its_permissions(tmp_path):
    """A workspace may be a folder that holds other things, such as the home folder; links lead anywhere."""
    (tmp_path / "elsewhere").write_text("")
    folder = tmp_path / "home"
    (folder / "public_html").mkdir(parents=True)
    (folder / "runs").mkdir()
    (folder / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    open_workspace(folder)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert modes(folder)["public_html"] == 0o755
    assert modes(folder)["runs"] == 0o700
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("usual_umask")
def test_finding_a_workspace_makes_nothing_and_changes_no_permission(tmp_path):
    assert find_workspace(tmp_path / "typo" / "w") == tmp_path / "typo" / "w"
    assert not (tmp_path / "typo").exists()
    (tmp_path / "w" / "runs").mkdir(parents=True)
    find_workspace(tmp_path / "w")
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o755
    assert os.umask(0o022) == 0o022
