"""Labels of one's own, as ``gennape label`` writes them, among the files that a predictor is measured on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gennape.errors import InvalidDataError
from gennape.predictors.evaluation.files import benchmarks_in
from gennape.predictors.evaluation.rows import OWN, read_rows
from gennape.search_spaces.families.registry import family

LABELS = Path(__file__).parents[3] / "benchmarks" / "labels"
HIAML = next(benchmark for benchmark in OWN if benchmark.family == "hiaml")


def write(folder: Path, architectures: list[str], accuracy: list[float], **columns: list[str]) -> None:
    rows = {"family": "hiaml", "architecture": architectures, "accuracy": accuracy, **columns}
    pd.DataFrame(rows).to_csv(folder / HIAML.file, index=False)


def names(n: int) -> list[str]:
    space = family("hiaml")
    return [json.dumps(space.encode(genome)) for genome in space.sample(np.random.default_rng(0), n)]


def test_several_trainings_of_an_architecture_are_averaged(tmp_path: Path) -> None:
    a, b, c = names(3)
    write(tmp_path, [a, b, a, c, a], [70.0, 80.0, 71.0, 60.0, 75.0])
    rows = read_rows(tmp_path, HIAML, ())
    # (70 + 71 + 75) / 3
    assert sorted(rows.labels.accuracy) == [60.0, 72.0, 80.0]
    assert rows.left_out == {"the same architecture again": 2}


@pytest.mark.parametrize("other", ["two", ""])
def test_labels_of_several_recipes_or_an_unknown_one_are_not_averaged(tmp_path: Path, other: str) -> None:
    write(tmp_path, names(2), [70.0, 80.0], recipe=["one", other], data=["same", "same"])
    with pytest.raises(InvalidDataError, match=r"2 kinds of recipe.*keep those of one"):
        read_rows(tmp_path, HIAML, ())


def test_own_labels_are_found_in_a_folder_beside_others_or_alone(tmp_path: Path) -> None:
    write(tmp_path, names(2), [70.0, 80.0])
    assert benchmarks_in(tmp_path) == (tmp_path, [HIAML])


@pytest.mark.parametrize(
    ("name", "networks", "again", "quartiles"),
    [  # what the README beside them says
        ("hiaml", 200, 20, (59.3, 64.6, 66.0)),
        ("inception", 13, 0, (62.5, 63.8, 66.1)),
        ("two_path", 120, 20, (63.8, 64.8, 65.9)),
    ],
)
def test_labels_of_the_repository_are_those_that_their_readme_tells_of(
    name: str, networks: int, again: int, quartiles: tuple[float, ...]
) -> None:
    benchmark = next(benchmark for benchmark in OWN if benchmark.family == name)
    rows = read_rows(LABELS, benchmark, ())
    assert len(rows.labels.accuracy) == networks
    assert sum(rows.left_out.values()) == again
    table = pd.read_csv(LABELS / benchmark.file)
    first = table[table["seed"] == 0]["test_accuracy"]
    assert np.percentile(first, [25, 50, 75]) == pytest.approx(quartiles, abs=0.06)
