"""Files of NAS-Bench-201 and NATS-Bench, made here in their published form."""

from __future__ import annotations

import bz2
import io
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.nb201 import NasBench201
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.labels.labels import read_labels, reader_of

CELLS = (
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
)
SPACE = family("nb201")


def a_run(sets: dict[str, float], epochs: int, seed: int, classes: int) -> dict[str, Any]:
    """What ``ResultsCount.state_dict()`` gives; accuracies before the last epoch are 10."""
    accuracies = {
        f"{name}@{e}": 10.0 if e < epochs - 1 else value for name, value in sets.items() for e in range(epochs)
    }
    return {
        "name": "run",
        "net_state_dict": None,
        "train_acc1es": dict.fromkeys(range(epochs), 99.0),
        "train_times": OrderedDict.fromkeys(range(epochs), 1.5),
        "arch_config": {"channel": 16, "num_cells": 5, "class_num": classes},
        "params": np.float64(0.129306),
        "flop": 15.64737,
        "seed": f"0{seed}",
        "epochs": epochs,
        "latency": [np.float64(0.01), np.float64(0.03)],
        "eval_names": list(sets),
        "eval_acc1es": accuracies,
        "eval_losses": dict.fromkeys(accuracies, 1.0),
        "eval_times": {},
    }


def an_architecture(index: int, names: tuple[str, str] = ("12", "200")) -> dict[str, Any]:
    """By recipe what ``ArchResults.state_dict()`` gives; CIFAR-10 has two runs of 200 epochs."""

    def state(epochs: int, runs: dict[tuple[str, int], dict[str, float]]) -> dict[str, Any]:
        seeds: dict[str, list[int]] = {}
        for dataset, seed in runs:
            seeds.setdefault(dataset, []).append(seed)
        results = {key: a_run(sets, epochs, key[1], 10) for key, sets in runs.items()}
        return {
            "arch_index": index,
            "arch_str": CELLS[index],
            "all_results": results,
            "dataset_seed": seeds,
            "clear_net_done": True,
        }

    few = state(
        3, {("cifar10", 777): {"ori-test": 60.0 + index}, ("cifar10-valid", 777): {"x-valid": 50.0, "ori-test": 55.0}}
    )
    many = state(
        4,
        {
            ("cifar10", 777): {"ori-test": 90.0 + index},
            ("cifar10", 888): {"ori-test": 91.0 + index},
            ("cifar100", 777): {"x-valid": 68.0, "x-test": 70.0, "ori-test": 69.0},
            ("ImageNet16-120", 777): {"x-valid": 44.0, "x-test": 45.0, "ori-test": 44.5},
        },
    )
    return OrderedDict(zip(names, (few, many), strict=True))


def whole(names: tuple[str, str] = ("12", "200")) -> dict[str, Any]:
    infos = {index: an_architecture(index, names) for index in range(2)}
    return {"meta_archs": list(CELLS), "arch2infos": infos, "evaluated_indexes": {0, 1}, "total_archs": 2}


def nats_folder(folder: Path) -> Path:
    folder.mkdir()
    contents = {f"{index:06d}": an_architecture(index) for index in range(2)}
    for name, value in {**contents, "meta": {"meta_archs": list(CELLS)}}.items():
        with bz2.open(folder / f"{name}.pickle.pbz2", "wb") as file:
            pickle.dump(value, file, protocol=4)
    return folder


