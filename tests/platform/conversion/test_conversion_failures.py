"""Conversion to shards loses and repeats nothing, whatever ends it, and inputs that hang or kill are rejected alone.

Without Ray where the logic can be tested so; workers and drivers are killed for real in the tests marked ``cluster``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import conversion_cases
import pytest
from conversion_cases import (
    NO_WATCH,
    SAMPLE,
    SMALL,
    StandInFolder,
    rejections,
    rows_of,
    shards_of,
    write_in_process,
)
from example_counts import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gennape.errors import ServiceError
from gennape.platform.cluster.connection import local_ray
from gennape.platform.cluster.worker_pool import TRIES
from gennape.platform.conversion import convert as conversion
from gennape.platform.conversion import pool as conversion_pool
from gennape.platform.conversion.convert import ConversionConfig, convert
from gennape.platform.conversion.inputs import FamilySample
from gennape.platform.conversion.parts import SampledPart, read_note
from gennape.platform.conversion.pool import write_shard
from gennape.search_spaces.graphs.parquet import read_graphs

ROOT = Path(__file__).resolve().parents[3]


class _Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def in_process(monkeypatch):
    return write_in_process(monkeypatch)


@pytest.fixture(scope="module")
def ray_here(no_ray):  # noqa: ARG001
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)  # which Ray would hand on, in place of its own choice
        with local_ray(num_cpus=2):
            yield


@pytest.fixture
def by_value():
    """What this file and the one beside it define travels to workers whole: they cannot import a test."""
    from ray import cloudpickle

    modules = sys.modules[__name__], conversion_cases
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


def test_where_nothing_is_left_to_do_no_worker_is_asked_for():
    assert list(conversion_pool.write_jobs([], 0, 5, {})) == []  # Ray is not even started


# Interruptions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(in_process, tmp_path_factory):  # noqa: ARG001
    """A whole conversion, which every example is compared with."""
    whole = tmp_path_factory.mktemp("whole")
    result = convert(SAMPLE, whole, SMALL)
    assert (result.rows, result.shards, result.kept) == (53, 6, 0)
    assert rows_of(whole) == (list(range(53)), [])
    return whole


@pytest.mark.cluster
@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, 5), max_size=4), damaged=st.sets(st.integers(0, 5), max_size=3))
def test_any_interruptions_give_the_same_bytes(in_process, undisturbed, tmp_path_factory, stops, damaged):
    whole, cut = undisturbed, tmp_path_factory.mktemp("cut")
    for shards in stops:

        def follow(done, _rejected, left=[shards + 1]):  # noqa: B006
            left[0] -= bool(done)
            if left[0] == 0:
                raise _Stop

        try:
            convert(SAMPLE, cut, SMALL, follow=follow)
        except _Stop:
            (cut / f".part-0000{shards}.0a1b2c3d.parquet").write_bytes(b"half")
            (cut / f".part-0000{shards}.parquet.note").write_bytes(b"7\n")
    for shard in damaged:
        path = cut / f"part-0000{shard}.parquet"
        if path.exists():
            path.write_bytes(path.read_bytes()[:-9]) if shard % 2 else path.unlink()
    convert(SAMPLE, cut, SMALL)
    assert shards_of(cut) == shards_of(whole)
    assert {path.name for path in cut.iterdir()} == {path.name for path in whole.iterdir()}
    assert json.loads((cut / "_manifest.json").read_text()) == json.loads((whole / "_manifest.json").read_text())
    before = len(in_process)
    assert convert(SAMPLE, cut, SMALL).kept == 6
    assert len(in_process) == before


def test_notes_of_the_dead(tmp_path):
    note = tmp_path / "note"
    assert read_note(note) == (None, False)
    note.write_text("17\n")
    assert read_note(note) == (17, False)
    note.write_text("17\nTimeout (0:00:01)!\nThread 0x1\n")
    assert read_note(note) == (17, True)
    note.write_text("")
    assert read_note(note) == (None, False)


# With Ray ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deadly:
    """A part that kills its worker while a file holds fewer letters than ``times``."""

    inner: SampledPart
    count: Path
    times: int

    @property
    def rows(self):
        return self.inner.rows

    def convert(self, spectrum, watch, skip):
        if len(self.count.read_text()) < self.times and len(skip) < len(self.rows):
            with self.count.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.convert(spectrum, watch, skip)


class DeadlySample:
    """A sample of which some shards kill their workers so many times."""

    def __init__(self, inner, folder, times):
        self.inner, self.folder, self.times, self.unread = inner, folder, times, ()
        folder.mkdir()
        for shard in times:
            (folder / str(shard)).write_text("")

    def __len__(self):
        return len(self.inner)

    def describe(self):
        return self.inner.describe()

    def part(self, index, rows):
        part = self.inner.part(index, rows)
        return Deadly(part, self.folder / str(index), self.times[index]) if index in self.times else part


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_here")
def test_bytes_do_not_depend_on_workers(tmp_path):
    inputs, config = FamilySample("nb101", 330, 0), ConversionConfig(shard_size=60)
    results = [convert(inputs, tmp_path / str(workers), config, workers) for workers in (1, 2)]
    assert [(r.rows, r.shards, r.rejected.total()) for r in results] == [(330, 6, 0)] * 2
    assert shards_of(tmp_path / "1") == shards_of(tmp_path / "2")
    assert rows_of(tmp_path / "1") == (list(range(330)), [])
    assert all(0 < r.peak_bytes < 1.5 * 2**30 for r in results)
    _, table = read_graphs(tmp_path / "1")
    part = SampledPart("nb101", 0, 0, range(60), False).convert(21, NO_WATCH, {})
    assert table["hash"].to_pylist()[:60] == part.columns["hash"].to_pylist()


@pytest.mark.cluster
@pytest.mark.usefixtures("by_value")
@pytest.mark.usefixtures("ray_here")
def test_dead_workers_are_replaced_and_what_kills_them_is_rejected(in_process_reference, tmp_path):
    inputs = DeadlySample(SAMPLE, tmp_path / "deaths", {1: 2, 3: 99})
    result = convert(inputs, tmp_path / "out", SMALL, 2)
    assert (result.rows, dict(result.rejected)) == (43, {"FAILED": 10})
    assert len((tmp_path / "deaths" / "3").read_text()) == TRIES
    found = shards_of(tmp_path / "out")
    differing = [name for name, content in in_process_reference.items() if found[name] != content]
    assert differing == ["part-00003.parquet"]
    rows, rejected = rows_of(tmp_path / "out")
    assert rejected == list(range(30, 40))
    assert sorted(rows + rejected) == list(range(53))
    assert {reason for _, _, reason in rejections(tmp_path / "out")} == {
        "FAILED: the process that converted it died 3 times"
    }


@pytest.fixture(scope="module")
def in_process_reference(tmp_path_factory):
    """The shards of ``SAMPLE`` as they ought to be, written without Ray."""
    folder = tmp_path_factory.mktemp("reference")
    description = json.dumps(conversion._manifest(SAMPLE, folder, SMALL)["conversion"], sort_keys=True)
    for index, start in enumerate(range(0, 53, 10)):
        part = SAMPLE.part(index, range(start, min(start + 10, 53)))
        write_shard(folder / f"part-{index:05d}.parquet", part.convert(5, NO_WATCH, {}), description)
    return shards_of(folder)


@pytest.mark.cluster
@pytest.mark.usefixtures("by_value")
@pytest.mark.usefixtures("ray_here")
def test_files_that_hang_or_kill_are_rejected_alone(tmp_path):
    contents = ["good 1", "hang", "good 2", "die", "bad", "good 3", "hang", "good 4"]
    inputs = StandInFolder(tmp_path / "in", contents)
    start = time.monotonic()
    result = convert(inputs, tmp_path / "out", ConversionConfig(4, 5, timeout_s=1), 2)
    assert time.monotonic() - start < 120  # not the ten minutes of a hang
    assert (result.rows, dict(result.rejected)) == (4, {"TIMEOUT": 2, "FAILED": 1, "INVALID": 1})
    assert rows_of(tmp_path / "out") == ([0, 2, 5, 7], [1, 3, 4, 6])
    reasons = {row: reason for _, row, reason in rejections(tmp_path / "out")}
    assert reasons[1] == "TIMEOUT: not read within 1 s"
    assert reasons[3] == "FAILED: the process that converted it died 3 times"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock",
        "_manifest.json",
        "_rejected.csv",
        "part-00000.parquet",
        "part-00001.parquet",
    ]


@pytest.mark.cluster
@pytest.mark.usefixtures("by_value")
@pytest.mark.usefixtures("ray_here")
def test_workers_that_cannot_start_end_the_conversion(tmp_path, monkeypatch):
    class Stillborn(conversion_pool.ShardWriter):
        def __init__(self, _own):
            os._exit(1)

    monkeypatch.setattr(conversion_pool, "ShardWriter", Stillborn)
    with pytest.raises(ServiceError, match="workers die as they start"):
        convert(SAMPLE, tmp_path / "out", SMALL, 1)
    monkeypatch.undo()
    assert convert(SAMPLE, tmp_path / "out", SMALL, 2).rows == 53


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_here")
def test_files_that_workers_write_have_the_usual_permissions(tmp_path):
    """Workers of a local Ray write for their owner alone."""
    before = os.umask(0o027)
    try:
        convert(FamilySample("hiaml", 20, 0), tmp_path / "a", ConversionConfig(shard_size=10), 2)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a").glob("*.parquet")} == {0o640}


@pytest.mark.cluster
@pytest.mark.usefixtures("by_value")
@pytest.mark.usefixtures("ray_here")
def test_workers_have_one_thread(tmp_path):
    @dataclass(frozen=True)
    class Telling(SampledPart):
        def convert(self, spectrum, watch, skip):
            (tmp_path / "threads").write_text(os.environ["OMP_NUM_THREADS"])
            return SampledPart.convert(self, spectrum, watch, skip)

    class Sample(FamilySample):
        def part(self, index, rows):
            return Telling("hiaml", 0, index, rows, False)

    convert(Sample("hiaml", 3, 0), tmp_path / "out", SMALL, 1)
    assert (tmp_path / "threads").read_text() == "1"


DRIVER = """
import sys
from pathlib import Path
from gennape.platform.conversion.convert import ConversionConfig, convert
from gennape.platform.conversion.inputs import FamilySample
convert(FamilySample("nb101", 4000, 5), Path(sys.argv[1]), ConversionConfig(shard_size=200), 2)
"""


def descendants(pid):
    """Process ids below ``pid``, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def running(pids):
    alive = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            alive.append(pid)
    return alive


