"""pretrain and fit as a user calls them, on small labelled files made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from gennape.errors import ConfigError, GennapeError, InvalidDataError
from gennape.jobs.cli import app
from gennape.predictors.checkpoint import load_checkpoint, provenance_of
from gennape.search_spaces.cost import params
from gennape.search_spaces.families.registry import family


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
    settings = ("--epochs", 2, "--head-epochs", 2, "--batch", 16, "--clusters", 2, "--minimum-accuracy", 0)
    return _run("fit", "--encoder", encoder, "--data", labels, "--out", out, *settings, *more)


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
    from gennape.predictors.checkpoint import load_encoder

    return load_encoder(encoder)[1]


def test_the_same_seed_makes_the_same_bytes(encoder: Path, labels: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        _fit(encoder, labels, tmp_path / name, "--seed", seed)
    a, b, c = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_fit_refuses_too_few_rows(encoder: Path, tmp_path: Path) -> None:
    few = _labelled(tmp_path / "few.csv", "nb101", 10, 1)
    with pytest.raises(ConfigError, match="fewer than --batch 16"):
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


def test_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(GennapeError, match="unknown search space 'resnext'; known are hiaml, inception, nb101"):
        _run("pretrain", "--family", "resnext", "--out", tmp_path / "out")
