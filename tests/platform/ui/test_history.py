"""The front of a run after each of its generations, from its evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_runs import stored_run

from gennape.errors import WorkspaceError
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.extension import extend
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.objectives import Objective
from gennape.platform.search.runs import config_of
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.ui import history as module
from gennape.platform.ui.history import FrontHistory

OBJECTIVES = search_config(space="hiaml").directed


def history_of(folder: Path, objectives: tuple[Objective, ...] = OBJECTIVES) -> FrontHistory:
    made = FrontHistory(folder, objectives, lambda path: path)
    made.update()
    return made


def front_at(history: FrontHistory, generation: int) -> set[str]:
    return {
        one.key for one in history.networks if one.since <= generation and (one.until is None or one.until > generation)
    }


def shards(folder: Path) -> list[pd.DataFrame]:
    return [pd.read_parquet(path) for path in sorted((folder / "evaluations").iterdir())]


def nondominated(rows: pd.DataFrame) -> set[tuple[float, float]]:
    points = list(zip(rows["accuracy"], rows["flops"], strict=True))
    return {(a, f) for a, f in points if not any(b >= a and g <= f and (b, g) != (a, f) for b, g in points)}


def test_every_generation_has_the_front_of_all_evaluations_until_then(tmp_path: Path) -> None:
    folder = stored_run(tmp_path, "one", evaluations=200)
    history, parts = history_of(folder), shards(folder)
    assert history.evaluations == np.cumsum([len(part) for part in parts]).tolist()
    for generation in range(len(parts)):
        rows = pd.concat(parts[: generation + 1])
        found = rows[rows["hash"].isin(front_at(history, generation))]
        assert set(zip(found["accuracy"], found["flops"], strict=True)) == nondominated(rows)
    report = pd.read_csv(folder / "report" / "front.csv")
    assert front_at(history, len(parts) - 1) == set(report["hash"])
    assert set(history.measures) >= {"accuracy", "flops", "macs", "params"}
    assert not {"island", "generation", "deviation", "violation"} & set(history.measures)


def test_fronts_hold_networks_within_the_limits_only(tmp_path: Path) -> None:
    config = search_config(space="hiaml", evaluations=120, population=30, constraints=["params<=500000"])
    folder = tmp_path / "limited"
    folder.mkdir()
    result = run_search(config, folder, LocalIslands(config, SyntheticPredictor()))
    history = history_of(folder)
    assert front_at(history, len(history.evaluations) - 1) == set(result.front["hash"])
    assert all(network.values["params"] <= 500_000 for network in history.networks)


def test_it_reads_on_from_where_it_had_got_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored_run(tmp_path, "cut", generations=2, evaluations=200)
    history, read = history_of(folder), []
    original = FrontHistory._read
    monkeypatch.setattr(FrontHistory, "_read", lambda self, number: read.append(number) or original(self, number))
    config = config_of(folder)
    run_search(config, folder, LocalIslands(config, SyntheticPredictor()))
    history.update()
    assert read == list(range(2, len(shards(folder))))
    fresh = history_of(folder)
    assert [one.key for one in history.networks] == [one.key for one in fresh.networks]
    assert history.cloud == fresh.cloud


def test_a_larger_budget_makes_the_last_generations_anew(tmp_path: Path) -> None:
    folder = stored_run(tmp_path, "one", evaluations=90)
    history = history_of(folder)
    extend(folder, 300)
    config = config_of(folder)
    run_search(config, folder, LocalIslands(config, SyntheticPredictor()))
    history.update()
    fresh = history_of(folder)
    assert history.evaluations == fresh.evaluations
    assert [one.key for one in history.networks] == [one.key for one in fresh.networks]


def written(folder: Path, columns: list[dict[str, list[float]]]) -> Path:
    (folder / "evaluations").mkdir(parents=True)
    for number, values in enumerate(columns):
        count = len(values["accuracy"])
        table = {"hash": [f"{number}-{i}" for i in range(count)], "architecture": ["{}"] * count}
        table |= values | {"island": [0] * count, "generation": [number] * count}
        pd.DataFrame(table).to_parquet(folder / "evaluations" / f"{number:06d}.parquet")
    return folder


def test_measures_of_which_this_program_knows_nothing_appear(tmp_path: Path) -> None:
    columns = {"accuracy": [1.0, 2.0], "flops": [1.0, 2.0], "latency.npu": [3.5, np.nan], "memory": [7.0, 8.0]}
    history = history_of(written(tmp_path, [columns]))
    assert history.measures == ("accuracy", "flops", "latency.npu", "memory")
    by_latency = history_of(tmp_path, (Objective("latency.npu", "min"),))
    assert [one.key for one in by_latency.networks] == ["0-0"]  # the other has none


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6), most=st.integers(1, 40))
def test_the_cloud_is_bounded_and_spread_evenly(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int
) -> None:
    starts = np.cumsum([0, *sizes])
    columns = [
        {"accuracy": np.arange(start, start + size, dtype=float).tolist(), "flops": [1.0] * size}
        for start, size in zip(starts, sizes, strict=False)
    ]
    folder = written(tmp_path_factory.mktemp("cloud"), columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_CLOUD", most)
        history = history_of(folder)
    expected = list(range(0, sum(sizes), history.cloud_step))
    assert history.cloud["accuracy"] == expected
    assert len(expected) <= most + 1


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = stored_run(tmp_path, "cut", generations=2)
    (folder / "evaluations" / "000001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(WorkspaceError, match=r"000001\.parquet"):
        history_of(folder)
