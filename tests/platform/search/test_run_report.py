"""The front of a search at any moment: after every generation, after every kind of stop, of runs of former versions."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from typer.testing import CliRunner

from gennape.errors import WorkspaceError
from gennape.jobs.cli import app
from gennape.platform.search import run_report
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.front import front_frame, front_of
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.log import SHARDS, read_log
from gennape.platform.search.run_report import RunReport, caution, read_front
from gennape.platform.search.runs import describe_run, find_run, set_status, status_of
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.workspace.files import RUNS
from gennape.platform.workspace.run_lock import lock_run
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from pathlib import Path

    from gennape.platform.search.evaluations import Evaluations
    from gennape.platform.search.search_run import GenerationRecord

GENES = len(family("hiaml").genes)
FILES = ["evaluations.parquet", "front.csv", "front.html", "front.json", "front.png"]


class _Stop(Exception):
    """Stands for whatever ends a process."""


def _searched(workspace: Path, name: str, generations: int | None, *, asynchronous: bool = False) -> Path:
    """A run that ended after so many generations, as a killed one does: without another word."""
    folder = workspace / RUNS / name
    folder.mkdir(parents=True)
    config = search_config(space="hiaml", evaluations=120, population=20, asynchronous=asynchronous)
    describe_run(folder, config)
    report = RunReport(folder, config)

    def follow(record: GenerationRecord) -> None:
        report.follow(record.front)
        report.settle()
        expected = front_frame(front_of(read_log(folder, GENES), config.directed), config.directed)
        csv = pd.read_csv(folder / "report" / "front.csv")
        assert csv["hash"].tolist() == expected["hash"].tolist()
        points = json.loads((folder / "report" / "front.json").read_text())["points"]
        assert [point["hash"] for point in points] == expected["hash"].tolist()
        assert sorted(path.name for path in (folder / "report").iterdir()) == FILES
        if record.generation + 1 == generations:
            raise _Stop

    try:
        report.complete(run_search(config, folder, LocalIslands(config, SyntheticPredictor()), follow).front)
        set_status(folder, status="finished", reason="all 120 evaluations are done")
    except _Stop:
        set_status(folder, status="running", reason="")
    return folder


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_front_is_written_after_every_generation(tmp_path: Path, asynchronous: bool) -> None:
    folder = _searched(tmp_path, "whole", None, asynchronous=asynchronous)
    assert len(pd.read_parquet(folder / "report" / "evaluations.parquet")) == 120
    assert caution(folder) == ""


def test_pictures_take_two_percent_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn = [0.0], []

    def complete(_self: RunReport, _front: pd.DataFrame) -> None:
        drawn.append(now[0])
        now[0] += 4.0

    folder = _searched(tmp_path, "whole", None)
    config = search_config(space="hiaml")
    monkeypatch.setattr(run_report.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(RunReport, "_complete", complete)
    report, front = RunReport(folder, config), front_of(read_log(folder, GENES), config.directed)
    while now[0] < 1000:
        report.follow(front)
        report.settle()
        now[0] += 1.0
    assert report.picture() == (folder / "report" / "front.png", 0)
    assert report.picture() is None
    assert drawn == [0.0, 204.0, 408.0, 612.0, 816.0]  # 4 s each, then 200 s without


def _drawn_points(folder: Path) -> int:
    """The networks that the title of the page counts as its front."""
    title = re.search(r"Pareto front: (\d+) of", (folder / "report" / "front.html").read_text())
    assert title is not None
    return int(title[1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, _Stop, None])
def test_pictures_are_brought_up_to_date_however_a_search_ends(
    tmp_path: Path, error: type[BaseException] | None
) -> None:
    """Pictures are due every 30 s only, and the search stops sooner."""
    folder = tmp_path / RUNS / "stopped"
    folder.mkdir(parents=True)
    config = search_config(space="hiaml", evaluations=200, population=20)
    describe_run(folder, config)
    first = []

    def follow(record: GenerationRecord) -> None:
        report.follow(record.front)
        report.settle()
        first.append(_drawn_points(folder))
        if error is not None and record.generation == 3:
            raise error

    with suppress(KeyboardInterrupt, _Stop), RunReport(folder, config) as report:
        run_search(config, folder, LocalIslands(config, SyntheticPredictor()), follow)
    front = pd.read_csv(folder / "report" / "front.csv")
    assert set(first) == {first[0]} != {len(front)}
    assert _drawn_points(folder) == len(front)
    assert len(pd.read_parquet(folder / "report" / "evaluations.parquet")) == len(read_log(folder, GENES))


def test_a_search_does_not_wait_for_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generations that come while one is written are skipped but for the last."""
    front = front_of(read_log(_searched(tmp_path, "cut", 2), GENES), search_config(space="hiaml").directed)
    begun, go_on, written = Event(), Event(), []

    def write(_self: RunReport, front: Evaluations, _generation: int) -> None:
        begun.set()
        assert go_on.wait(60)
        written.append(len(front))

    monkeypatch.setattr(RunReport, "_write", write)
    with RunReport(tmp_path, search_config(space="hiaml")) as report:
        report.follow(front.take(range(1)))
        assert begun.wait(60)
        report.follow(front.take(range(2)))
        report.follow(front.take(range(3)))
        assert written == []
        go_on.set()
    assert written == [1, 3]