def nats_tar(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as archive:
        archive.add(nats_folder(folder), arcname=folder.name)
    return folder.with_suffix(".tar")


def nats_file(folder: Path) -> Path:
    path = folder.with_suffix(".pickle.pbz2")
    with bz2.open(path, "wb") as file:
        pickle.dump(whole(), file, protocol=4)
    return path


def old_file(folder: Path) -> Path:
    torch.save(whole(("less", "full")), folder.with_suffix(".pth"), _use_new_zipfile_serialization=False)
    return folder.with_suffix(".pth")


def new_file(folder: Path) -> Path:
    torch.save(whole(("less", "full")), folder.with_suffix(".pth"))
    return folder.with_suffix(".pth")


@pytest.mark.parametrize("make", [nats_folder, nats_tar, nats_file, old_file, new_file])
def test_every_form_gives_the_same_labels(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "nats")
    labels = read_labels(path, SPACE)
    assert reader_of(path).name == "NAS-Bench-201 and NATS-Bench"
    assert [SPACE.encode(genome) for genome in labels.genomes] == list(CELLS)
    assert labels.column == "c10_test200"
    np.testing.assert_allclose(labels.accuracy, [90.5, 91.5])
    row = labels.table.iloc[1]
    expected = {
        "c10_test12": 61, "c10valid_val12": 50, "c10valid_test12": 55, "c100_val200": 68, "c100_test200": 70,
        "c100_valtest200": 69, "im16_test200": 45, "c10_train200": 99, "params": 129306, "macs": 15647370,
        "c10_latency": 0.02,
    }  # fmt: skip
    np.testing.assert_allclose(row[list(expected)].to_numpy(np.float64), list(expected.values()))


def test_the_usual_label_is_that_of_the_dataset(tmp_path: Path) -> None:
    path = nats_folder(tmp_path / "nats")
    assert read_labels(path, NasBench201("cifar100")).column == "c100_test200"
    assert read_labels(path, NasBench201("ImageNet16-120")).accuracy.tolist() == [45, 45]
    assert read_labels(path, SPACE, "c10_test12").accuracy.tolist() == [60, 61]
    with pytest.raises(InvalidDataError, match=r"no column of numbers 'accuracy'; name one of .*'c10_test200'"):
        read_labels(path, SPACE, "accuracy")


def test_a_damaged_file_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = nats_folder(tmp_path / "nats")
    bad = folder / "000001.pickle.pbz2"
    bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(InvalidDataError, match=r"000001\.pickle\.pbz2"):
        read_labels(folder, SPACE)
    heard: list[str] = []
    assert len(read_labels(folder, SPACE, rejected=heard.append).genomes) == 1
    assert "000001.pickle.pbz2" in heard[0]


def test_an_archive_that_is_cut_off(tmp_path: Path) -> None:
    path = nats_tar(tmp_path / "nats")
    path.write_bytes(path.read_bytes()[:-11_000])
    with pytest.raises(InvalidDataError, match=r"nats\.tar"):
        read_labels(path, SPACE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda infos: infos["200"].update(all_results=[1]), "results are a list"),
        (lambda infos: infos["200"]["all_results"].update({"cifar10": {}}), r"must be \(data set, seed\)"),
        (lambda infos: infos["200"]["all_results"][("cifar10", 777)].update(epochs="x"), "a count is a str"),
        (lambda infos: [state.pop("arch_str") for state in infos.values()], "the architecture lacks its arch_str"),
        (lambda infos: infos["12"].update(arch_str="|x~0|"), "nb201"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    value = an_architecture(0)
    change(value)
    if message == "nb201":
        value["200"]["arch_str"] = "|x~0|"
    path = tmp_path / "000000.pickle.pbz2"
    path.write_bytes(bz2.compress(pickle.dumps(value, protocol=4)))
    with pytest.raises(InvalidDataError, match=message):
        read_labels(path, SPACE)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (io.open, (str(tmp_path / "ran"), "w"))

    value = an_architecture(0)
    value["200"]["all_results"][("cifar10", 777)]["latency"] = Harm()
    path = tmp_path / "000000.pickle.pbz2"
    path.write_bytes(bz2.compress(pickle.dumps(value, protocol=4)))
    with pytest.raises(InvalidDataError, match=r"io\.open', which is not allowed"):
        read_labels(path, SPACE)
    assert not (tmp_path / "ran").exists()
