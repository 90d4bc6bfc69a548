"""Asynchronous islands: what holds although no island waits."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import ServiceError
from gennape.platform.search import search_run
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.failures import IslandLostError, Loss, Outcome
from gennape.platform.search.front import front_of
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.log import read_log
from gennape.platform.search.searchers.testing import SyntheticPredictor


class _Stop(Exception):
    """Stands for whatever ends a process."""


class Shuffled(LocalIslands):
    """Steps end in an order that a generator decides; some are lost."""

    def __init__(self, config, rng, lost=0.0):
        super().__init__(config, SyntheticPredictor())
        self.rng = rng
        self.lost = lost
        self.steps = [0] * config.islands

    def receive(self):
        # What an island does depends on when it was sent, not on when it is asked for.
        self.waiting.insert(0, self.waiting.pop(int(self.rng.integers(len(self.waiting)))))
        island = self.waiting[0][0]
        if self.rng.random() < self.lost:
            self.waiting.pop(0)
            return [(island, Loss(Outcome.PREEMPTED, IslandLostError("killed")))]
        self.steps[island] += 1
        return super().receive()


class Straggling(LocalIslands):
    """Virtual time: island 0 takes ten times as long for a step as any other."""

    def __init__(self, config):
        super().__init__(config, SyntheticPredictor())
        self.now = 0.0
        self.ends = []
        self.steps = [0] * config.islands

    def send(self, tasks, news):
        for island, task in tasks.items():
            step = self.advance(island, task, news)
            heapq.heappush(self.ends, (self.now + (10.0 if island == 0 else 1.0), island, step))

    def receive(self):
        self.now, island, step = heapq.heappop(self.ends)
        self.steps[island] += 1
        return [(island, step)]


def asynchronous(**given):
    defaults = {"space": "hiaml", "evaluations": 240, "population": 15, "islands": 3, "migration_every": 2, "seed": 1}
    return search_config(**defaults | given | {"asynchronous": True})


def check(config, folder, result):
    """Whatever the order: as many as asked for, each once, the front that of all of them."""
    log = read_log(folder, 4)
    assert len(log) == len(set(log.hashes.tolist())) == config.evaluations
    assert result.evaluations["hash"].tolist() == log.hashes.tolist()
    assert set(result.front["hash"]) == set(front_of(log, config.directed).hashes.tolist())


@settings(max_examples=examples(12), deadline=None)
@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 200), st.sampled_from([0.0, 0.3]))
def test_every_order_of_arrival_records_each_network_once(tmp_path_factory, seed, islands, evaluations, lost):
    config, folder = asynchronous(islands=islands, evaluations=evaluations), tmp_path_factory.mktemp("run")
    check(config, folder, run_search(config, folder, Shuffled(config, np.random.default_rng(seed), lost)))


@pytest.mark.parametrize("broken", ["save_state", "write_shard", "nothing", "state.npz"])
@pytest.mark.parametrize("stop", [1, 3])
def test_going_on_loses_nothing_that_was_recorded_and_records_nothing_twice(tmp_path, monkeypatch, broken, stop):
    config, records = asynchronous(), []

    def dies(record):
        records.append(record)
        if len(records) == stop and broken in ("nothing", "state.npz"):
            raise _Stop

    if broken in ("save_state", "write_shard"):
        original, calls = getattr(search_run, broken), []

        def dies_at_last(*args):
            calls.append(args)
            if len(calls) == stop:
                raise _Stop
            original(*args)

        monkeypatch.setattr(search_run, broken, dies_at_last)
    with pytest.raises(_Stop):
        run_search(config, tmp_path, Shuffled(config, np.random.default_rng(0)), dies)
    monkeypatch.undo()
    if broken == "state.npz":
        (tmp_path / broken).unlink()
    before = read_log(tmp_path, 4)
    result = run_search(config, tmp_path, Shuffled(config, np.random.default_rng(1)))
    check(config, tmp_path, result)
    assert result.evaluations["hash"].tolist()[: len(before)] == before.hashes.tolist()
    again = run_search(config, tmp_path, Shuffled(config, np.random.default_rng(2)))
    assert again.front.equals(result.front)
    assert again.hypervolume == result.hypervolume


def test_an_island_that_had_stepped_never_begins_when_the_search_goes_on(tmp_path):
    class FirstFirst(LocalIslands):
        def receive(self):
            self.waiting.sort(key=lambda task: task[0])
            return super().receive()

    def dies(_):
        raise _Stop

    config = asynchronous(islands=2)
    with pytest.raises(_Stop):
        run_search(config, tmp_path, FirstFirst(config, SyntheticPredictor()), dies)
    check(config, tmp_path, run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor())))


def test_nobody_waits_for_a_straggler(tmp_path):
    config = asynchronous(evaluations=600, islands=4)
    islands = Straggling(config)
    check(config, tmp_path, run_search(config, tmp_path, islands))
    assert islands.steps[1] >= 8 * islands.steps[0] > 0
    assert max(islands.steps[1:]) - min(islands.steps[1:]) <= 1
    log = read_log(tmp_path, 4)
    assert log.generation[log.island == 1].max() >= 8 * log.generation[log.island == 0].max()


def test_elites_arrive_and_news_is_heard_once(tmp_path):
    config, heard, guests = asynchronous(), {i: [] for i in range(3)}, []

    class _Listening(Shuffled):
        def advance(self, island, task, news):
            heard[island] += news.digests.tolist()
            guests.append((island, task.generation, task.immigrants))
            return super().advance(island, task, news)

    run_search(config, tmp_path, _Listening(config, np.random.default_rng(0)))
    log = read_log(tmp_path, 4)
    for island, digests in heard.items():
        assert len(digests) == len(set(digests))
        others = log.take(log.island != island).digests.tolist()
        assert digests == others[: len(digests)]
        assert len(digests) > len(others) // 2
    assert any(len(found) for _, _, found in guests)
    for island, step, found in guests:
        assert island not in found.island
        assert not len(found) or step % 2 == 0
    for island in range(3):  # each elite comes once
        came = [digest for i, _, found in guests for digest in found.hashes.tolist() if i == island]
        assert len(came) == len(set(came))


def test_a_space_with_nothing_new_left_ends_and_failures_do(tmp_path):
    config = asynchronous(islands=2, patience=3, evaluations=9_000)
    islands = Shuffled(config, np.random.default_rng(0))
    islands.advance = lambda _i, _task, _news: (_ for _ in ()).throw(ServiceError("broken"))
    with pytest.raises(ServiceError, match="broken"):
        run_search(config, tmp_path, islands)
    known = []

    class Exhausted(Shuffled):
        def advance(self, island, task, news):
            step = super().advance(island, task, news)
            keep = len(known) < 3
            known.append(island)
            return step if keep else type(step)(step.evaluations.take([]), step.asked, step.state)

    result = run_search(config, tmp_path, Exhausted(config, np.random.default_rng(0)))
    assert result.reason.startswith("no new network in 3 generations after ")
    assert len(result.evaluations) == len(read_log(tmp_path, 4)) > 0
