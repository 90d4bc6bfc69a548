"""A run folder goes on as it was begun or is refused in a sentence: edited settings, other kinds, swapped files."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from gennape.errors import WorkspaceError
from gennape.platform.search.config import search_config
from gennape.platform.search.log import count_shards, read_shard
from gennape.platform.search.objectives import parse_objectives
from gennape.platform.search.report import write_front
from gennape.platform.search.run_report import read_front
from gennape.platform.search.runs import (
    CONFIG,
    REPORT,
    STATUS,
    config_of,
    describe_run,
    list_runs,
    set_status,
    status_of,
)
from gennape.platform.search.state import STATE, load_state, new_state, save_state
from gennape.platform.workspace.run_lock import lock_run

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "two_path-1"
    (folder / REPORT).mkdir(parents=True)
    describe_run(folder, search_config(space="two_path", seed=4))
    set_status(folder, status="interrupted", reason="Ctrl-C", tracking_run="7")
    (folder / REPORT / "front.json").write_text('{"points": [{"index": 0, "architecture": [1]}]}')
    return folder


EDITS = {
    "space": "nb201", "objectives": "accuracy:max,params:min", "evaluations": 51, "islands": 3, "population": 99,
    "batch": 9, "migration_every": 4, "migrants": 6, "seed": 5, "searcher": "random", "patience": 24,
    "asynchronous": True,
    "checkpoint": "/elsewhere", "checkpoint_sha256": "0" * 64, "space_from": "x.py:X", "space_sha256": "0" * 64,
    "searcher_from": "x.py:Y", "constraints": ["flops<=1"], "measures": ["memory"], "measures_from": ["x.py:M"],
    "heads": ["latency.npu"], "heads_from": ["npu=x.csv"], "heads_sha256": "0" * 64, "fixed": ["a=1"],
    "starts": ["[1]"], "starts_from": "x.csv", "zero_shot": True,
}  # fmt: skip


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_setting_is_refused_by_its_name(run: Path, field: str) -> None:
    assert set(EDITS) == set(json.loads((run / CONFIG).read_text())["search"])
    for value in (EDITS[field], None if field != "checkpoint" else 5, [], "surely not"):
        stored = json.loads((run / CONFIG).read_text())
        if stored["search"][field] == value:
            continue
        stored["search"][field] = value
        edited = run.with_name("edited")
        shutil.copytree(run, edited)
        (edited / CONFIG).write_text(json.dumps(stored))
        with pytest.raises(WorkspaceError, match=rf"config\.json was edited or damaged: {field} is "):
            config_of(edited)
        shutil.rmtree(edited)


def test_settings_that_are_added_or_left_out_are_refused(run: Path) -> None:
    text = (run / CONFIG).read_text()
    stored = json.loads(text)
    del stored["search"]["seed"]
    (run / CONFIG).write_text(json.dumps(stored))
    with pytest.raises(WorkspaceError, match="seed is missing"):
        config_of(run)
    stored = json.loads(text)
    stored["search"]["colour"] = "red"
    (run / CONFIG).write_text(json.dumps(stored))
    with pytest.raises(WorkspaceError, match=r"colour \('red'\) was added"):
        config_of(run)
    stored = json.loads(text)
    stored["search"]["seed"] = 5
    del stored["digests"]  # the status knows them too
    (run / CONFIG).write_text(json.dumps(stored))
    with pytest.raises(WorkspaceError, match="seed is 5 now"):
        config_of(run)


def test_settings_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs" / "other"
    other.mkdir()
    describe_run(other, search_config(space="two_path", seed=9))
    shutil.copy(other / CONFIG, run / CONFIG)
    with pytest.raises(WorkspaceError, match="seed is 9 now"):
        config_of(run)


def test_settings_that_a_run_is_given_anew_are_its_own(run: Path) -> None:
    """As when a finished search is extended."""
    describe_run(run, search_config(space="two_path", seed=4, evaluations=9000))
    assert config_of(run).evaluations == 9000
    set_status(run, status="running")
    assert config_of(run).evaluations == 9000
    assert status_of(run)["tracking_run"] == "7"


def test_an_edited_status_is_refused(run: Path) -> None:
    status = json.loads((run / STATUS).read_text())
    (run / STATUS).write_text(json.dumps({**status, "status": "finished"}))
    with pytest.raises(WorkspaceError, match=r"status\.json was edited or damaged: status is 'finished' now; remove"):
        status_of(run)
    (run / STATUS).unlink()
    assert config_of(run).seed == 4
    set_status(run, status="interrupted")
    assert status_of(run) == {"status": "interrupted"}


def test_a_run_of_an_older_version_goes_on_and_is_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = json.loads((run / CONFIG).read_text())
    del stored["digests"]
    (run / CONFIG).write_text(json.dumps(stored))
    (run / STATUS).write_text('{"status": "interrupted", "reason": "Ctrl-C", "tracking_run": "7"}')
    with caplog.at_level(logging.WARNING):
        assert config_of(run).seed == config_of(run).seed == 4
        assert status_of(run) == {"status": "interrupted", "reason": "Ctrl-C", "tracking_run": "7"}
    assert len(caplog.messages) == 1
    assert "older gennape, without digests" in caplog.messages[0]
    set_status(run, status="running", reason="")  # from now on edits are noticed
    stored["search"]["seed"] = 5
    (run / CONFIG).write_text(json.dumps(stored))
    with pytest.raises(WorkspaceError, match="seed is 5 now"):
        config_of(run)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            lambda front: front["points"][1].update(architecture={"depth": 9}),
            "point 1 is {'index': 1, 'architecture': ",
        ),
        (lambda front: front["points"][0].update(accuracy=99.9), "point 0 is "),
        (lambda front: front["points"].pop(), "point 1 is missing"),
        (lambda front: front["points"].append(front["points"][0]), "point 2 .* was added"),
        (lambda front: front["objectives"].reverse(), "objectives is "),
    ],
)
def test_an_edited_front_is_refused(run: Path, edit: Callable[[dict[str, Any]], object], says: str) -> None:
    frame = pd.DataFrame({"index": [0, 1], "accuracy": [70.1, 60.0], "flops": [2e8, 1e8], "params": [2e6, 1e6]})
    frame["architecture"] = ['{"depth": 1}', '{"depth": 2}']
    write_front(run / REPORT, frame, parse_objectives("accuracy:max,flops:min"))
    path = run / REPORT / "front.json"
    assert [point["architecture"] for point in read_front(run)] == [{"depth": 1}, {"depth": 2}]
    front = json.loads(path.read_text())
    edit(front)
    path.write_text(json.dumps(front))
    with pytest.raises(
        WorkspaceError, match=rf"front\.json was edited or damaged: {says}.*; remove it, and the front is"
    ):
        read_front(run)
    del front["digests"]  # as older versions wrote it
    path.write_text(json.dumps(front))
    assert [point["index"] for point in read_front(run)] == [point["index"] for point in front["points"]]


@pytest.mark.parametrize("content", ["", "[]", None])
def test_a_file_that_can_be_made_again_is_to_be_removed(run: Path, content: str | None) -> None:
    """Nobody has a copy of the status; without the file, a run is read all the same."""
    for path, read in ((run / STATUS, status_of), (run / REPORT / "front.json", read_front)):
        path.unlink()
        path.mkdir() if content is None else path.write_text(content)
        with pytest.raises(WorkspaceError, match=f"{path.name}.*; remove "):
            read(run)
        path.rmdir() if content is None else path.unlink()
    assert status_of(run) == {}


def _spoil(path: Path, rng: Random) -> None:
    """Put something else in the place of a file."""
    content = path.read_bytes()
    path.unlink()
    values: list[Any] = [None, 1, "a", [], {}, [1], {"points": 1}, {"points": [1]}, {"search": []}, {"status": 1}, True]
    texts = [
        *map(json.dumps, values),
        "",
        "{",
        "\ud800".encode("utf-8", "surrogatepass"),
        b"\xff",
        "[" * 100_000,
        "1" * 9999,
    ]
    at = rng.randrange(max(len(content), 1))
    kinds = [
        path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to(path.name),
        lambda: path.write_bytes(content[:at]), lambda: path.write_bytes(content[:at] + b"7" + content[at + 1 :]),
        *(lambda text=text: path.write_bytes(text if isinstance(text, bytes) else text.encode()) for text in texts),
    ]  # fmt: skip
    rng.choice(kinds)()


@pytest.mark.timeout(120)
def test_whatever_lies_in_place_of_a_file_is_told_in_a_sentence(run: Path, tmp_path: Path) -> None:
    """A hundred and fifty spoilt folders; nothing but errors of gennape comes of them, and nothing waits."""
    config = search_config(space="two_path", seed=4)
    save_state(run, new_state(config, 3))
    (run / ".lock").touch()
    (run / "evaluations").mkdir()
    (run / "evaluations" / "000000.parquet").write_bytes(b"PAR1")
    rng = Random(8)  # noqa: S311
    names = [CONFIG, STATUS, STATE, f"{REPORT}/front.json", ".lock", "evaluations/000000.parquet"]
    for turn in range(150):
        spoilt = tmp_path / "runs" / f"spoilt-{turn}"
        shutil.copytree(run, spoilt)
        _spoil(spoilt / rng.choice(names), rng)
        for read in (
            config_of, status_of, read_front, lambda f: load_state(f, config, 3), count_shards, _lock, _begin,
            lambda f: read_shard(f, 0), lambda f: list_runs(f.parent.parent),
        ):  # fmt: skip
            try:
                read(spoilt)
            except WorkspaceError as error:
                assert 20 < len(str(error)) < 1000  # noqa: PT017 (whether it is raised depends on what was spoilt)
        shutil.rmtree(spoilt)


def _lock(folder: Path) -> None:
    with lock_run(folder):
        pass


def _begin(folder: Path) -> None:
    set_status(folder, status="running")


def test_a_lock_that_leads_elsewhere_empties_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (run / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(WorkspaceError, match="cannot lock"), lock_run(run):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_state_of_other_islands_or_altered_is_refused(run: Path) -> None:
    config = search_config(space="two_path", seed=4)
    save_state(run, new_state(config, 3))
    assert load_state(run, config, 3).rounds == 0
    with pytest.raises(WorkspaceError, match="is of 2 islands, the settings of the run say 3"):
        load_state(run, config.model_copy(update={"islands": 3}), 3)
    import numpy as np

    with np.load(run / STATE) as stored:
        arrays = dict(stored)
    header = json.loads(arrays["header"].tobytes())
    for name, value in (("steps", [0, 1]), ("log", "0"), ("evaluations", 1), ("digest", "0")):
        changed = json.dumps({**header, name: value}).encode()
        np.savez(run / STATE, header=np.frombuffer(changed, np.uint8), content=arrays["content"])
        with pytest.raises(WorkspaceError, match="edited or damaged"):
            load_state(run, config, 3)
    np.savez_compressed(run / STATE, **arrays)
    with pytest.raises(WorkspaceError, match="compressed"):
        load_state(run, config, 3)
