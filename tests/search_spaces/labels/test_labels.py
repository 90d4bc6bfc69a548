"""Tables of labels: what is read of them, and what is refused with its row; the split by hash."""

from __future__ import annotations

import bz2
import gzip
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.labels import labelled
from gennape.search_spaces.labels.labels import label_blocks, read_labels, split

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
HEADER = "hash,n_vertices,adj_bits,ops,val108,src\n"
# Edges 0->1 (bit 0) and 1->2 (bit 2): input, one operation, output.
GOOD = "00000005aa,3,5,0,0.9,T\n"
BLOCKS = '"[""hiaml_z"",""hiaml_z"",""hiaml_z"",""hiaml_z""]"'


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Cells as bits -------------------------------------------------------------------------------------------------------


def test_a_cell_by_hand(tmp_path: Path) -> None:
    labels = read_labels(_write(tmp_path / "cells.csv", HEADER + GOOD), family("nb101"))
    architecture = family("nb101").encode(labels.genomes[0])
    assert architecture == {
        "matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
        "ops": ["input", "conv3x3-bn-relu", "output"],
    }
    assert labels.accuracy.tolist() == [90.0]
    assert labels.column == "val108"


def test_split_by_hash_sample_and_pick(tmp_path: Path) -> None:
    # Buckets: 5 -> test, 12 (0xc) -> validation, 50 (0x32) -> training.
    rows = [("00000005", "T", 2), ("0000000c", "T", 1), ("00000032", "T", 0)]
    rows += [("00000005", "TP", -1), ("00000032", "TE", 0), ("00000032", "P", -1), ("00000005", "S", -1)]
    text = HEADER + "".join(f"{digest},3,5,0,0.9,{source}\n" for digest, source, _ in rows)
    labels = read_labels(_write(tmp_path / "cells.csv", text), family("nb101"))
    assert split(labels).tolist() == [part for *_, part in rows]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00000005,3,5,x,0.9,T\n", "row 2: ops is 'x'"),
        ("00000005,3,5,7,0.9,T\n", "row 2: nb101 .*operation of vertex 1"),
        ("zebra,3,5,0,0.9,T\n", "row 2: hash is 'zebra'"),
        ("00000005,3,5,0,high,T\n", "row 2: val108 is 'high'"),
        ("00000005,3,5,0,,T\nzebra,3,5,0,0.9,T\n", "row 3: hash is 'zebra'"),
        ("00000005,4,5,0,0.9,T\n", "do not match its n_vertices"),
        ("00000005,3,7,0,0.9,E\n00000005,3,65,0,0.9,E\n", "row 3: adj_bits is"),
        ("00000005,3,1,0,0.9,T\n", "row 2: adj_bits is"),
        ("00000005,3,many,0,0.9,T\n", "row 2: adj_bits is 'many'"),
        ("00000005,3,-5,0,0.9,T\n", "row 2: adj_bits is"),
        ("00000005,3,,0,0.9,T\n", "row 2: adj_bits is"),
        ("00000005,3,2097157,0,0.9,T\n", "row 2: adj_bits is"),  # bit 21, beyond the matrix
    ],
)
def test_a_bad_cell_is_refused(tmp_path: Path, row: str, message: str) -> None:
    path = _write(tmp_path / "cells.csv", HEADER + GOOD + row)
    with pytest.raises(InvalidDataError, match=message):
        read_labels(path, family("nb101"))
    heard: list[str] = []
    assert len(read_labels(path, family("nb101"), rejected=heard.append).genomes) == 1 + ("65" in row)
    assert len(heard) == 1


def test_a_row_of_no_stated_source_belongs_to_no_sample(tmp_path: Path) -> None:
    labels = read_labels(_write(tmp_path / "cells.csv", HEADER + GOOD + "00000032,3,5,0,0.9,\n"), family("nb101"))
    assert labels.sampled.tolist() == [True, False]


def test_a_cell_with_a_dead_end_is_the_cell_without_it(tmp_path: Path) -> None:
    space = family("nb101")
    # Edges 0->1 (a dead end), 0->2 and 2->3, both operations 3x3 convolutions; and 0->1, 1->2.
    dead = read_labels(_write(tmp_path / "a.csv", HEADER + "00000005,4,35,00,0.9,T\n"), space)
    alive = read_labels(_write(tmp_path / "b.csv", HEADER + "00000005,3,5,0,0.9,T\n"), space)
    np.testing.assert_array_equal(dead.genomes, alive.genomes)
    written = np.zeros_like(dead.genomes[0])
    written[[0, 1, 5]] = 1
    assert space.encode(written) == space.encode(alive.genomes[0])
    assert space.graph(written) == space.graph(alive.genomes[0])


