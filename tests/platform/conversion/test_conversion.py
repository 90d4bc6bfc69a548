"""Conversion to shards: what a shard holds, what becomes of every kind of input, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
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
    write_labels,
)

from gennape.errors import ConfigError, InvalidArchitectureError, InvalidDataError, WorkspaceError
from gennape.platform.conversion import convert as conversion
from gennape.platform.conversion.convert import ConversionConfig, convert
from gennape.platform.conversion.inputs import FamilySample, labelled_file, onnx_folder
from gennape.platform.conversion.parts import Architectures, SampledPart
from gennape.platform.workspace.run_lock import lock_run
from gennape.search_spaces.exporting.onnx import to_onnx
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.cost import macs, params
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.graphs.parquet import read_graphs
from gennape.search_spaces.graphs.spectrum import laplacian_spectra

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def in_process(monkeypatch):
    return write_in_process(monkeypatch)


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


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
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


@pytest.mark.cluster
def test_folders_that_are_not_ours_are_left_alone(in_process, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"holds thesis\.tex and no conversion"):
        convert(SAMPLE, tmp_path / "full", SMALL)
    for manifest in (
        "[]",
        '{"conversion": "x", "shards": {}}',
        '{"conversion": {}, "shards": {"a": {"rows": 1}}}',
        "{}",
    ):
        (tmp_path / "full" / "_manifest.json").write_text(manifest)
        with pytest.raises(ConfigError, match="is of something else"):
            convert(SAMPLE, tmp_path / "full", SMALL)
    with pytest.raises(WorkspaceError, match="give another folder"):
        convert(SAMPLE, tmp_path / "full" / "thesis.tex", SMALL)
    (tmp_path / "busy").mkdir()
    with lock_run(tmp_path / "busy"), pytest.raises(WorkspaceError, match="at work in another process"):
        convert(SAMPLE, tmp_path / "busy", SMALL)
    assert in_process == []


# Labelled files ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
def test_what_a_killed_worker_left_is_gone_at_the_end(tmp_path):
    """A node that was killed last leaves a part of a file that no later call removes."""
    left = [tmp_path / name for name in (".part-00000.1234abcd.parquet", ".part-00000.parquet.note")]

    def follow(_done, _rejected):
        for path in left:
            path.write_bytes(b"PAR1")

    convert(SAMPLE, tmp_path, SMALL, follow=follow)
    assert not any(path.exists() for path in left)


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


@pytest.mark.cluster
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
def test_shards_do_not_depend_on_where_the_folder_is(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place / "below").mkdir(parents=True)
        (tmp_path / place / "below" / "junk.onnx").write_bytes(b"junk")
        convert(onnx_folder(tmp_path / place), tmp_path / f"to-{place}", SMALL)
    assert shards_of(tmp_path / "to-one") == shards_of(tmp_path / "to-two")
    ((source, _, reason),) = rejections(tmp_path / "to-one")
    assert source == "below/junk.onnx"
    assert reason.startswith("INVALID: below/junk.onnx is not an ONNX model")


@pytest.mark.usefixtures("in_process")
def test_names_of_any_bytes_and_any_length_are_written_as_text(tmp_path):
    inputs = StandInFolder(tmp_path / "in", ["good 1", f"lengthy {'n' * 300_000}", "bad", "bug"])
    for row in (0, 2):
        os.rename(tmp_path / "in" / f"{row:02d}.onnx", os.fsencode(tmp_path / "in") + b"/%02d\xe9.onnx" % row)
    inputs = StandInFolder.of(tmp_path / "in")
    result = convert(inputs, tmp_path / "out", SMALL)
    assert (result.rows, dict(result.rejected)) == (1, {"INVALID": 2, "BUG": 1})
    assert read_graphs(tmp_path / "out")[1]["source"].to_pylist() == [r"00\udce9.onnx"]
    found = rejections(tmp_path / "out")
    assert [source for source, _, _ in found] == ["01.onnx", r"02\udce9.onnx", "03.onnx"]
    assert 1000 < len(found[0][2]) < 1100
    assert convert(inputs, tmp_path / "out", SMALL).kept == result.shards


@pytest.mark.usefixtures("in_process")
def test_files_over_the_limit_are_rejected(tmp_path):
    (tmp_path / "in").mkdir()
    export(tmp_path / "in" / "0.onnx", family("hiaml"), 0)
    size = (tmp_path / "in" / "0.onnx").stat().st_size
    assert convert(onnx_folder(tmp_path / "in", size), tmp_path / "a", ConversionConfig()).rows == 1
    assert convert(onnx_folder(tmp_path / "in", size - 1), tmp_path / "b", ConversionConfig()).rows == 0


# Benchmark -----------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.drill
def test_the_benchmark_runs():
    command = [sys.executable, "benchmarks/conversion.py", "--graphs", "60", "--shard-size", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["workers", "seconds", "graphs/s", "efficiency", "MiB", "a", "worker"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert lines[-1] == "same bytes with every number of workers: yes"