def test_what_cannot_be_written_stops_the_search_at_the_next_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _searched(tmp_path, "cut", 2)
    config = search_config(space="hiaml")
    front = front_of(read_log(folder, GENES), config.directed)

    def full(*_: object) -> None:
        raise WorkspaceError("no space")

    monkeypatch.setattr(run_report, "write_report", full)
    report = RunReport(folder, config)
    report.follow(front)
    with pytest.raises(WorkspaceError, match="no space"):
        report.complete(front_frame(front, config.directed))
    report.follow(front)
    while report._writing is None or not report._writing.done():
        time.sleep(0.01)
    with pytest.raises(WorkspaceError, match="no space"):
        report.follow(front)


def test_a_full_disk_that_stopped_a_search_is_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _searched(tmp_path, "cut", 2)
    config = search_config(space="hiaml")
    front = front_of(read_log(folder, GENES), config.directed)

    def full(*_: object) -> None:
        raise WorkspaceError("no space for a picture")

    def stop() -> None:
        with RunReport(folder, config) as report:
            report.follow(front)
            report.settle()
            report.follow(front.take(range(1)))
            report.settle()
            monkeypatch.setattr(run_report, "write_report", full)
            raise OSError("the first")

    with pytest.raises(OSError, match="the first"):
        stop()


def test_a_run_is_told_from_a_killed_one_by_its_lock(tmp_path: Path) -> None:
    folder = _searched(tmp_path, "cut", 2)
    assert status_of(folder) == {"status": "interrupted", "reason": "its process was killed, or its machine stopped"}
    rows = sum(len(pd.read_parquet(path)) for path in (folder / SHARDS).iterdir())
    assert 20 < rows < 120  # two generations of two islands that ask for 10 each, and the ends of the space
    assert caution(folder) == (
        "cut was interrupted (its process was killed, or its machine stopped): "
        f"this is its front after {rows} of 120 evaluations"
    )
    with lock_run(folder):
        assert status_of(folder)["status"] == "running"
        assert caution(folder) == f"cut is still running: this is its front after {rows} of 120 evaluations"
        (folder / SHARDS / ".000002.0123abcd.parquet").write_bytes(b"half of a shard")
        assert caution(folder).endswith(f"{rows} of 120 evaluations")
        assert (folder / SHARDS / ".000002.0123abcd.parquet").exists(), "its writer is at work"
    set_status(folder, status="failed", reason="no space")
    assert caution(folder).startswith("cut failed (no space): ")