def test_both_forms_of_the_same_cell_agree(tmp_path: Path) -> None:
    space = family("nb101")
    cells = read_labels(_write(tmp_path / "a.csv", HEADER + GOOD), space)
    cell = '{""matrix"":[[0,1,0],[0,0,1],[0,0,0]],""ops"":[""input"",""conv3x3-bn-relu"",""output""]}'
    architectures = read_labels(_write(tmp_path / "b.csv", f'architecture,acc\n"{cell}",90\n'), space)
    np.testing.assert_array_equal(cells.genomes, architectures.genomes)
    assert cells.accuracy.tolist() == architectures.accuracy.tolist()


# One architecture a row ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accuracy", ["", "good", "inf"])
def test_an_accuracy_that_is_no_number_is_refused(tmp_path: Path, accuracy: str) -> None:
    path = _write(tmp_path / "blocks.csv", f"architecture,acc\n{BLOCKS},91\n{BLOCKS},{accuracy}\n")
    with pytest.raises(InvalidDataError, match="row 2: acc is"):
        read_labels(path, family("hiaml"))
    heard: list[str] = []
    assert read_labels(path, family("hiaml"), rejected=heard.append).accuracy.tolist() == [91]
    assert len(heard) == 1


@pytest.mark.parametrize("text", ['"[""hiaml_x""]"', "nothing", "", '"{"', "[[[["])
def test_an_architecture_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path / "blocks.csv", f"architecture,acc\n{BLOCKS},91\n{text},92\n")
    with pytest.raises(InvalidDataError, match="row 2: hiaml: "):
        read_labels(path, family("hiaml"))


def _table() -> pd.DataFrame:
    space = family("hiaml")
    genomes = space.sample(np.random.default_rng(0), 10)
    texts = [json.dumps(space.encode(genome)) for genome in genomes]
    return pd.DataFrame(
        {"architecture": texts, "top1": np.linspace(90, 93, 10), "latency": np.arange(10.0), "note": "x"}
    )


