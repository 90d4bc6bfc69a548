"""The search's logic, with islands in this process and a predictor that is a formula."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import ServiceError, WorkspaceError
from gennape.platform.search import search_run
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.evaluations import digests_of
from gennape.platform.search.failures import FAILURES, LOSSES, IslandLostError
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.log import read_log
from gennape.platform.search.objectives import NAMES, minimised
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.families import registry
from gennape.search_spaces.families.hiaml import NAMES as BLOCKS
from gennape.search_spaces.families.hiaml import HiAML
from gennape.search_spaces.families.space import Gene
from gennape.search_spaces.graphs.canonical import canonical_hashes


class _Stop(Exception):
    """Stands for whatever ends a process."""


class _Counting:
    """Predicts by formula and notes every network asked for; some accuracies may be spoilt."""

    def __init__(self, spoil=lambda accuracy: accuracy):
        self.hashes = []
        self.spoil = spoil

    def predict(self, graphs):
        self.hashes += canonical_hashes(graphs)
        prediction = SyntheticPredictor().predict(graphs)
        return Prediction(self.spoil(prediction.accuracy), prediction.memberships)


class Recording(LocalIslands):
    """Islands that keep their tasks and news, and lose what they were told to in chosen calls."""

    def __init__(self, config, evaluator, lose=(), error=IslandLostError):
        super().__init__(config, evaluator)
        self.tasks = []
        self.lose = lose
        self.error = error
        self.calls = 0

    def advance(self, island, task, news):
        self.calls += 1
        self.tasks.append((island, task, news))
        if self.calls in self.lose:
            super().advance(island, task, news)
            raise self.error("killed")
        return super().advance(island, task, news)


def small(**settings):
    defaults = {"space": "hiaml", "evaluations": 150, "population": 20, "migration_every": 2, "migrants": 3, "seed": 1}
    return search_config(**defaults | settings)


def run(config, folder, evaluator=None, on_generation=lambda _: None):
    folder.mkdir(exist_ok=True)
    return run_search(config, folder, LocalIslands(config, evaluator or SyntheticPredictor()), on_generation)


def stop_after(generations):
    def follow(record):
        if record.generation + 1 == generations:
            raise _Stop

    return follow


@settings(max_examples=examples(8), deadline=None)
@given(st.integers(1, 130), st.integers(1, 4), st.integers(8, 25), st.sampled_from(["nsga2", "random"]))
def test_exactly_the_evaluations_asked_for(tmp_path_factory, evaluations, islands, population, searcher):
    config = small(evaluations=evaluations, islands=islands, population=population, searcher=searcher)
    evaluator = _Counting()
    result = run(config, tmp_path_factory.mktemp("run"), evaluator)
    assert len(result.evaluations) == evaluations
    assert len(set(result.evaluations["hash"])) == evaluations
    assert set(evaluator.hashes) == set(result.evaluations["hash"])
    assert result.reason == f"all {evaluations:,} evaluations are done"


def test_one_island_never_predicts_a_network_twice(tmp_path):
    evaluator = _Counting()
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
    with pytest.raises(_Stop):
        run(small(), tmp_path / "cut", on_generation=stop_after(generations))
    resumed = run(small(), tmp_path / "cut")
    pd.testing.assert_frame_equal(resumed.front, expected.front)
    pd.testing.assert_frame_equal(resumed.evaluations, expected.evaluations)
    assert resumed.hypervolume == expected.hypervolume


@pytest.mark.parametrize("broken", ["write_shard", "save_state"])
def test_dying_between_shard_and_state_loses_nothing_that_was_recorded(tmp_path, monkeypatch, broken):
    expected = run(small(batch=20), tmp_path / "whole")
    original, calls = getattr(search_run, broken), []

    def dies_the_third_time(*args):
        calls.append(args)
        if len(calls) == 3:
            raise _Stop
        original(*args)

    monkeypatch.setattr(search_run, broken, dies_the_third_time)
    with pytest.raises(_Stop):
        run(small(batch=20), tmp_path / "cut")
    monkeypatch.undo()
    recorded = set(read_log(tmp_path / "cut", 4).hashes.tolist())
    evaluator = _Counting()
    resumed = run(small(batch=20), tmp_path / "cut", evaluator)
    pd.testing.assert_frame_equal(resumed.evaluations, expected.evaluations)
    assert not recorded & set(evaluator.hashes), "what the log holds is not asked again"
    assert len(recorded) >= 80 + 30 * (broken == "save_state")


@pytest.mark.parametrize("error", [IslandLostError, ServiceError])
def test_a_lost_island_and_a_failed_step_change_nothing(tmp_path, error):
    expected, records = run(small(), tmp_path / "whole"), []
    islands = Recording(small(), SyntheticPredictor(), (1, 4, 5), error)
    (tmp_path / "lost").mkdir()
    result = run_search(small(), tmp_path / "lost", islands, records.append)
    pd.testing.assert_frame_equal(result.evaluations, expected.evaluations)
    name = "PREEMPTED" if error is IslandLostError else "FAILED"
    events = [json.loads(line) for line in (tmp_path / "lost" / "failures.jsonl").read_text().splitlines()]
    assert [(e["state"], e["island"], e["generation"], e["error"]) for e in events] == [
        (name, 0, 0, "killed"),
        (name, 0, 1, "killed"),
        (name, 1, 1, "killed"),
    ]
    assert (records[-1].preempted, records[-1].failed) == ((3, 0) if name == "PREEMPTED" else (0, 3))
    assert islands.calls == 3 + 2 * len(records), "the others keep their steps"


def test_islands_that_keep_dying_end_the_search(tmp_path):
    islands = Recording(small(), SyntheticPredictor(), lose=range(1, 99))
    with pytest.raises(ServiceError, match=rf"lost {LOSSES} times in generation 0.*fewer islands"):
        run_search(small(), tmp_path, islands)


def test_losses_on_the_way_are_not_counted_but_failures_of_one_step_are(tmp_path):
    losses = [call for call in range(1, 60) if call % 3]
    islands = Recording(small(islands=1), SyntheticPredictor(), lose=losses)
    (tmp_path / "lost").mkdir()
    result = run_search(small(islands=1), tmp_path / "lost", islands)
    assert len(result.evaluations) == 150
    (tmp_path / "failed").mkdir()
    failing = Recording(small(islands=1), SyntheticPredictor(), range(5, 99), ServiceError)
    with pytest.raises(ServiceError, match="killed"):
        run_search(small(islands=1), tmp_path / "failed", failing)
    assert failing.calls == 4 + FAILURES


def test_islands_hear_of_each_other_and_of_new_elites_of_all_others(tmp_path):
    config = small(islands=3, evaluations=400, migrants=4)
    islands = Recording(config, SyntheticPredictor())
    everything = run_search(config, tmp_path, islands).evaluations
    born = everything.groupby("generation")
    received = 0
    for index, task, news in islands.tasks:
        generation = task.generation
        if generation == 0:
            assert len(news) == len(task.immigrants) == 0
            continue
        assert news.digests.tolist() == digests_of(born.get_group(generation - 1)["hash"].tolist()).tolist()
        assert len(task.immigrants) <= (4 if generation % 2 == 0 else 0)
        received += len(task.immigrants)
        before = everything[everything["generation"] < generation]
        points = minimised(before[list(NAMES)].to_numpy(float), config.directed)
        for row in range(len(task.immigrants)):
            guest = before[before["hash"] == task.immigrants.hashes[row]].iloc[0]
            assert guest["island"] != index
            assert guest["generation"] >= generation - 2
            point = minimised(guest[list(NAMES)].to_numpy(float)[None], config.directed)
            assert not ((points <= point).all(1) & (points < point).any(1)).any()
    assert received > 10


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"islands": 1, "population": 40}, 40),
        ({"islands": 3, "population": 40}, 14),
        ({"islands": 8, "population": 40}, 8),
        ({"islands": 2, "population": 6}, 6),
        ({"islands": 2, "population": 40, "batch": 30}, 30),
        ({"islands": 2, "population": 40, "batch": 50}, 40),
    ],
)
def test_islands_share_a_population_of_evaluations(tmp_path, settings, share):
    config = small(searcher="random", evaluations=settings["islands"] * share, **settings)
    tasks = Recording(config, SyntheticPredictor())
    result = run_search(config, tmp_path, tasks)
    first = result.evaluations[result.evaluations["generation"] == 0]
    assert first.groupby("island").size().max() == share  # a sample of hiaml hardly ever repeats itself


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
        "infeasible",
        "timeouts",
        "preempted",
        "failed",
    }


def test_a_space_with_nothing_new_left_ends_with_the_reason(tmp_path, monkeypatch):
    class _Tiny(HiAML):
        name = "tiny"
        genes = (*(Gene(f"fixed {i}", BLOCKS, (0,)) for i in range(3)), Gene("free", BLOCKS))

    monkeypatch.setattr(registry.REGISTRY, "_own", {"tiny": _Tiny()})
    config = small(space="tiny", patience=4)
    result = run(config, tmp_path / "run")
    assert len(result.evaluations) == 14
    assert result.reason.startswith("no new network in 4 generations after 14 of 150 evaluations: tiny is exhausted")
    again = run(config, tmp_path / "run", evaluator=_Counting(lambda _: pytest.fail("nothing is left to predict")))
    assert again.reason == result.reason


def test_networks_without_an_answer_are_kept_off_the_front_and_not_asked_again(tmp_path):
    def spoil(accuracy):
        return np.where(np.arange(len(accuracy)) % 3 == 0, np.nan, accuracy)

    evaluator = _Counting(spoil)
    result = run(small(islands=1), tmp_path / "run", evaluator)
    assert len(evaluator.hashes) == len(set(evaluator.hashes)) == 150
    unanswered = result.evaluations["accuracy"].isna()
    assert unanswered.sum() >= 50
    assert result.evaluations["state"].tolist() == np.where(unanswered, "INFEASIBLE", "DONE").tolist()
    assert (result.evaluations["flops"] > 0).all()
    assert np.isfinite(result.front["accuracy"]).all()


def test_a_predictor_without_any_answer_ends_the_search(tmp_path):
    with pytest.raises(ServiceError, match=r"no finite accuracy for any of 12 networks of hiaml"):
        run(small(), tmp_path / "run", _Counting(lambda accuracy: accuracy * np.nan))


def test_a_predictor_that_is_always_late_ends_the_search_as_such(tmp_path):
    class _Late:
        def predict(self, graphs):
            raise TimeoutError(f"of {len(graphs)}")

    with pytest.raises(ServiceError, match=r"no answer in time for 8 of 8 networks of hiaml.*add replicas") as raised:
        run(small(islands=1, population=6), tmp_path / "run", _Late())
    assert "checkpoint" not in str(raised.value)


@pytest.mark.parametrize("damage", ["state", "shard"])
def test_a_damaged_run_is_reported(tmp_path, damage):
    with pytest.raises(_Stop):
        run(small(), tmp_path / "run", on_generation=stop_after(2))
    name = "state.npz" if damage == "state" else "evaluations/000001.parquet"
    (tmp_path / "run" / name).write_bytes(b"rubbish")
    with pytest.raises(WorkspaceError, match=rf"cannot read .*{name}.*cannot be continued"):
        run(small(), tmp_path / "run")
    if damage == "state":  # the log is the truth: as the message says, the state comes back from it
        (tmp_path / "run" / name).unlink()
        resumed, expected = run(small(), tmp_path / "run"), run(small(), tmp_path / "whole")
        pd.testing.assert_frame_equal(resumed.evaluations, expected.evaluations)
