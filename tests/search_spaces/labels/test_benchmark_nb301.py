"""Runs of NAS-Bench-301, made here in their published form."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.nb301 import configuration
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.labels.labels import read_labels, reader_of, split

SPACE = family("nb301")
GENOMES = np.unique(SPACE.sample(np.random.default_rng(0), 3), axis=0)


def a_run(number: int, **changes: Any) -> dict[str, Any]:
    config = {
        **configuration(GENOMES[number]),
        "NetworkSelectorDatasetInfo:darts:init_channels": 32,
        "NetworkSelectorDatasetInfo:darts:layers": 8,
        "OptimizerSelector:optimizer": "sgd",
    }
    info = {"val_accuracy": 93.0 + number, "train_accuracy": 99.0, "epochs": 98, "model_parameters": 1000 + number}
    run = {
        "optimized_hyperparamater_config": config,
        "budget": 98,
        "info": [info],
        "test_accuracy": 92.5,
        "runtime": 3600,
    }
    return {**run, **changes}


def write(folder: Path, *runs: dict[str, Any], optimiser: str = "rs") -> Path:
    (folder / optimiser).mkdir(parents=True, exist_ok=True)
    for number, run in enumerate(runs):
        (folder / optimiser / f"results_{number}.json").write_text(json.dumps(run))
    return folder


def test_a_folder_and_its_archive_agree(tmp_path: Path) -> None:
    folder = write(tmp_path / "nb_301", a_run(0), a_run(1))
    write(folder, a_run(2), optimiser="drnas")
    archive = tmp_path / "nb_301.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.json")):
            file.write(path, path.relative_to(tmp_path))
        file.writestr("nb_301/surrogate/results.txt", "no run")
    for path in (folder, archive):
        assert reader_of(path).name == "NAS-Bench-301"
        labels = read_labels(path, SPACE)
        order = np.argsort(labels.accuracy)
        np.testing.assert_array_equal(labels.genomes[order], GENOMES)
        assert labels.column == "val_accuracy"
        assert labels.accuracy[order].tolist() == [93, 94, 95]
        assert labels.picked[order].tolist() == [False, False, True]
        assert split(labels)[labels.picked].tolist() == [-1]
        columns = ["test_accuracy", "runtime", "params", "epochs", "init_channels", "layers"]
        assert labels.table.iloc[order[1]][columns].tolist() == [92.5, 3600, 1001, 98, 32, 8]


def test_one_run_is_a_file_too(tmp_path: Path) -> None:
    path = write(tmp_path, a_run(0)) / "rs" / "results_0.json"
    assert read_labels(path, SPACE, "test_accuracy").accuracy.tolist() == [92.5]


def test_the_end_of_the_curve_stands_in_for_a_missing_figure(tmp_path: Path) -> None:
    run = a_run(0, info=[], learning_curves={"Train/val_accuracy": [10.0, 90.0]})
    assert read_labels(write(tmp_path, run), SPACE).accuracy.tolist() == [90]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("[", "not JSON"),
        ("[1]", "lacks optimized_hyperparamater_config"),
        (json.dumps(a_run(0, optimized_hyperparamater_config={})), "results_1.json: nb301"),
        (json.dumps(a_run(0, info=[{"val_accuracy": "high"}])), "val_accuracy is 'high'; must be a finite number"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_run_is_named(tmp_path: Path, run: str, message: str) -> None:
    folder = write(tmp_path, a_run(0))
    (folder / "rs" / "results_1.json").write_text(run)
    with pytest.raises(InvalidDataError, match=message):
        read_labels(folder, SPACE)
    heard: list[str] = []
    assert len(read_labels(folder, SPACE, rejected=heard.append).genomes) == 1
    assert len(heard) == 1


def test_an_archive_that_is_damaged(tmp_path: Path) -> None:
    archive = tmp_path / "nb_301.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("rs/results_0.json", json.dumps(a_run(0)))
    data = bytearray(archive.read_bytes())
    data[200] ^= 255
    archive.write_bytes(data)
    with pytest.raises(InvalidDataError, match=r"cannot be read after byte|the archive is incomplete"):
        read_labels(archive, SPACE)
