"""Which rows of labelled files count in an evaluation, and their subsets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from protocol_cases import TEN, Mean, rows_of

from gennape.errors import InvalidDataError
from gennape.predictors.evaluation.files import benchmarks_in
from gennape.predictors.evaluation.methods import (
    methods_for,
)
from gennape.predictors.evaluation.protocol import (
    ALL,
    Plan,
    draw_labelled,
    measure,
)
from gennape.predictors.evaluation.rows import (
    BENCHMARKS,
    Benchmark,
    build_rows,
    computed_proxies,
    learnt_families,
    read_rows,
    with_proxies,
)
from gennape.predictors.model.checkpoint import identity_numbers
from gennape.search_spaces.families.registry import family


def write_nb201(path: Path, genomes: np.ndarray, accuracy: np.ndarray, **columns: Any) -> None:
    names = [family("nb201").encode(genome) for genome in genomes]
    pd.DataFrame({"arch": names, "c10_test200": accuracy, **columns}).to_csv(path, index=False)


NB201 = next(benchmark for benchmark in BENCHMARKS if benchmark.name == "nb201")


def test_cells_with_none_do_not_count_and_equal_ones_count_once(tmp_path: Path) -> None:
    genomes = np.array([[1] * 6, [0] + [1] * 5, [2] * 6, [1] * 6])
    write_nb201(tmp_path / NB201.file, genomes, np.array([91.0, 92.0, 93.0, 90.0]))
    rows = read_rows(tmp_path, NB201, ())
    assert sorted(rows.labels.accuracy) == [90, 93]
    assert rows.left_out == {"not counted by the papers": 1, "the same architecture again": 1}
    assert rows.tuned


def test_nothing_depends_on_the_order_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    genomes = rng.integers(1, 5, (60, 6))
    accuracy, synflow = rng.uniform(80, 94, 60), rng.random(60)
    found = []
    for order in (np.arange(60), rng.permutation(60)):
        write_nb201(tmp_path / NB201.file, genomes[order], accuracy[order], synflow=synflow[order])
        built = build_rows(read_rows(tmp_path, NB201, ()))
        found.append([m.figures for m in measure(built, methods_for(built, {"m": Mean()}), Plan(5)).measurements])
    assert found[0] == found[1]


def test_rows_that_may_have_been_trained_on_do_not_count(tmp_path: Path) -> None:
    genomes = np.array([[1 + (i >> 2 * b & 3) for b in range(6)] for i in range(300)])
    write_nb201(tmp_path / NB201.file, genomes, np.linspace(80, 94, 300))
    assert len(read_rows(tmp_path, NB201, {"nb301"}).labels.accuracy) == 300
    held_out = read_rows(tmp_path, NB201, {"nb201", "nb101"})
    # Buckets 0 to 9 of 100.
    assert {int(identity[:8], 16) % 100 for identity in held_out.labels.identity} <= set(range(10))
    assert len(held_out.labels.accuracy) + held_out.left_out["may have been trained on"] == 300
    assert not held_out.tuned


def test_what_a_checkpoint_names_as_learnt_does_not_count_and_all_else_does(tmp_path: Path) -> None:
    genomes = np.array([[1 + (i >> 2 * b & 3) for b in range(6)] for i in range(300)])
    write_nb201(tmp_path / NB201.file, genomes, np.linspace(80, 94, 300))
    every = read_rows(tmp_path, NB201, ()).labels.identity
    rows = read_rows(tmp_path, NB201, {"nb201"}, np.sort(identity_numbers(every[:40])))
    assert rows.labels.identity == every[40:]


def test_families_that_a_checkpoint_learnt() -> None:
    assert learnt_families({"family": "nb101"}) == {"nb101"}
    assert learnt_families({"families": ["nb101", "nb201"]}) == {"nb101", "nb201"}
    assert learnt_families({}) == frozenset()


def test_resolutions_and_failures_are_subsets(tmp_path: Path) -> None:
    space = family("ofa_resnet")
    genomes = np.unique(space.sample(np.random.default_rng(0), 40), axis=0)
    table = {"architecture": [json.dumps(space.encode(g)) for g in genomes], "acc": np.linspace(70, 90, len(genomes))}
    pd.DataFrame(table).to_csv(tmp_path / "ofa_resnet.csv.gz", index=False)
    rows = build_rows(read_rows(tmp_path, Benchmark("r", "ofa_resnet.csv.gz", "ofa_resnet", "acc"), ()))
    masks = [mask for name, mask in rows.subsets.items() if name.startswith("resolution")]
    assert list(rows.subsets) == [ALL, "resolution 192", "resolution 208", "resolution 224"]
    assert np.sum(masks, axis=0).tolist() == [1] * len(genomes)


def test_rows_with_all_proxies_are_a_subset() -> None:
    one, two = np.array([1.0] * 8 + [np.nan] * 2), np.array([np.nan] + [1.0] * 9)
    rows = with_proxies(rows_of(TEN), {"one": one})
    assert rows.subsets["with proxies"].tolist() == [True] * 8 + [False] * 2
    assert with_proxies(rows, {"two": two}).subsets["with proxies"].tolist() == [False] + [True] * 7 + [False] * 2
    assert set(with_proxies(rows_of(TEN), {"whole": np.ones(10)}).subsets) == {ALL}


def test_proxies_are_computed_on_a_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    # Computing them is tested elsewhere; these cost nothing.
    proxies = {name: lambda _, images, __: float(len(images)) for name in ("synflow", "jacov", "params")}
    monkeypatch.setattr("gennape.predictors.evaluation.rows.COMPUTED", proxies)
    rows, told = rows_of(TEN, columns={"synflow": np.ones(10)}), []
    found = computed_proxies(rows, 1, np.random.default_rng(0), lambda: told.append(1))
    assert set(found) == {"synflow (computed)", "jacov"}  # parameters are counted on all rows anyhow
    assert len(told) == 1
    (row,) = draw_labelled(rows.identity, 0, 10)[-1:]
    assert {tuple(np.flatnonzero(np.isfinite(column))) for column in found.values()} == {(row,)}


def test_folder_without_a_known_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"holds none of \['nb101.csv.gz'"):
        benchmarks_in(tmp_path)


def test_a_file_without_its_column_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"arch": [family("nb201").encode(np.ones(6, np.int64))], "other": [1.0]}).to_csv(
        tmp_path / NB201.file, index=False
    )
    with pytest.raises(InvalidDataError, match="'c10_test200'"):
        read_rows(tmp_path, NB201, ())
