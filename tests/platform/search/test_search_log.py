"""The log of evaluations, what is kept of it in memory, and how answers, refusals and timeouts get into it."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from gennape.errors import InvalidGraphError, ServiceError, WorkspaceError
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.evaluations import (
    Evaluations,
    as_objects,
    concatenate,
    first_of_each,
    narrow,
    none_evaluated,
)
from gennape.platform.search.evaluator import MAX_TIMEOUTS, MAX_TIMEOUTS_PER_NETWORK, evaluate_population
from gennape.platform.search.failures import IslandLostError
from gennape.platform.search.front import front_frame, front_of
from gennape.platform.search.islands import LocalIslands, Step, Task
from gennape.platform.search.log import copy_log, count_shards, read_log, read_shard, same, shard, write_shard
from gennape.platform.search.objectives import parse_objectives
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.search.seen import Measurements, RecentArrivals, SeenNetworks
from gennape.platform.search.state import load_state
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes

SPACE = family("hiaml")
FIELDS = tuple(name for name in Evaluations.__dataclass_fields__ if name != "names")


class _Stop(Exception):
    """Stands for whatever ends a process."""


def some(n, first=0, generation=0, clusters=3):
    """Evaluations with a few of every state."""
    rows = np.arange(first, first + n)
    genomes = np.stack(np.unravel_index(rows, (14, 14, 14, 14)), axis=1).astype(np.int64)
    states = np.array(["DONE", "INFEASIBLE", "TIMEOUT"], "U10")[rows % 3]
    accuracy = np.where(states == "DONE", rows / 3, np.nan)
    values = np.stack([accuracy, 2.0**52 + rows, rows, rows + 1.0], axis=1)
    hashes = np.array([f"{row:032x}" for row in rows], "U32")
    memberships = np.full((n, clusters), 1 / 3)
    texts = as_objects([json.dumps(SPACE.encode(genome)) for genome in genomes])
    return Evaluations(hashes, genomes, values, memberships, rows % 2, np.full(n, generation), states, texts)


def assert_same(got, expected):
    for name in FIELDS:
        left, right = getattr(got, name), getattr(expected, name)
        assert left.dtype == right.dtype, name
        assert left.tolist() == right.tolist() if name == "architectures" else left.tobytes() == right.tobytes(), name


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-1, 0, 1, 2**53 + 1, 2**62 + 1]),
)
def test_whole_numbers_stay_what_they_are_in_fewer_bytes(low, high, between):
    array = np.array([low, between, high], np.int64)
    small = narrow(array)
    assert small.dtype.kind in "iu"
    assert small.astype(np.int64).tolist() == array.tolist()
    assert narrow(np.array([-1, 127])).dtype == np.int8
    assert narrow(np.array([-1, 128])).dtype == np.int16
    assert narrow(np.array([0, 255])).dtype == np.uint8


# On disk -------------------------------------------------------------------------------------------------------------


def test_shards_give_back_every_bit_and_are_never_changed(tmp_path):
    parts = [some(4), none_evaluated(4), some(3, first=9, generation=2)]
    for number, part in enumerate(parts):
        write_shard(tmp_path, number, part)
        assert_same(concatenate([none_evaluated(4), read_shard(tmp_path, number)]), part)
    (tmp_path / "evaluations" / ".000003.0a1b2c3d.parquet").write_bytes(b"half")
    assert count_shards(tmp_path) == 3
    assert_same(read_log(tmp_path, 4), concatenate(parts))
    assert sorted(p.name for p in (tmp_path / "evaluations").iterdir()) == [f"00000{i}.parquet" for i in range(3)]
    with pytest.raises(WorkspaceError, match=r"000001\.parquet is already there"):
        write_shard(tmp_path, 1, some(1))


def test_columns_of_before_stay_and_old_shards_are_read(tmp_path):
    write_shard(tmp_path, 0, some(4))
    frame = pd.read_parquet(shard(tmp_path, 0))
    published = ["hash", "architecture", "accuracy", "flops", "macs", "params", "island", "generation", "genome"]
    assert list(frame.columns) == [*published, "memberships", "state", "deviation", "violation"]
    frame.drop(columns=["state", "deviation", "violation"]).to_parquet(shard(tmp_path, 0), index=False)
    assert read_shard(tmp_path, 0).states.tolist() == ["DONE", "INFEASIBLE", "INFEASIBLE", "DONE"]
    assert np.isnan(read_shard(tmp_path, 0).deviation).all()


def test_deviations_are_kept_travel_and_are_shown_where_there_are_any(tmp_path):
    rows = some(4)
    told = dataclasses.replace(rows, deviation=np.array([0.5, np.nan, np.nan, 0.25]))
    write_shard(tmp_path, 0, told)
    write_shard(tmp_path, 1, some(2, first=4))
    assert_same(read_shard(tmp_path, 0), told)
    assert_same(pickle.loads(pickle.dumps(told)), told)  # noqa: S301 (our own bytes)
    copy_log(tmp_path, tmp_path / "all.parquet")
    kept = pd.read_parquet(tmp_path / "all.parquet")["deviation"]
    assert kept[[0, 3]].tolist() == [0.5, 0.25]
    assert kept.isna().sum() == 4
    objectives = parse_objectives("accuracy:max,flops:min")
    front = front_frame(front_of(told, objectives), objectives)
    assert front.set_index("hash")["deviation"].to_dict() == {rows.hashes[0]: 0.5, rows.hashes[3]: 0.25}
    assert front_frame(front_of(rows, objectives), objectives)["deviation"].isna().all()
    # a log that was begun before deviations were kept goes on: they are no part of what is compared
    assert same(rows, told)


def test_gaps_and_strangers_in_the_log_are_refused(tmp_path):
    for number in range(3):
        write_shard(tmp_path, number, some(1, first=number))
    shard(tmp_path, 1).unlink()
    with pytest.raises(WorkspaceError, match=r"000001\.parquet is missing though later"):
        count_shards(tmp_path)
    (tmp_path / "evaluations" / "copy.parquet").write_bytes(b"")
    with pytest.raises(WorkspaceError, match=r"copy\.parquet is no shard"):
        count_shards(tmp_path)


def test_a_log_that_is_not_the_states_is_refused(tmp_path):
    config = search_config(space="hiaml", evaluations=100, population=20, seed=1)

    def stop(record):
        if record.generation == 1:
            raise _Stop

    with pytest.raises(_Stop):
        run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()), stop)
    content = shard(tmp_path, 1).read_bytes()
    shard(tmp_path, 1).unlink()
    with pytest.raises(WorkspaceError, match=r"of 2 rounds, but evaluations of 1 are there"):
        run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()))
    write_shard(tmp_path, 1, some(7, first=99))
    with pytest.raises(WorkspaceError, match=r"not those that state\.npz was stored with"):
        run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()))
    (tmp_path / "state.npz").unlink()
    with pytest.raises(WorkspaceError, match=r"000001\.parquet holds other evaluations than this search comes to"):
        run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()))
    shard(tmp_path, 1).write_bytes(content)
    assert len(run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor())).evaluations) == 100


# In memory and in messages -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=12), max_size=12))
def test_seen_is_a_dictionary_in_which_the_last_counts(additions):
    seen, expected = SeenNetworks(), {}
    for rows in additions:
        digests = np.array([(n << 64).to_bytes(16, "big") for n, _ in rows], "S16")
        seen.add(Measurements(digests, np.array([[v, 1, 2, 3] for _, v in rows], float).reshape(-1, 4)))
        expected |= dict(rows)
    asked = list(range(41))
    found, values = seen.find(np.array([(n << 64).to_bytes(16, "big") for n in asked], "S16"))
    assert found.tolist() == [n in expected for n in asked]
    assert values[found, 0].tolist() == [expected[n] for n in asked if n in expected]
    assert np.isnan(values[~found]).all()
    assert seen.any_finite == bool(expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=30))
def test_readers_of_recent_arrivals_see_every_row_once_in_order(actions):
    recent, total, at, seen = RecentArrivals(), 0, [0, 0, 0], [[], [], []]
    for rows, reader in actions:
        digests = np.array([i.to_bytes(16, "big") for i in range(total + 1, total + 1 + rows)], "S16")
        recent.append(Measurements(digests, np.zeros((rows, 4))))
        total += rows
        seen[reader] += [int.from_bytes(d.ljust(16, b"\0"), "big") for d in recent.since(at[reader]).digests]
        at[reader] = recent.end
        recent.forget(min(at))
    for reader in range(3):
        assert seen[reader] == list(range(1, at[reader] + 1))


def test_messages_arrive_bit_for_bit_in_few_bytes():
    rows = concatenate([some(100), none_evaluated(4)])
    state = {"genomes": np.arange(400).reshape(100, 4), "objectives": np.ones((100, 2)), "rng": np.zeros(9, np.uint8)}
    packed = pickle.dumps(Step(rows, 120, state, 1), protocol=5)
    step = pickle.loads(packed)  # noqa: S301 (our own bytes: what Ray does with messages)
    assert_same(step.evaluations, rows)
    for key, array in state.items():
        assert step.state[key].dtype == array.dtype
        assert step.state[key].tolist() == array.tolist()
    assert (step.asked, step.timeouts) == (120, 1)
    # Of a network 16 bytes of hash, 4 genes, 4 measures, 3 memberships, island, generation and state; of a member of
    # the population 4 genes of two bytes and 2 objectives; a kilobyte or so of names.
    assert len(packed) < 100 * ((16 + 4 + 32 + 24 + 3) + (8 + 16)) + 1500


def test_rows_whose_clusters_are_unknown_stand_beside_others():
    both = concatenate([some(2, clusters=0), some(1, first=2, clusters=2)])
    assert np.isnan(both.memberships[:2]).all()
    assert both.memberships.shape == (3, 2)
    assert first_of_each(concatenate([some(3), some(5, first=1)])).hashes.tolist() == some(6).hashes.tolist()


# Evaluator -----------------------------------------------------------------------------------------------------------


class Moody:
    """Refuses some networks, is late for others so many times, and notes the sizes of what it is asked."""

    def __init__(self, refused=(), late=None, error=None):
        self.refused = set(refused)
        self.late = dict(late or {})
        self.error = error or InvalidGraphError("too odd")
        self.asked = []

    def predict(self, graphs):
        self.asked.append(len(graphs))
        hashes = canonical_hashes(graphs)
        if self.refused & set(hashes):
            raise self.error
        for digest in hashes:
            if self.late.get(digest, 0):
                self.late[digest] -= 1
                raise TimeoutError("late")
        return SyntheticPredictor().predict(graphs)


def graphs(n=32):
    genomes = np.unique(SPACE.sample(np.random.default_rng(0), n), axis=0)
    return SPACE.graphs(genomes), canonical_hashes(SPACE.graphs(genomes))


def test_what_is_refused_is_found_by_halving_and_the_rest_is_predicted():
    population, hashes = graphs()
    moody = Moody(refused=[hashes[3], hashes[20]])
    result = evaluate_population(moody, population)
    expected = SyntheticPredictor().predict(population)
    refused = np.isin(np.arange(len(hashes)), [3, 20])
    assert result.states.tolist() == np.where(refused, "INFEASIBLE", "DONE").tolist()
    assert np.isnan(result.accuracy[refused]).all()
    np.testing.assert_array_equal(result.accuracy[~refused], expected.accuracy[~refused])
    np.testing.assert_array_equal(result.memberships[~refused], expected.memberships[~refused])
    assert len(moody.asked) <= 1 + 2 * 2 * np.log2(len(hashes))


@pytest.mark.parametrize(("late", "state"), [(1, "DONE"), (3, "DONE"), (99, "TIMEOUT")])
def test_late_networks_are_evaluated_again_and_only_the_last_resort_is_recorded(late, state):
    population, hashes = graphs()
    result = evaluate_population(Moody(late={hashes[5]: late}), population)
    assert result.states.tolist() == ["DONE"] * 5 + [state] + ["DONE"] * (len(hashes) - 6)
    assert result.timeouts == min(late, np.ceil(np.log2(len(hashes))) + MAX_TIMEOUTS_PER_NETWORK)


def test_a_predictor_that_is_always_late_or_lost_fails_the_step():
    population, hashes = graphs()
    with pytest.raises(ServiceError, match=rf"late {MAX_TIMEOUTS + 1} times in one population of {len(hashes)}"):
        evaluate_population(Moody(late=dict.fromkeys(hashes, 99)), population)

    def after(cause):
        error = ServiceError("no answer")
        error.__cause__ = cause
        return Moody(refused=hashes, error=error)

    with pytest.raises(IslandLostError, match="service was lost"):
        evaluate_population(after(ActorDiedError()), population)
    with pytest.raises(ServiceError, match="late"):
        evaluate_population(after(BackPressureError(num_queued_requests=1, max_queued_requests=1)), population)
    with pytest.raises(ServiceError, match="no answer"):
        evaluate_population(after(ValueError()), population)


def test_refused_networks_are_recorded_paid_for_and_not_asked_again(tmp_path):
    config = search_config(space="hiaml", evaluations=120, population=20, seed=1, islands=1)

    class Picky(Moody):
        def predict(self, graphs):
            self.refused |= {digest for digest in canonical_hashes(graphs) if digest < "4"}
            return super().predict(graphs)

    result = run_search(config, tmp_path, LocalIslands(config, Picky()))
    frame = result.evaluations
    assert len(frame) == frame["hash"].nunique() == 120
    assert (frame["state"] == np.where(frame["hash"] < "4", "INFEASIBLE", "DONE")).all()
    assert 0 < (frame["state"] == "INFEASIBLE").sum() < 120
    assert not set(result.front["hash"]) & set(frame["hash"][frame["state"] != "DONE"])


def test_recorded_answers_are_not_asked_for_again():
    config = search_config(space="hiaml", evaluations=120, population=20, seed=1)
    task = Task(0, 20, none_evaluated(4))
    nothing = Measurements(np.zeros(0, "S16"), np.zeros((0, 4)))
    first = LocalIslands(config, Moody())
    first.start({0: None}, nothing)
    whole = first.advance(0, task, nothing)
    again = LocalIslands(config, moody := Moody())
    again.start({0: None}, nothing)
    half = whole.evaluations.take(np.arange(0, len(whole.evaluations), 2))
    step = again.advance(0, Task(0, 20, none_evaluated(4), half), nothing)
    assert moody.asked == [len(whole.evaluations) - len(half)]
    assert_same(step.evaluations, whole.evaluations)


def test_a_run_of_an_older_version_is_continued(tmp_path):
    """Version 1 kept the reference point in the state, each array by itself, and no column ``state`` in the log."""
    config = search_config(space="hiaml", evaluations=150, population=20, migration_every=2, seed=1)
    (tmp_path / "whole").mkdir()
    expected = run_search(config, tmp_path / "whole", LocalIslands(config, SyntheticPredictor()))

    def stop(record):
        if record.generation == 2:
            raise _Stop

    with pytest.raises(_Stop):
        run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()), stop)
    searchers = load_state(tmp_path, config, 4).searchers
    arrays = {f"{i}/{key}": array for i, searcher in enumerate(searchers) for key, array in searcher.items()}
    header = {"version": 1, "generation": 3, "idle": 0, "reference": [1.0, 2.0]}
    np.savez(tmp_path / "state.npz", header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    for number in range(3):
        path = shard(tmp_path, number)
        pq.write_table(pq.read_table(path).drop_columns("state"), path)
    resumed = run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()))
    pd.testing.assert_frame_equal(resumed.evaluations, expected.evaluations)
    assert resumed.hypervolume == expected.hypervolume
    header["version"] = 4
    np.savez(tmp_path / "state.npz", header=np.frombuffer(json.dumps(header).encode(), np.uint8))
    with pytest.raises(WorkspaceError, match="version 4, this gennape reads 1 to 3"):
        load_state(tmp_path, config, 4)
