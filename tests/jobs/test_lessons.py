"""What `finetune` and `data check` say of labels that teach little or contradict one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from gennape.jobs.cli import app
from gennape.jobs.finetune import _lessons
from gennape.predictors.metrics import srcc
from gennape.predictors.model.checkpoint import load_pretrained, provenance_of
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

SPACE = family("nb201")


def write(path: Path, labels: list[float], rows: list[int] | None = None) -> Path:
    """Labels of networks 0, 1, ... of a fixed sample, or of those that ``rows`` names."""
    genomes = np.unique(SPACE.sample(np.random.default_rng(5), 60), axis=0)
    chosen = list(range(len(labels))) if rows is None else rows
    pd.DataFrame({"arch": [SPACE.encode(genomes[row]) for row in chosen], "acc": labels}).to_csv(path, index=False)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("found", "n", "told"),
    [
        ({}, 2, "say nothing"),
        ({"srcc": 0.9, "zero_shot_srcc": 0.2}, 4, "no order"),  # chance: 1.645 / sqrt(3) = 0.95
        ({"srcc": 0.2, "zero_shot_srcc": 0.1}, 50, "no order"),  # 1.645 / 7 = 0.235
        ({"srcc": 0.6, "zero_shot_srcc": 0.8}, 50, "worse than without"),
        ({"srcc": 0.25, "zero_shot_srcc": 0.1}, 50, None),
        ({"srcc": 0.96, "zero_shot_srcc": -0.5}, 4, None),
    ],
)
def test_labels_that_teach_little_are_told(found: dict[str, float], n: int, told: str | None) -> None:
    lessons = _lessons(found, n)
    assert (lessons == []) if told is None else (len(lessons) == 1 and told in lessons[0])


@pytest.mark.cluster
def test_four_labels_at_chance_warn_and_are_recorded(tmp_path: Path) -> None:
    labels = write(tmp_path / "few.csv", [70.0, 60.0, 71.0, 59.0])
    result = run("finetune", "--space", "nb201", "--labels", labels, "--out", tmp_path / "tuned")
    assert result.exit_code == 0, result.output
    assert "warning: the labels taught no order" in result.stderr.replace("\n", " ")
    metrics = provenance_of(tmp_path / "tuned")["tuned"]["metrics"]
    table = pd.read_csv(labels)
    graphs = SPACE.graphs(np.stack([SPACE.decode(text) for text in table["arch"]]))
    expected = srcc(table["acc"].to_numpy(float), load_pretrained(zero_shot=True).predict(graphs).accuracy)
    assert metrics["zero_shot_srcc"] == pytest.approx(expected)
    assert f"zero_shot_srcc  {expected:.3f}" in result.stdout


@pytest.mark.cluster
def test_contradicting_labels_are_told(tmp_path: Path) -> None:
    """Network 0 is labelled 60 and 75 %; different ones lie 60 to 63 %, that is within some 3 % of standard deviation
    (the mean of network 0, 67.5, being one of them)."""
    labels = write(tmp_path / "a.csv", [60.0, 61.0, 62.0, 63.0, 75.0], [0, 1, 2, 3, 0])
    checked = run("data", "check", labels, "--space", "nb201")
    assert checked.exit_code == 1
    assert "1 of them contradict" in checked.stdout
    genome = SPACE.decode(pd.read_csv(labels)["arch"][0])
    assert f'60 to 75  "{SPACE.encode(genome)}"' in checked.stdout
    tuned = run("finetune", "--space", "nb201", "--labels", labels, "--out", tmp_path / "tuned")
    assert "1 architecture has labels that contradict one another, from 60 to 75" in tuned.stderr.replace("\n", " ")


@pytest.mark.parametrize("second", [60.0, 60.9])
def test_several_trainings_of_a_network_are_no_contradiction(tmp_path: Path, second: float) -> None:
    labels = write(tmp_path / "a.csv", [60.0, 61.0, 62.0, 63.0, second], [0, 1, 2, 3, 0])
    checked = run("data", "check", labels, "--space", "nb201")
    assert checked.exit_code == 0
    assert ("several labels that differ" in checked.stdout) == (second != 60.0)
