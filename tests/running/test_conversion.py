"""Conversion to shards: what a shard holds, going on after any interruption, and what becomes of bad input.

Without Ray where the logic can be tested so; workers and drivers are killed for real in the tests marked ``cluster``.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gennape.errors import ConfigError, InvalidArchitectureError, InvalidDataError, ServiceError, WorkspaceError
from gennape.jobs.convert import convert as convert_verb
from gennape.platform import conversion, conversion_pool
from gennape.platform.cluster import local_ray
from gennape.platform.conversion import ConversionConfig, convert
from gennape.platform.conversion_inputs import FamilySample, labelled_file, onnx_folder
from gennape.platform.conversion_parts import Architectures, OnnxPart, SampledPart, Watch, read_note
from gennape.platform.conversion_pool import write_shard
from gennape.platform.runs import lock_run
from gennape.search_spaces.canonical import canonical_hashes
from gennape.search_spaces.cost import macs, params
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graph import pack
from gennape.search_spaces.module import compile_graph
from gennape.search_spaces.onnx_export import to_onnx
from gennape.search_spaces.parquet import read_graphs
from gennape.search_spaces.spectrum import laplacian_spectra

ROOT = Path(__file__).resolve().parents[2]
NO_WATCH = Watch(Path("unused"), 60)
SAMPLE = FamilySample("hiaml", 53, 3)
SMALL = ConversionConfig(spectrum=5, shard_size=10)
app = typer.Typer()
app.command("convert")(convert_verb)
app.command("other")(lambda: None)


class Stop(Exception):
    """Stands for whatever ends a process."""


def shards_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def rejections(folder):
    with (folder / "_rejected.csv").open(newline="") as file:
        return [(r["source"], int(r["row"]) if r["row"] else None, r["reason"]) for r in csv.DictReader(file)]


def rows_of(folder):
    """Rows that became graphs and rejected rows, each in the order of the files."""
    return read_graphs(folder)[1]["row"].to_pylist(), [row for _, row, _ in rejections(folder)]


@pytest.fixture
def in_process(monkeypatch):
    """Shards are written in this process, one after another; yields the names of those begun."""
    begun = []

    def write_jobs(jobs, _workers, spectrum, what):
        for job in jobs:
            begun.append(job.path.name)
            part = job.inputs.part(job.index, job.rows)
            yield job, write_shard(job.path, part.convert(spectrum, job.watch, {}), json.dumps(what, sort_keys=True)), 0

    monkeypatch.setattr(conversion, "write_jobs", write_jobs)
    monkeypatch.setattr(conversion, "local_ray", lambda *_: nullcontext())
    monkeypatch.setattr(conversion, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0}))
    return begun


@pytest.fixture(scope="module")
def ray_here():
    with local_ray(num_cpus=2):
        yield


@pytest.fixture
def by_value():
    """What this file defines travels to workers whole: they cannot import a test."""
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


# What a shard holds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
@pytest.mark.parametrize("published", [False, True], ids=["network", "published"])
def test_columns_are_those_of_the_graphs(space, published):
    genomes = space.sample(np.random.default_rng(0), 4)[[0, 1, 2, 0, 3]]
    part = Architectures(space.name, "here", genomes, {"accuracy": np.arange(5.0)}, range(10, 15), published)
    converted = part.convert(7, NO_WATCH, {})
    expected = pack([space.graph(genome, published) for genome in genomes])
    assert np.array_equal(converted.graphs.nodes, expected.nodes)
    assert np.array_equal(converted.graphs.edges, expected.edges)
    columns = {name: values.to_pylist() for name, values in converted.columns.items()}
    assert columns["family"] == [space.name] * 5
    assert [space.decode(json.loads(text)).tolist() for text in columns["architecture"]] == genomes.tolist()
    assert columns["hash"] == canonical_hashes(expected)
    assert columns["macs"] == macs(expected).tolist()
    assert columns["params"] == params(expected).tolist()
    assert columns["row"] == [10, 11, 12, 13, 14]
    assert columns["accuracy"] == [0, 1, 2, 3, 4]
    assert set(columns["source"]) == {"here"}
    np.testing.assert_allclose(columns["spectrum"], laplacian_spectra(expected, 7), atol=1e-6)
    assert converted.rejected == []


def test_what_a_family_refuses_is_rejected_and_the_rest_stays_in_order(monkeypatch):
    space = family("hiaml")
    genomes = space.sample(np.random.default_rng(0), 6)
    bad = genomes[2].tolist()
    original = type(space).emit

    def emit(self, b, genome):
        if genome.tolist() == bad:
            raise InvalidArchitectureError("of no use, really")
        return original(self, b, genome)

    monkeypatch.setattr(type(space), "emit", emit)
    part = Architectures("hiaml", "file", genomes, {"label.x": np.arange(6)}, range(6), False)
    converted = part.convert(3, NO_WATCH, {4: "FAILED: before"})
    assert converted.columns["row"].to_pylist() == converted.columns["label.x"].to_pylist() == [0, 1, 3, 5]
    assert [(r.row, r.reason) for r in converted.rejected] == [
        (2, "INVALID: of no use, really"),
        (4, "FAILED: before"),
    ]
    assert canonical_hashes(converted.graphs) == canonical_hashes(space.graphs(genomes[[0, 1, 3, 5]]))


def test_a_part_that_is_all_skipped_is_not_drawn_and_has_every_column(monkeypatch):
    part = SampledPart("hiaml", 0, 0, range(3), False)
    normal = part.convert(4, NO_WATCH, {})
    monkeypatch.setattr(type(family("hiaml")), "sample", lambda *_: pytest.fail("this is what kills workers"))
    empty = part.convert(4, NO_WATCH, dict.fromkeys(range(3), "FAILED: x"))
    assert len(empty.graphs) == 0
    assert [r.row for r in empty.rejected] == [0, 1, 2]
    assert {n: v.type for n, v in empty.columns.items()} == {n: v.type for n, v in normal.columns.items()}


@pytest.mark.usefixtures("in_process")
def test_other_readers_take_the_folder(tmp_path):
    convert(SAMPLE, tmp_path, SMALL)
    assert pd.read_parquet(tmp_path)["row"].tolist() == list(range(53))


def test_shards_of_one_seed_differ_and_of_another_too():
    def hashes(seed, index):
        return SampledPart("ofa_mbv3", seed, index, range(20), False).convert(2, NO_WATCH, {}).columns["hash"]

    assert hashes(0, 0) == hashes(0, 0)
    assert not set(hashes(0, 0).to_pylist()) & set(hashes(0, 1).to_pylist())
    assert not set(hashes(0, 0).to_pylist()) & set(hashes(1, 0).to_pylist())


# Interruptions -------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, 5), max_size=4), damaged=st.sets(st.integers(0, 5), max_size=3))
def test_any_interruptions_give_the_same_bytes(in_process, tmp_path_factory, stops, damaged):
    whole, cut = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cut")
    result = convert(SAMPLE, whole, SMALL)
    assert (result.rows, result.shards, result.kept) == (53, 6, 0)
    assert rows_of(whole) == (list(range(53)), [])

    for shards in stops:

        def follow(done, _rejected, left=[shards + 1]):  # noqa: B006
            left[0] -= bool(done)
            if left[0] == 0:
                raise Stop

        try:
            convert(SAMPLE, cut, SMALL, follow=follow)
        except Stop:
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


@pytest.mark.parametrize(
    ("other", "config", "what"),
    [
        (FamilySample("hiaml", 54, 3), SMALL, "sample was 53, now 54"),
        (FamilySample("hiaml", 53, 4), SMALL, "seed was 3, now 4"),
        (FamilySample("nb101", 53, 3), SMALL, "space was 'hiaml', now 'nb101'"),
        (FamilySample("hiaml", 53, 3, published=True), SMALL, "published was False, now True"),
        (SAMPLE, ConversionConfig(5, 11), "shard_size was 10, now 11"),
        (SAMPLE, ConversionConfig(6, 10), "spectrum was 5, now 6"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_another_conversion_is_refused(tmp_path, other, config, what):
    convert(SAMPLE, tmp_path, SMALL)
    before = shards_of(tmp_path)
    with pytest.raises(ConfigError, match=rf"holds another conversion: {what}.*another folder"):
        convert(other, tmp_path, config)
    assert shards_of(tmp_path) == before


@pytest.mark.usefixtures("in_process")
def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "commit", lambda: "a" * 40)
    convert(SAMPLE, tmp_path, SMALL)
    monkeypatch.setattr(conversion, "commit", lambda: "b" * 40)
    with pytest.raises(ConfigError, match=r"commit was 'a+', now 'b+'"):
        convert(SAMPLE, tmp_path, SMALL)


def test_folders_that_are_not_ours_are_left_alone(in_process, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex and no conversion"):
        convert(SAMPLE, tmp_path / "full", SMALL)
    (tmp_path / "full" / "_manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match="is of something else"):
        convert(SAMPLE, tmp_path / "full", SMALL)
    with pytest.raises(WorkspaceError, match="give another folder"):
        convert(SAMPLE, tmp_path / "full" / "thesis.tex", SMALL)
    (tmp_path / "busy").mkdir()
    with lock_run(tmp_path / "busy"), pytest.raises(WorkspaceError, match="at work in another process"):
        convert(SAMPLE, tmp_path / "busy", SMALL)
    assert in_process == []


# Labelled files ------------------------------------------------------------------------------------------------------


def write_labels(path, n):
    space = family("hiaml")
    genomes = space.sample(np.random.default_rng(1), n)
    table = {
        "architecture": [json.dumps(space.encode(genome)) for genome in genomes],
        "acc": np.linspace(80, 90, n),
        "epochs": np.arange(n),
        "text": ["a"] * n,
    }
    pd.DataFrame(table).to_csv(path, index=False)
    return space, genomes


@pytest.mark.usefixtures("in_process")
def test_labels_travel_with_their_graphs(tmp_path):
    space, genomes = write_labels(tmp_path / "labels.csv", 25)
    inputs = labelled_file(tmp_path / "labels.csv", "hiaml")
    result = convert(inputs, tmp_path / "out", SMALL)
    assert (result.rows, result.shards, result.rejected.total()) == (25, 3, 0)
    graphs, table = read_graphs(tmp_path / "out")
    assert canonical_hashes(graphs) == canonical_hashes(space.graphs(genomes)) == table["hash"].to_pylist()
    np.testing.assert_allclose(table["accuracy"].to_numpy(), np.linspace(80, 90, 25))
    assert table["label.epochs"].to_pylist() == list(range(25))
    assert "label.text" not in table.column_names
    assert set(table["source"].to_pylist()) == {"labels.csv"}


@pytest.mark.usefixtures("in_process")
def test_rows_that_cannot_be_read_are_in_the_report(tmp_path):
    write_labels(tmp_path / "labels.csv", 6)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    lines[2] = '"[""no"", ""such""]",80.0,1,a'
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    result = convert(labelled_file(tmp_path / "labels.csv", "hiaml"), tmp_path / "out", SMALL)
    assert (result.rows, dict(result.rejected)) == (5, {"INVALID": 1})
    ((source, row, reason),) = rejections(tmp_path / "out")
    assert (source, row) == ("labels.csv", None)
    assert "row 2" in reason
    with (tmp_path / "labels.csv").open("a") as file:
        file.write(lines[1] + "\n")
    with pytest.raises(ConfigError, match="sha256 was"):
        convert(labelled_file(tmp_path / "labels.csv", "hiaml"), tmp_path / "out", SMALL)


# ONNX files ----------------------------------------------------------------------------------------------------------


def read_stand_in(path, max_bytes):
    """Does what the file says: a graph, an error, a hang that nothing in Python can end, a death."""
    import ctypes

    word, _, number = path.read_text().partition(" ")
    if word == "hang":
        ctypes.PyDLL(None).sleep(600)  # keeps the interpreter's lock
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "bad":
        raise InvalidDataError('no model, "really";\nnothing at all')
    if word == "bug":
        raise KeyError("lost")
    assert max_bytes == 2**31 - 1
    space = family("hiaml")
    return space.graph(space.sample(np.random.default_rng(int(number)), 1)[0])


@dataclass(frozen=True)
class StandInPart(OnnxPart):
    """Files read by :func:`read_stand_in`."""

    def convert(self, spectrum, watch, skip):
        module = ModuleType("gennape.search_spaces.onnx_import")
        module.read_onnx = read_stand_in
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, module.__name__, module)
            return OnnxPart.convert(self, spectrum, watch, skip)


class StandInFolder:
    """A folder whose files are read by :func:`read_stand_in`."""

    def __init__(self, folder, contents):
        folder.mkdir()
        for index, content in enumerate(contents):
            (folder / f"{index:02d}.onnx").write_text(content)
        self.inner = onnx_folder(folder)
        self.unread = ()

    def __len__(self):
        return len(self.inner)

    def describe(self):
        return self.inner.describe()

    def part(self, index, rows):
        part = self.inner.part(index, rows)
        return StandInPart(part.folder, part.names, part.rows, part.max_bytes)


@pytest.mark.usefixtures("in_process")
def test_bad_files_are_rejected_with_reasons(tmp_path):
    inputs = StandInFolder(tmp_path / "in", ["good 1", "bad", "good 2", "bug", "good 3"])
    result = convert(inputs, tmp_path / "out", ConversionConfig(spectrum=4, shard_size=2))
    assert (result.rows, dict(result.rejected)) == (3, {"INVALID": 1, "BUG": 1})
    assert rows_of(tmp_path / "out") == ([0, 2, 4], [1, 3])
    assert rejections(tmp_path / "out") == [
        ("01.onnx", 1, 'INVALID: no model, "really";\nnothing at all'),
        ("03.onnx", 3, "BUG: KeyError: 'lost'"),
    ]
    _, table = read_graphs(tmp_path / "out")
    assert table["source"].to_pylist() == ["00.onnx", "02.onnx", "04.onnx"]
    assert table["family"].null_count == table["architecture"].null_count == 3
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.endswith(".note")]


def test_notes_of_the_dead(tmp_path):
    note = tmp_path / "note"
    assert read_note(note) == (None, False)
    note.write_text("17\n")
    assert read_note(note) == (17, False)
    note.write_text("17\nTimeout (0:00:01)!\nThread 0x1\n")
    assert read_note(note) == (17, True)
    note.write_text("")
    assert read_note(note) == (None, False)


def test_folders_of_onnx_files(tmp_path):
    with pytest.raises(InvalidDataError, match=r"no \*\.onnx file"):
        onnx_folder(tmp_path)
    (tmp_path / "b" / "c.onnx").mkdir(parents=True)
    for name in ("z.onnx", "b/a.ONNX", "b/note.txt", "b/c.onnx/d.onnx"):
        (tmp_path / name).write_text(name)
    (tmp_path / "gone.onnx").symlink_to(tmp_path / "nowhere")
    inputs = onnx_folder(tmp_path)
    assert inputs.names == ("b/a.ONNX", "b/c.onnx/d.onnx", "gone.onnx", "z.onnx")
    before = inputs.describe()
    (tmp_path / "z.onnx").write_text("longer than before")
    assert inputs.describe() != before


def export(path, space, seed):
    graph = space.graph(space.sample(np.random.default_rng(seed), 1)[0])
    to_onnx(graph, compile_graph(graph), path)
    return graph


@pytest.mark.usefixtures("in_process")
def test_real_onnx_files(tmp_path):
    (tmp_path / "in").mkdir()
    graphs = [export(tmp_path / "in" / f"{i}.onnx", family("hiaml"), i) for i in range(2)]
    whole = (tmp_path / "in" / "0.onnx").read_bytes()
    (tmp_path / "in" / "2.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "3.onnx").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "4.onnx").write_bytes(b"")
    result = convert(onnx_folder(tmp_path / "in"), tmp_path / "out", ConversionConfig())
    _, table = read_graphs(tmp_path / "out")
    assert table["hash"].to_pylist() == canonical_hashes(pack(graphs))
    assert table["macs"].to_pylist() == macs(pack(graphs)).tolist()
    assert (result.rows, dict(result.rejected)) == (2, {"INVALID": 3})
    assert all(f"{row}.onnx" in reason for _, row, reason in rejections(tmp_path / "out"))


@pytest.mark.usefixtures("in_process")
def test_files_over_the_limit_are_rejected(tmp_path):
    (tmp_path / "in").mkdir()
    export(tmp_path / "in" / "0.onnx", family("hiaml"), 0)
    size = (tmp_path / "in" / "0.onnx").stat().st_size
    assert convert(onnx_folder(tmp_path / "in", size), tmp_path / "a", ConversionConfig()).rows == 1
    assert convert(onnx_folder(tmp_path / "in", size - 1), tmp_path / "b", ConversionConfig()).rows == 0


# The verb ------------------------------------------------------------------------------------------------------------


def call(*arguments):
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.usefixtures("in_process")
def test_the_verb(tmp_path):
    command = ["--space", "hiaml", "--sample", 30, "--shard-size", 20, "--spectrum", 3, "--to", tmp_path / "out"]
    assert "30 graphs in 2 files:" in call(*command).output
    assert "30 graphs in 2 files, 2 of them before" in call(*command).output
    assert read_graphs(tmp_path / "out")[1]["spectrum"].type.list_size == 3
    write_labels(tmp_path / "labels.csv", 4)
    labelled = call("--space", "hiaml", "--labels", tmp_path / "labels.csv", "--to", tmp_path / "labelled")
    assert "4 graphs in 1 files" in labelled.output
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.onnx").write_bytes(b"rubbish")
    assert "1 rejected (1 INVALID)" in call("--onnx", tmp_path / "in", "--to", tmp_path / "onnx").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one of --sample N, --labels FILE and --onnx FOLDER"),
        (["--sample", "5", "--onnx", "x"], "Give one of"),
        (["--sample", "5"], "Give --space"),
        (["--space", "nb102", "--sample", "5"], "unknown search space 'nb102'"),
        (["--onnx", "x", "--space", "nb101"], "leave out --space"),
        (["--onnx", "missing"], "holds no"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_wrong_commands_start_nothing(tmp_path, arguments, message):
    with pytest.raises((ConfigError, InvalidDataError), match=message):
        call(*arguments, "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("in_process")
def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(conversion, "write_jobs", interrupted)
    result = call("--space", "hiaml", "--sample", 5, "--to", tmp_path / "out")
    assert result.exit_code == 130
    assert "repeat the command" in result.output


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
    assert len((tmp_path / "deaths" / "3").read_text()) == conversion_pool.DEATHS
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
        def __init__(self):
            os._exit(1)

    monkeypatch.setattr(conversion_pool, "ShardWriter", Stillborn)
    with pytest.raises(ServiceError, match="workers die as they start"):
        convert(SAMPLE, tmp_path / "out", SMALL, 1)
    monkeypatch.undo()
    assert convert(SAMPLE, tmp_path / "out", SMALL, 2).rows == 53


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
from gennape.platform.conversion import ConversionConfig, convert
from gennape.platform.conversion_inputs import FamilySample
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


@pytest.mark.cluster
def test_the_benchmark_runs():
    command = [sys.executable, "benchmarks/conversion.py", "--graphs", "60", "--shard-size", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["workers", "seconds", "graphs/s", "efficiency", "MiB", "a", "worker"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert lines[-1] == "same bytes with every number of workers: yes"
