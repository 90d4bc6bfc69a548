"""Labelled files: what is read of them, and what is refused with its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.labels import read_architectures, read_labels, read_nb101, split

HEADER = "hash,n_vertices,adj_bits,ops,val108,src\n"
# Edges 0->1 (bit 0) and 1->2 (bit 2): input, one operation, output.
GOOD = "00000005aa,3,5,0,0.9,T\n"


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_cell_by_hand(tmp_path: Path) -> None:
    labels = read_nb101(_write(tmp_path / "cells.csv", HEADER + GOOD))
    architecture = family("nb101").encode(labels.genomes[0])
    assert architecture == {
        "matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
        "ops": ["input", "conv3x3-bn-relu", "output"],
    }
    assert labels.accuracy.tolist() == [90.0]


def test_split_by_hash_sample_and_pick(tmp_path: Path) -> None:
    # Buckets: 5 -> test, 12 (0xc) -> validation, 50 (0x32) -> training.
    rows = [("00000005", "T", 2), ("0000000c", "T", 1), ("00000032", "T", 0)]
    rows += [("00000005", "TP", -1), ("00000032", "TE", 0), ("00000032", "P", -1), ("00000005", "S", -1)]
    text = HEADER + "".join(f"{digest},3,5,0,0.9,{source}\n" for digest, source, _ in rows)
    assert split(read_nb101(_write(tmp_path / "cells.csv", text))).tolist() == [part for *_, part in rows]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00000005,3,5,x,0.9,T\n", "row 2: ops is 'x'"),
        ("00000005,3,5,7,0.9,T\n", "operation of vertex 1"),
        ("zebra,3,5,0,0.9,T\n", "row 2: hash is 'zebra'"),
        ("00000005,3,5,0,high,T\n", "row 2: val108 is 'high'"),
        ("00000005,3,5,0,,T\nzebra,3,5,0,0.9,T\n", "row 3: hash is 'zebra'"),
        ("00000005,4,5,0,0.9,T\n", "do not fit its n_vertices"),
        ("00000005,3,7,0,0.9,E\n00000005,3,65,0,0.9,E\n", "row 3: adj_bits is"),
        ("00000005,3,1,0,0.9,T\n", "row 2: adj_bits is"),
    ],
)
def test_a_bad_cell_is_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        read_nb101(_write(tmp_path / "cells.csv", HEADER + GOOD + row))


def test_a_row_of_no_stated_source_belongs_to_no_sample(tmp_path: Path) -> None:
    labels = read_nb101(_write(tmp_path / "cells.csv", HEADER + GOOD + "00000032,3,5,0,0.9,\n"))
    assert labels.sampled.tolist() == [True, False]


@pytest.mark.parametrize("accuracy", ["", "good", "inf"])
def test_an_accuracy_that_is_no_number_is_refused(tmp_path: Path, accuracy: str) -> None:
    block = '"[""hiaml_z"",""hiaml_z"",""hiaml_z"",""hiaml_z""]"'
    path = _write(tmp_path / "blocks.csv", f"architecture,acc\n{block},91\n{block},{accuracy}\n")
    with pytest.raises(InvalidDataError, match="row 2: acc is"):
        read_architectures(path, family("hiaml"))


def test_both_forms_of_the_same_cell_agree(tmp_path: Path) -> None:
    space = family("nb101")
    cells = read_labels(_write(tmp_path / "a.csv", HEADER + GOOD), space)
    cell = '{""matrix"":[[0,1,0],[0,0,1],[0,0,0]],""ops"":[""input"",""conv3x3-bn-relu"",""output""]}'
    text = f'architecture,acc\n"{cell}",90\n'
    architectures = read_labels(_write(tmp_path / "b.csv", text), space)
    np.testing.assert_array_equal(cells.genomes, architectures.genomes)
    assert cells.accuracy.tolist() == architectures.accuracy.tolist()