def finished_shards(folder):
    manifest = folder / "_manifest.json"
    return len(json.loads(manifest.read_text())["shards"]) if manifest.exists() else 0


@pytest.mark.cluster
@pytest.mark.drill
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="follows processes by /proc")
@pytest.mark.usefixtures("ray_here")
def test_a_killed_driver_loses_and_repeats_nothing(tmp_path):
    """SIGKILL twice in the middle; the third run finishes."""
    to, kept = tmp_path / "out", []
    for goal in (2, 6):
        with subprocess.Popen([sys.executable, "-c", DRIVER, str(to)], cwd=ROOT) as driver:
            try:
                deadline = time.monotonic() + 240
                while finished_shards(to) < goal:
                    assert driver.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            finally:
                below = descendants(driver.pid)
                driver.kill()
        kept.append(finished_shards(to))
        deadline = time.monotonic() + 5
        while running(below) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in running(below):  # workers end with their driver, but two agents of Ray take a minute
            os.kill(pid, signal.SIGKILL)
    assert kept[0] < kept[1] < 20
    (to / ".part-00019.0123abcd.parquet").write_bytes(b"half")
    config = ConversionConfig(shard_size=200)
    result = convert(FamilySample("nb101", 4000, 5), to, config, 2)
    assert (result.rows, result.shards, result.kept) == (4000, 20, kept[1])
    assert rows_of(to) == (list(range(4000)), [])
    whole = convert(FamilySample("nb101", 4000, 5), tmp_path / "whole", config, 2)
    assert whole.kept == 0
    assert shards_of(to) == shards_of(tmp_path / "whole")
    assert {path.name for path in to.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
