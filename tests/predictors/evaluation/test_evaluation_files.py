"""Which files an evaluation reads, and as what."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from gennape.errors import ConfigError, InvalidDataError
from gennape.predictors.evaluation.files import benchmarks_in
from gennape.predictors.evaluation.rows import build_rows, read_rows
from gennape.search_spaces.families import registry
from gennape.search_spaces.families.nb201 import NasBench201

if TYPE_CHECKING:
    from pathlib import Path

    from gennape.search_spaces.families.space import SearchSpace


class OwnNasBench201(NasBench201):
    """A family that is not shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "mine"


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> SearchSpace:
    monkeypatch.setattr(registry.REGISTRY, "_own", {})
    return registry.register_space(OwnNasBench201())


def write(path: Path, space: SearchSpace, repeated: int = 0, column: str = "accuracy") -> list[float]:
    """Six networks, labelled 60 to 65 %; the first again, labelled 70 %, so many times."""
    genomes = np.unique(space.sample(np.random.default_rng(3), 20), axis=0)[:6]
    texts = [json.dumps(space.encode(genome)) for genome in genomes]
    labels = [60.0 + i for i in range(6)] + [70.0] * repeated
    table = pd.DataFrame({"architecture": texts + texts[:1] * repeated, column: labels, "flops": range(6 + repeated)})
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        content = table.to_csv(index=False).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return labels


@pytest.mark.parametrize("name", ["a.csv", "B.CSV", "a.csv.gz", "a.parquet"])
def test_any_table_of_an_own_family(tmp_path: Path, mine: SearchSpace, name: str) -> None:
    write(tmp_path / name, mine, repeated=1)
    folder, (benchmark,) = benchmarks_in(tmp_path / name, "mine")
    rows = build_rows(read_rows(folder, benchmark, ()))
    assert (rows.benchmark, rows.family, len(rows.graphs)) == (name, "mine", 6)
    # of the network that was trained twice the mean of 60 and 70
    assert sorted(rows.accuracy) == [61.0, 62.0, 63.0, 64.0, 65.0, 65.0]


def test_another_column_is_the_label_if_named(tmp_path: Path, mine: SearchSpace) -> None:
    write(tmp_path / "a.csv", mine, column="kept")
    folder, (benchmark,) = benchmarks_in(tmp_path / "a.csv", "mine", "kept")
    assert read_rows(folder, benchmark, ()).labels.column == "kept"


def test_every_table_of_a_folder_where_a_family_is_given(tmp_path: Path, mine: SearchSpace) -> None:
    for name in ("b.csv", "a.parquet", "ofa_mbv3.csv.gz"):
        write(tmp_path / name, mine)
    (tmp_path / "notes.txt").write_text("no table")
    _, found = benchmarks_in(tmp_path, "mine")
    assert [(one.name, one.family) for one in found] == [(n, "mine") for n in ("a.parquet", "b.csv", "ofa_mbv3.csv.gz")]


def test_other_tables_of_a_folder_that_say_their_family(tmp_path: Path, mine: SearchSpace) -> None:
    """By their name, or by a column; what says none, several or an unknown one is left alone."""
    write(tmp_path / "nb201.csv", NasBench201(), column="c10_test200")
    write(tmp_path / "mine.csv.gz", mine)
    for name, said in {"said.csv": ["mine"], "two.csv": ["mine", "nb201"], "unknown.csv": ["?"]}.items():
        write(tmp_path / name, mine)
        table = pd.read_csv(tmp_path / name)
        table.assign(family=[said[i % len(said)] for i in range(len(table))]).to_csv(tmp_path / name, index=False)
    write(tmp_path / "silent.csv", mine)
    (tmp_path / "broken.csv").write_text('"')
    _, found = benchmarks_in(tmp_path)
    assert [(one.file, one.family) for one in found] == [
        ("nb201.csv", "nb201"), ("mine.csv.gz", "mine"), ("said.csv", "mine"),
    ]  # fmt: skip
    assert len(build_rows(read_rows(tmp_path, found[2], ())).graphs) == 6


@pytest.mark.parametrize("name", ["nb201.csv.gz", "nb201.csv", "nb201.parquet", "nb201.CSV"])
def test_known_names_whatever_their_suffix(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, NasBench201(), column="c10_test200")
    (tmp_path / "other.csv").write_text("not read")
    folder, (in_folder,) = benchmarks_in(tmp_path)
    assert (in_folder.name, in_folder.file, in_folder.column) == ("nb201", name, "c10_test200")
    assert in_folder.keep is not None  # the rows that the papers count
    assert benchmarks_in(tmp_path / name) == (folder, [in_folder])
    assert benchmarks_in(tmp_path / name, "nb201") == (folder, [in_folder])


@pytest.mark.parametrize(
    ("name", "given", "error", "told"),
    [
        ("a.csv", {}, ConfigError, "Give --space"),
        ("a.csv", {"space": "min"}, ConfigError, "did you mean mine"),
        (".", {"space": "mine"}, InvalidDataError, "holds no labelled table"),
        (".", {"column": "x"}, ConfigError, "give it with --space"),
        (".", {}, InvalidDataError, "with --space"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_what_cannot_be_chosen(
    tmp_path: Path, name: str, given: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        benchmarks_in(tmp_path / name, **given)
