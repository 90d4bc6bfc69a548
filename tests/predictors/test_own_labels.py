"""Labels of one's own, as ``gennape label`` writes them, among the files that a predictor is measured on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gennape.errors import InvalidDataError
from gennape.predictors.evaluation_rows import OWN, Benchmark, present_benchmarks, read_rows
from gennape.search_spaces.families.registry import family

LABELS = Path(__file__).parents[2] / "benchmarks" / "labels"
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


def test_labels_of_several_recipes_are_not_averaged(tmp_path: Path) -> None:
    write(tmp_path, names(2), [70.0, 80.0], recipe=["one", "other"], data=["same", "same"])
    with pytest.raises(InvalidDataError, match=r"2 kinds of recipe.*keep those of one"):
        read_rows(tmp_path, HIAML, ())


def test_own_labels_are_found_in_a_folder_beside_others_or_alone(tmp_path: Path) -> None:
    write(tmp_path, names(2), [70.0, 80.0])
    assert present_benchmarks(tmp_path) == [HIAML]


@pytest.mark.parametrize("benchmark", OWN, ids=lambda benchmark: benchmark.family)
def test_labels_of_the_repository_are_of_nine_networks_each(benchmark: Benchmark) -> None:
    rows = read_rows(LABELS, benchmark, ())
    assert len(rows.labels.accuracy) == 9
    assert rows.left_out == {"the same architecture again": 1}
    # The medians that the README beside them names.
    named = {"hiaml": 75.3, "inception": 72.4, "two_path": 73.9}
    assert np.median(rows.labels.accuracy) == pytest.approx(named[rows.benchmark.family], abs=0.05)
