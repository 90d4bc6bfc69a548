"""pretrain and fit as a user calls them, on small labelled files made here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from gennape.errors import CheckpointError, ConfigError, GennapeError, InvalidDataError
from gennape.jobs.cli import app
from gennape.predictors.model.checkpoint import learnt_numbers, load_checkpoint, provenance_of
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import params
from gennape.search_spaces.labels.labels import read_labels, split


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _labelled(path: Path, name: str, n: int, seed: int) -> Path:
    """A CSV of sampled architectures whose accuracy grows with their parameters."""
    space = family(name)
    genomes = np.unique(space.sample(np.random.default_rng(seed), 3 * n), axis=0)[:n]
    accuracy = 70 + 4 * np.log10(params(space.graphs(genomes)) / 1e5)
    architectures = [json.dumps(space.encode(genome)) for genome in genomes]
    pd.DataFrame({"architecture": architectures, "acc": accuracy}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _labelled(tmp_path_factory.mktemp("labels") / "cells.csv", "nb101", 120, 0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    sizes = ("--hidden", 8, "--layers", 1, "--embedding", 4)
    _run("pretrain", "--sample", 200, "--epochs", 1, "--batch", 16, *sizes, "--out", folder)
    return folder


def _fit(encoder: Path, labels: Path, out: Path, *more: object) -> str:
    epochs = (
        option for name in ("--epochs", "--head-epochs", "--pair-epochs", "--k-gnn-epochs") for option in (name, 2)
    )
    settings = (*epochs, "--batch", 16, "--clusters", 2, "--minimum-accuracy", 0)
    return _run("fit", "--encoder", encoder, "--data", labels, "--out", out, *settings, *more)


@pytest.mark.cluster
def test_pretrain_then_fit_makes_a_checkpoint_that_predicts(encoder: Path, labels: Path, tmp_path: Path) -> None:
    _fit(encoder, labels, tmp_path / "made")
    record = provenance_of(tmp_path / "made")
    assert record["data"]["file"] == "cells.csv"
    assert record["metrics"]["test"]["rows"] > 0
    assert record["encoder"] == provenance_hash(encoder)
    space = family("hiaml")
    graphs = space.graphs(space.sample(np.random.default_rng(0), 2))
    assert np.isfinite(load_checkpoint(tmp_path / "made").predict(graphs).accuracy).all()


def provenance_hash(encoder: Path) -> str:
    from gennape.predictors.model.checkpoint import load_encoder

    return load_encoder(encoder)[1]


@pytest.mark.cluster
def test_the_same_seed_makes_the_same_bytes(encoder: Path, labels: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        _fit(encoder, labels, tmp_path / name, "--seed", seed)
    a, b, c = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.cluster
def test_a_fitted_checkpoint_is_fine_tuned(encoder: Path, labels: Path, tmp_path: Path) -> None:
    _fit(encoder, labels, tmp_path / "made")
    few = _labelled(tmp_path / "few.csv", "hiaml", 30, 1)
    shared = ("--family", "hiaml", "--labels", few, "--checkpoint", tmp_path / "made")
    printed = _run("finetune", *shared, "--limit", 20, "--out", tmp_path / "tuned")
    assert "fine-tuned on 20 networks of hiaml" in printed
    assert f"gennape search --space hiaml --checkpoint {tmp_path / 'tuned'}" in printed
    record = provenance_of(tmp_path / "tuned")
    assert record["families"] == ["hiaml", "nb101"]
    assert record["tuned"]["data"]["file"] == "few.csv"
    assert set(record["tuned"]["metrics"]) == {"srcc", "mae_percent", "zero_shot_srcc"}
    assert len(learnt_numbers(tmp_path / "tuned")) == len(learnt_numbers(tmp_path / "made")) + 20
    space = family("hiaml")
    answer = load_checkpoint(tmp_path / "tuned").predict(space.graphs(space.sample(np.random.default_rng(0), 3)))
    assert answer.deviation is not None
    with pytest.raises(InvalidDataError, match="30 rows are too few to label 31"):
        _run("finetune", *shared, "--limit", 31, "--out", tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_fit_refuses_too_few_rows(encoder: Path, tmp_path: Path) -> None:
    few = _labelled(tmp_path / "few.csv", "nb101", 10, 1)
    with pytest.raises(ConfigError, match="but --batch 16 and --clusters 2 take 16"):
        _fit(encoder, few, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("architecture,acc\n{,90\n", "row 1"),
        ('architecture,acc\n"{""matrix"": [[0]], ""ops"": [""input""]}",90\n', "row 1: nb101: a cell has 2 to 7"),
        ("architecture,other\nx,1\n", "no usual column of accuracies"),
        ("", "cannot read"),
    ],
)
def test_unreadable_labels_are_refused_by_row(encoder: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(InvalidDataError, match=message):
        _fit(encoder, tmp_path / "bad.csv", tmp_path / "out")


@pytest.mark.parametrize("fuzzifier", ["nan", "1", "101"])
def test_fit_refuses_a_fuzzifier_that_no_checkpoint_holds(
    encoder: Path, labels: Path, tmp_path: Path, fuzzifier: str
) -> None:
    with pytest.raises(ConfigError, match=f"--fuzzifier must be (greater|less) than .*, got {float(fuzzifier)}"):
        _fit(encoder, labels, tmp_path / "made", "--fuzzifier", fuzzifier)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--hidden", "--layers", "--embedding"])
def test_pretrain_refuses_sizes_that_no_checkpoint_holds(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} must be less than or equal to .*, got 100000"):
        _run("pretrain", "--sample", 32, "--batch", 16, option, 100000, "--out", tmp_path / "made")


@pytest.mark.parametrize(("column", "what"), [("acc", "accuracy"), ("architecture", "FLOPs")])
def test_fit_refuses_rows_that_are_all_alike_before_it_trains(
    encoder: Path, labels: Path, tmp_path: Path, column: str, what: str
) -> None:
    table = pd.read_csv(labels)
    table[column] = table[column][0]
    # Of one network all rows have one part: one that is trained on.
    space, alike = family("nb101"), tmp_path / "alike.csv"
    if column == "architecture":
        rows = read_labels(labels, space)
        table[column] = json.dumps(space.encode(rows.genomes[int(np.flatnonzero(split(rows) == 0)[0])]))
    table.to_csv(alike, index=False)
    with pytest.raises(InvalidDataError, match=rf"differ in accuracy and FLOPs, got \d+ of the same {what}; add rows"):
        _fit(encoder, alike, tmp_path / "made")
    assert list(tmp_path.iterdir()) == [alike]


def test_what_is_read_is_not_written_over(encoder: Path, labels: Path) -> None:
    before = (encoder / "checkpoint.json").read_bytes()
    with pytest.raises(CheckpointError, match="is what is read, and would be lost; choose another place"):
        _fit(encoder, labels, encoder)
    with pytest.raises(CheckpointError, match="is what is read, and would be lost; choose another place"):
        _run("finetune", "--family", "nb101", "--labels", labels, "--checkpoint", encoder, "--out", encoder)
    assert (encoder / "checkpoint.json").read_bytes() == before


def test_rows_below_the_least_accuracy_are_counted_where_too_few_are_left(encoder: Path, tmp_path: Path) -> None:
    few = _labelled(tmp_path / "few.csv", "nb101", 60, 1)
    with pytest.raises(ConfigError, match=r"0 rows to train on and \d+ below --minimum-accuracy 99"):
        _fit(encoder, few, tmp_path / "out", "--minimum-accuracy", 99)


@pytest.mark.cluster
def test_figures_of_too_few_rows_are_left_out(encoder: Path, labels: Path, tmp_path: Path) -> None:
    rows = read_labels(labels, family("nb101"))
    least = float(rows.accuracy[split(rows) != 0].max()) + 1e-6
    table = pd.read_csv(labels)
    table.loc[(split(rows) == 0), "acc"] += 5  # those that are trained on
    table.to_csv(tmp_path / "high.csv", index=False)
    _fit(encoder, tmp_path / "high.csv", tmp_path / "made", "--minimum-accuracy", least)
    assert "NaN" not in (tmp_path / "made" / "checkpoint.json").read_text()
    validation = provenance_of(tmp_path / "made")["metrics"]["validation"]
    assert (validation["rows_kept"], "srcc_kept" in validation, "srcc" in validation) == (0, False, True)


def test_where_no_checkpoint_can_be_written_is_said_before_training(
    encoder: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gennape.predictors.model.fitting.fit", None)
    monkeypatch.setattr("gennape.predictors.encoder.pretraining.pretrain", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    under = labels / "out"  # a file is no folder
    for out, says in ((tmp_path / "full", "holds .*thesis.tex.*choose another place"), (under, "cannot write")):
        with pytest.raises(CheckpointError, match=says):
            _fit(encoder, labels, out)
        with pytest.raises(CheckpointError, match=says):
            _pretrain(out)
        with pytest.raises(CheckpointError, match=says):
            _run("finetune", "--family", "nb101", "--labels", labels, "--out", out)


@pytest.mark.parametrize("option", ["--min-workers", "--checkpoint-every"])
def test_options_of_workers_are_refused_where_there_are_none(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match="are for workers"):
        _pretrain(tmp_path / "out", option, 1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 2.7),
        ("epochs", True),
        ("seed", None),
        ("config", None),
        ("batch", {}),
        ("data", [None]),
        ("batch", [16]),
    ],
)
def test_settings_of_a_file_are_taken_as_if_they_were_typed(tmp_path: Path, option: str, value: object) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"pretrain": {option: value}}))
    with pytest.raises(ConfigError, match=rf"{path}: {option} is"):
        _run("pretrain", "--out", tmp_path / "out", "--settings", path)


def test_labels_that_are_not_there_are_missed_before_anything_is_tuned(labels: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "best.json")
    with pytest.raises(InvalidDataError, match=r"nothing\.csv does not exist"):
        _run("tune", "--family", "nb101", "--data", tmp_path / "nothing.csv", *out)
    with pytest.raises(InvalidDataError, match=r"none\.csv does not exist"):
        _run("tune", "--family", "nb101", "--data", labels, "--judge", tmp_path / "none.csv", *out)


def test_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(GennapeError, match="unknown search space 'resnext'; known are hiaml, inception, nb101"):
        _run("pretrain", "--family", "resnext", "--out", tmp_path / "out")


def _pretrain(out: Path, *more: object) -> dict[str, Any]:
    """Pretrain a tiny encoder and give its record."""
    sizes = ("--epochs", 1, "--batch", 16, "--hidden", 8, "--layers", 1, "--embedding", 4)
    _run("pretrain", "--out", out, *sizes, *more)
    return json.loads((out / "checkpoint.json").read_text())["provenance"]


@pytest.mark.cluster
def test_pretrain_mixes_families_with_and_without_data(labels: Path, tmp_path: Path) -> None:
    """The file is the first family's; the record says how many networks of each family there were, and whence."""
    families = ("--family", "nb101", "--family", "hiaml", "--data", labels, "--sample", 40)
    record = _pretrain(tmp_path / "general", *families, "--config", "general")
    rows = read_labels(labels, family("nb101"))
    sampled = np.unique(family("hiaml").sample(np.random.default_rng(0), 40), axis=0)
    counts = {"nb101": int((split(rows) == 0).sum()), "hiaml": len(sampled)}
    assert {name: part["networks"] for name, part in record["families"].items()} == counts
    assert record["networks"] == sum(counts.values())
    assert record["families"]["nb101"]["data"] == {
        "file": labels.name, "sha256": hashlib.sha256(labels.read_bytes()).hexdigest()
    }  # fmt: skip
    assert (record["families"]["hiaml"]["data"], record["sample"]) == (None, 40)
    contrast = {"eigenvalues": 11, "temperature": 0.05, "spectral_temperature": None, "within_family": True}
    assert record["pretrain"]["contrast"] == contrast
    assert _pretrain(tmp_path / "gennape", *families)["pretrain"]["contrast"]["eigenvalues"] == 21
    general, gennape = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("general", "gennape"))
    assert general != gennape
    _fit(tmp_path / "general", labels, tmp_path / "made")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--family", "nb101", "--family", "nb101"), "each --space may be given once, got nb101, nb101"),
        (("--data", "a.csv", "--data", "b.csv"), "got 2 files and 1 search spaces"),
        (("--sample", 10, "--family", "nb101", "--family", "hiaml"), "a batch of 64 needs as many networks, got"),
    ],
)
def test_pretrain_refuses_what_does_not_fit_together(
    tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _run("pretrain", "--out", tmp_path / "out", "--batch", 64, *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.cluster
def test_the_device_is_recorded_and_one_that_is_missing_refused(
    encoder: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _pretrain(tmp_path / "encoder", "--sample", 40, "--device", "cpu")["device"] == "cpu"
    _fit(encoder, labels, tmp_path / "made")
    assert provenance_of(tmp_path / "made")["device"] == "cpu"
    with pytest.raises(ConfigError, match="no GPU"):
        _fit(encoder, labels, tmp_path / "out", "--device", "cuda")
    with pytest.raises(ConfigError, match="no GPU"):
        _pretrain(tmp_path / "out", "--device", "cuda")