def test_the_latest_run_to_resume_is_one_that_was_cut_off(tmp_path: Path) -> None:
    cut = _searched(tmp_path, "cut", 1)
    with lock_run(cut):  # from the beginning on, as a search does: the newest run is told by the time of its folder
        pass
    whole = _searched(tmp_path, "whole", None)
    assert find_run(tmp_path, "latest") == whole
    assert find_run(tmp_path, "latest", to_resume=True) == cut
    with lock_run(cut):
        assert find_run(tmp_path, "latest", to_resume=True) == whole


@pytest.mark.parametrize("with_report", [True, False])
def test_export_and_show_take_a_network_of_a_run_that_was_cut_off(tmp_path: Path, with_report: bool) -> None:
    folder = _searched(tmp_path, "cut", 2)
    points = read_front(folder)
    if not with_report:  # of a version that wrote it at the end
        for path in (folder / "report").iterdir():
            path.unlink()
        assert [(p["index"], p["hash"], p["architecture"]) for p in read_front(folder)] == [
            (p["index"], p["hash"], p["architecture"]) for p in points
        ]
    options = ["--run", "cut", "--index", "0", "--workspace", str(tmp_path)]
    for verb, more in (("export", ["--to", str(tmp_path / "net.py")]), ("show", [])):
        done = CliRunner().invoke(app, [verb, *options, *more], catch_exceptions=False)
        assert done.exit_code == 0
        assert done.stderr == f"{caution(folder)}\n"
    assert (tmp_path / "net.py").exists()


def test_a_workspace_that_takes_no_files_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, made readable with chmod, or one on a disk that is mounted to be read alone."""
    _searched(tmp_path / "w", "whole", None)

    def refuse(folder: Path, *_: object) -> None:
        raise WorkspaceError(f"cannot write to {folder}")

    monkeypatch.setattr("gennape.platform.workspace.files.make_writable", refuse)
    options = ["--run", "whole", "--index", "0", "--workspace", str(tmp_path / "w")]
    for verb, more in (("export", ["--to", str(tmp_path / "net.py")]), ("show", [])):
        assert CliRunner().invoke(app, [verb, *options, *more], catch_exceptions=False).exit_code == 0
    resumed = CliRunner().invoke(app, ["search", "--resume", "whole", "--workspace", str(tmp_path / "w")])
    assert "whole is finished: all 120 evaluations are done" in resumed.output


@pytest.mark.parametrize("verb", ["export --index 0 --to n.py --run", "show --index 0 --run", "search --resume"])
def test_a_mistyped_workspace_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*verb.split(), "latest", "--workspace", "typo"])
    assert isinstance(done.exception, WorkspaceError)
    assert f"there is no workspace {tmp_path / 'typo'}" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_status_without_a_reason_is_read(tmp_path: Path) -> None:
    """Of an older gennape, whose status holds no digests, or edited by hand."""
    folder = _searched(tmp_path, "whole", None)
    (folder / "status.json").write_text('{"status": "finished"}')
    resumed = CliRunner().invoke(app, ["search", "--resume", "whole", "--workspace", str(tmp_path)])
    assert resumed.exit_code == 0
    assert "whole is finished" in resumed.output


def test_before_the_first_generation_there_is_no_front_and_it_is_said_why(tmp_path: Path) -> None:
    folder = tmp_path / RUNS / "new"
    folder.mkdir(parents=True)
    describe_run(folder, search_config(space="hiaml"))
    set_status(folder, status="interrupted", reason="SIGTERM")
    with pytest.raises(WorkspaceError, match=r"new has no front yet: it was interrupted \(SIGTERM\), and none") as told:
        read_front(folder)
    assert f"after `gennape search --resume new --workspace {tmp_path}`, repeat" in str(told.value)
    with lock_run(folder):
        set_status(folder, status="running", reason="")
        with pytest.raises(WorkspaceError, match="new has no front yet: it is still running, and none"):
            read_front(folder)