WRITERS: dict[str, Any] = {
    ".csv": lambda path: _table().to_csv(path, index=False),
    ".csv.gz": lambda path: _table().to_csv(path, index=False),
    ".csv.bz2": lambda path: _table().to_csv(path, index=False),
    ".parquet": lambda path: _table().to_parquet(path),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_form_of_a_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    WRITERS[suffix](path)
    space = family("hiaml")
    labels = read_labels(path, space)
    assert [json.dumps(space.encode(genome)) for genome in labels.genomes] == _table()["architecture"].tolist()
    assert (labels.column, labels.accuracy.tolist()) == ("top1", np.linspace(90, 93, 10).tolist())
    assert read_labels(path, space, "latency").accuracy.tolist() == labels.table["latency"].tolist() == list(range(10))
    assert labels.sampled.all()
    with pytest.raises(InvalidDataError, match=r"no column of numbers 'flops'; name one of \['top1', 'latency'\]"):
        read_labels(path, space, "flops")
    with pytest.raises(InvalidDataError, match=r"row 1: note is 'x'"):
        read_labels(path, space, "note")


def test_rows_keep_their_numbers_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gennape.search_spaces.labels.labels import table

    monkeypatch.setattr(table, "BLOCK", 3)
    monkeypatch.setattr(labelled, "BLOCK", 2)
    path = tmp_path / "labels.csv"
    _table().to_csv(path, index=False)
    space = family("hiaml")
    assert [len(block.genomes) for block in label_blocks(path, space)] == [2, 1, 2, 1, 2, 1, 1]
    text = path.read_text().splitlines()
    text[8] = text[8].replace("hiaml", "haiml")
    path.write_text("\n".join(text) + "\n")
    with pytest.raises(InvalidDataError, match="row 8: hiaml"):
        read_labels(path, space)


def test_fractions_are_told_from_percent(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", f"architecture,acc\n{BLOCKS},0.91\n{BLOCKS},0.92\n")
    with pytest.raises(InvalidDataError, match=r"acc lies between 0.91 and 0.92; accuracies are in percent"):
        read_labels(path, family("hiaml"))


@pytest.mark.parametrize("accuracy", ["101", "-5"])
def test_what_is_no_percentage_is_refused(tmp_path: Path, accuracy: str) -> None:
    path = _write(tmp_path / "a.csv", f"architecture,acc,ms\n{BLOCKS},91,{accuracy}\n{BLOCKS},{accuracy},3\n")
    with pytest.raises(InvalidDataError, match=rf"row 2: acc is {accuracy}; accuracies are in percent, 0 to 100"):
        read_labels(path, family("hiaml"))
    told: list[str] = []
    assert read_labels(path, family("hiaml"), rejected=told.append).accuracy.tolist() == [91]
    assert ["row 2: acc is" in reason for reason in told] == [True]
    # Other columns may hold anything.
    assert read_labels(path, family("hiaml"), "ms").accuracy.tolist() == [float(accuracy), 3.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read .*: it is empty"),
        (b"architecture,acc\n", "needs rows"),
        (b"acc\n91\n", "needs a column 'architecture'; has"),
        (b'architecture,acc\n"[,91\n', "cannot read .* as CSV"),
        (b"architecture,acc\n\xff\xfe,91\n", "as CSV: it is not UTF-8, but has a byte 0xff; save it as UTF-8$"),
        ("architecture,acc\na,91\n".encode("utf-16"), "it is not UTF-8, but has a byte 0xff; save it as UTF-8$"),
        (b"a,b\n1,2\n1,2,3,4\n", "as CSV: line 3 has 4 fields, the others 2; put texts in quotes$"),
        (b'architecture,acc\na,91\n"b,91\n', "row 2 opens a quote that is never closed; close it$"),
        (b"\n\n\n", "it has only empty lines; name the columns in the first$"),
        (b"architecture;acc\na;91\n", "its columns are separated by semicolons; save it with commas$"),
        (b"architecture\tacc\na\t91\n", "its columns are separated by tabs; save it with commas$"),
        (b"architecture,acc,acc\na,91,1\n", "the column 'acc' occurs more than once; keep one, or rename"),
        (
            b"architecture,score\na,91\n",
            r"name one of \['score'\] by --column; for a verb without, rename it to 'acc'$",
        ),
        (b"architecture,acc\na,b,91\n", "more fields than the header; put fields with commas in quotes"),
        (b"architecture,what\na,b\n", r"accuracies \(acc, accuracy, .*\); the file has no column of numbers"),
        (gzip.compress(b"architecture,acc\n" * 1000, mtime=0)[:-20], "cannot be read"),
        (bz2.compress(bytes(1000))[:-9], "cannot be read"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidDataError, match=message):
        read_labels(path, family("hiaml"))


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and so on PAR1")
    with pytest.raises(InvalidDataError, match="as Parquet"):
        read_labels(path, family("hiaml"))


def test_every_damaged_byte_of_a_parquet_footer_is_an_error_or_data(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    WRITERS[".parquet"](path)
    data = path.read_bytes()
    for at in range(len(data) - 1200, len(data), 7):
        path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
        with suppress(InvalidDataError):
            read_labels(path, family("hiaml"))


def test_what_is_not_there_or_unknown(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="does not exist"):
        read_labels(tmp_path / "a.csv", family("hiaml"))
    with pytest.raises(InvalidDataError, match=r"none of the known formats: table: .*NAS-Bench-101: "):
        read_labels(_write(tmp_path / "a.txt", "text"), family("hiaml"))


# The labels that this project is tried on -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "space", "column", "rows", "lowest", "highest"),
    [
        ("nb101", "nb101", None, 25267, 9, 95),
        ("nb201", "nb201", "c10_test200", 10000, 10, 95),
        ("nb301", "nb301", None, 3000, 85, 95),
        ("ofa_mbv3", "ofa_mbv3", None, 7000, 73, 80),
        ("ofa_mbv3_profile", "ofa_mbv3", None, 4000, 73, 80),
        ("ofa_mbv3_latency", "ofa_mbv3", "2080ti_1", 4000, 1, 100),
        ("proxylessnas", "proxylessnas", None, 5000, 71, 78),
        ("ofa_resnet", "ofa_resnet", None, 2000, 71, 80),
    ],
)
def test_shared_labels(name: str, space: str, column: str | None, rows: int, lowest: float, highest: float) -> None:
    path = SHARED / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: it is not part of this repository")
    labels = read_labels(path, family(space), column)
    assert len(labels.genomes) == len(labels.identity) == len(labels.table) == rows
    assert lowest <= labels.accuracy.min() < labels.accuracy.max() <= highest
    family(space).validate(labels.genomes)
    share = np.bincount(split(labels)[labels.sampled] + 1, minlength=4)[1:] / max(labels.sampled.sum(), 1)
    assert (np.abs(share - [0.85, 0.05, 0.10]) < 0.02).all()


def test_shared_latencies_have_no_accuracy_to_fall_back_on() -> None:
    path = SHARED / "ofa_mbv3_latency.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: it is not part of this repository")
    with pytest.raises(InvalidDataError, match=r"no usual column of accuracies .*; name one of .*'2080ti_1'"):
        read_labels(path, family("ofa_mbv3"))
