"""The search's logic, with islands in this process and a predictor that is a formula."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import ServiceError, WorkspaceError
from gennape.platform import search as search_module
from gennape.platform.config import search_config
from gennape.platform.front import front_of
from gennape.platform.islands import IslandLostError, LocalIslands
from gennape.platform.objectives import NAMES, minimised
from gennape.platform.search import RETRIES, run_search
from gennape.platform.searchers.testing import SyntheticPredictor
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.canonical import canonical_hashes
from gennape.search_spaces.families import registry
from gennape.search_spaces.families.hiaml import NAMES as BLOCKS
from gennape.search_spaces.families.hiaml import HiAML
from gennape.search_spaces.space import Gene


class Stop(Exception):
    """Stands for whatever ends a process."""


class Counting:
    """Predicts by formula and notes every network asked for; some accuracies may be spoilt."""

    def __init__(self, spoil=lambda accuracy: accuracy):
        self.hashes = []
        self.spoil = spoil

    def predict(self, graphs):
        self.hashes += canonical_hashes(graphs)
        prediction = SyntheticPredictor().predict(graphs)
        return Prediction(self.spoil(prediction.accuracy), prediction.memberships)


class Recording(LocalIslands):
    """Islands that keep their tasks, and lose one island in chosen calls."""

    def __init__(self, config, evaluator, lose=()):
        super().__init__(config, evaluator)
        self.tasks = []
        self.lose = lose
        self.calls = 0

    def advance(self, tasks):
        self.calls += 1
        self.tasks.append(tasks)
        if self.calls in self.lose:
            self.islands[0].advance(tasks[0])
            raise IslandLostError("killed")
        return super().advance(tasks)


def small(**settings):
    defaults = {"space": "hiaml", "evaluations": 150, "population": 20, "migration_every": 2, "migrants": 3, "seed": 1}
    return search_config(**defaults | settings)


def run(config, folder, evaluator=None, on_generation=lambda _: None):
    folder.mkdir(exist_ok=True)
    return run_search(config, folder, LocalIslands(config, evaluator or SyntheticPredictor()), on_generation)


def stop_after(generations):
    def follow(record):
        if record.generation + 1 == generations:
            raise Stop

    return follow


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 130), st.integers(1, 4), st.integers(8, 25), st.sampled_from(["nsga2", "random"]))
def test_exactly_the_evaluations_asked_for(tmp_path_factory, evaluations, islands, population, searcher):
    config = small(evaluations=evaluations, islands=islands, population=population, searcher=searcher)
    evaluator = Counting()
    result = run(config, tmp_path_factory.mktemp("run"), evaluator)
    assert len(result.evaluations) == evaluations
    assert len(set(result.evaluations["hash"])) == evaluations
    assert set(evaluator.hashes) == set(result.evaluations["hash"])
    assert result.reason == f"all {evaluations:,} evaluations are done"


def test_one_island_never_predicts_a_network_twice(tmp_path):
    evaluator = Counting()
    run(small(islands=1), tmp_path / "run", evaluator)
    assert len(evaluator.hashes) == len(set(evaluator.hashes)) == 150


def test_same_seed_same_front_and_another_seed_another(tmp_path):
    first, again = run(small(), tmp_path / "a"), run(small(), tmp_path / "b")
    other = run(small(seed=2), tmp_path / "c")
    pd.testing.assert_frame_equal(first.front, again.front)
    pd.testing.assert_frame_equal(first.evaluations, again.evaluations)
    assert first.front["hash"].tolist() != other.front["hash"].tolist()


def test_front_is_mutually_non_dominated_and_covers_every_evaluation(tmp_path):
    config = small(objectives="params:min,accuracy:max,flops:min")
    result = run(config, tmp_path / "run")
    front = minimised(
        result.front[list(NAMES[:2])].assign(macs=0, params=result.front["params"]).to_numpy(float), config.directed
    )
    everything = minimised(result.evaluations[list(NAMES)].to_numpy(float), config.directed)
    for point in front:
        assert not ((front <= point).all(1) & (front < point).any(1)).any()
    for point in everything:
        assert (front <= point).all(1).any()


@pytest.mark.parametrize("generations", [1, 2, 3])
def test_continuing_after_any_generation_gives_the_same_search(tmp_path, generations):
    expected = run(small(), tmp_path / "whole")
    with pytest.raises(Stop):
        run(small(), tmp_path / "cut", on_generation=stop_after(generations))
    resumed = run(small(), tmp_path / "cut")
    pd.testing.assert_frame_equal(resumed.front, expected.front)
    pd.testing.assert_frame_equal(resumed.evaluations, expected.evaluations)
    assert resumed.hypervolume == expected.hypervolume


@pytest.mark.parametrize("broken", ["write_shard", "save_state"])
def test_dying_between_shard_and_state_loses_only_the_generation(tmp_path, monkeypatch, broken):
    expected = run(small(), tmp_path / "whole")
    original, calls = getattr(search_module, broken), []

    def dies_the_third_time(*args):
        calls.append(args)
        if len(calls) == 3:
            raise Stop
        original(*args)

    monkeypatch.setattr(search_module, broken, dies_the_third_time)
    with pytest.raises(Stop):
        run(small(), tmp_path / "cut")
    monkeypatch.undo()
    resumed = run(small(), tmp_path / "cut")
    pd.testing.assert_frame_equal(resumed.evaluations, expected.evaluations)


def test_a_lost_island_changes_nothing(tmp_path):
    expected = run(small(), tmp_path / "whole")
    islands = Recording(small(), SyntheticPredictor(), lose=(1, 3))
    (tmp_path / "lost").mkdir()
    result = run_search(small(), tmp_path / "lost", islands)
    pd.testing.assert_frame_equal(result.evaluations, expected.evaluations)


def test_islands_that_keep_dying_end_the_search(tmp_path):
    islands = Recording(small(), SyntheticPredictor(), lose=range(1, 99))
    with pytest.raises(ServiceError, match=rf"died {RETRIES} times in generation 0.*fewer islands"):
        run_search(small(), tmp_path, islands)


def test_islands_hear_of_each_other_and_elites_move_round_the_ring(tmp_path):
    config = small(islands=3, evaluations=400)
    islands = Recording(config, SyntheticPredictor())
    result = run_search(config, tmp_path, islands)
    born = result.evaluations.groupby("generation")
    for generation, tasks in enumerate(islands.tasks[1:], start=1):
        before = born.get_group(generation - 1)
        for index, task in enumerate(tasks):
            assert set(task.news.hashes) == set(before["hash"][before["island"] != index])
            assert (len(task.immigrants) > 0) == (generation % 2 == 0)
            assert set(task.immigrants.island.tolist()) <= {(index - 1) % 3}
            assert len(front_of(task.immigrants, config.directed)) == len(task.immigrants) <= 3


def test_records_tell_the_progress(tmp_path):
    records = []
    result = run(small(), tmp_path / "run", on_generation=records.append)
    counts = [r.evaluations for r in records]
    assert counts == sorted(set(counts))
    assert counts[-1] == records[-1].target == 150
    volumes = [r.hypervolume for r in records]
    assert volumes == sorted(volumes)
    assert volumes[0] > 0
    assert result.hypervolume == volumes[-1]
    assert records[-1].best_accuracy == result.evaluations["accuracy"].max()
    assert records[-1].front_size == len(result.front)
    assert all(0 < r.unique_fraction <= 1 for r in records)
    assert set(records[0].metrics()) == {
        "evaluations",
        "evaluations_per_second",
        "front_size",
        "hypervolume",
        "best_accuracy",
        "unique_fraction",
    }


def test_a_space_with_nothing_new_left_ends_with_the_reason(tmp_path, monkeypatch):
    class Tiny(HiAML):
        name = "tiny"
        genes = (*(Gene(f"fixed {i}", BLOCKS, (0,)) for i in range(3)), Gene("free", BLOCKS))

    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, Tiny()))
    config = small(space="tiny", patience=4)
    result = run(config, tmp_path / "run")
    assert len(result.evaluations) == 14
    assert result.reason.startswith("no new network in 4 generations after 14 of 150 evaluations: tiny is exhausted")
    again = run(config, tmp_path / "run", evaluator=Counting(lambda _: pytest.fail("nothing is left to predict")))
    assert again.reason == result.reason


def test_networks_without_an_answer_are_kept_off_the_front_and_not_asked_again(tmp_path):
    def spoil(accuracy):
        return np.where(np.arange(len(accuracy)) % 3 == 0, np.nan, accuracy)

    evaluator = Counting(spoil)
    result = run(small(islands=1), tmp_path / "run", evaluator)
    assert len(evaluator.hashes) == len(set(evaluator.hashes)) == 150
    assert result.evaluations["accuracy"].isna().sum() >= 50
    assert np.isfinite(result.front["accuracy"]).all()


def test_a_predictor_without_any_answer_ends_the_search(tmp_path):
    with pytest.raises(ServiceError, match=r"no finite accuracy for any of 20 networks of hiaml"):
        run(small(), tmp_path / "run", Counting(lambda accuracy: accuracy * np.nan))


@pytest.mark.parametrize("damage", ["state", "shard"])
def test_a_damaged_run_is_reported(tmp_path, damage):
    with pytest.raises(Stop):
        run(small(), tmp_path / "run", on_generation=stop_after(2))
    name = "state.npz" if damage == "state" else "evaluations/000001.parquet"
    (tmp_path / "run" / name).write_bytes(b"rubbish")
    with pytest.raises(WorkspaceError, match=rf"cannot read .*{name}.*cannot be continued"):
        run(small(), tmp_path / "run")
