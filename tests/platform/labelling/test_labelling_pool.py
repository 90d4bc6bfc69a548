"""Whatever happens to workers, each training ends in one row: with a stand-in for Ray that loses them as it is told."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from gennape.errors import ServiceError, WorkspaceError
from gennape.platform.cluster import worker_pool
from gennape.platform.cluster.worker_pool import TRIES
from gennape.platform.labelling import pool as labelling_pool
from gennape.platform.labelling.pool import LabellingStudy, Pool, WorkerAllocation, checkpoint_path
from gennape.platform.labelling.rows import DONE, FAILED, LabellingTask, read_row, write_row
from gennape.platform.labelling.training.failures import DeviceMemoryError
from gennape.platform.labelling.training.network_training import TrainingResult
from gennape.platform.labelling.training.recipe import Recipe

TASKS = [LabellingTask("two_path", "{}", f"{n:032x}", 1, 0) for n in range(6)]
OUTCOME = TrainingResult([50.0], None, 1.0, 1.0, "cpu", recorded=False)
HERE = "here"


class _Trainer:
    """Stands in for the worker: writes the row, once only."""

    def __init__(self, study, device, _own):
        self.study, self.device = study, device

    def ready(self):
        return HERE

    def train(self, task):
        if read_row(self.study.folder, task) is None:
            write_row(self.study.folder, task, "recipe", "data", OUTCOME)


class _Actor:
    """A handle."""


@dataclass
class StandIn:
    """Of Ray: actors answer in any order. ``troubles``: what the next calls of a kind end in, instead or afterwards."""

    rng: random.Random
    troubles: dict[str, list[object]] = field(default_factory=dict)
    alive: set[str] = field(default_factory=lambda: {HERE})
    options: list[dict[str, float]] = field(default_factory=list)
    actors: set[object] = field(default_factory=set)
    most: int = 0

    def remote(self, cls):
        def start(*args):
            actor, worker = _Actor(), cls(*args)
            actor.ready = SimpleNamespace(remote=lambda: ("ready", worker.ready, (), actor))
            actor.train = SimpleNamespace(remote=lambda task: ("train", worker.train, (task,), actor))
            self.actors.add(actor)
            self.most = max(self.most, len(self.actors))
            return actor

        def options(**resources):
            self.options.append(resources)
            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, references, num_returns, timeout):
        assert (num_returns, timeout > 0) == (1, True)
        chosen = self.rng.choice(references)
        return [chosen], [each for each in references if each is not chosen]

    def get(self, reference):
        name, call, args, actor = reference
        trouble = self.troubles.get(name, [])
        end = trouble.pop(0) if trouble else None
        if end is None:
            return call(*args)
        if isinstance(end, tuple):  # it did its work, and was lost before it could say so
            call(*args)
            end = end[0]
        if not isinstance(end, RayTaskError):
            self.actors.discard(actor)
        raise end

    def kill(self, actor):
        self.actors.discard(actor)


def task_error(cause):
    return RayTaskError("train", "traceback", cause)


@pytest.fixture
def pool_of(monkeypatch, tmp_path_factory):
    def make(allocation=None, seed=0, **troubles):
        folder = tmp_path_factory.mktemp("study")
        for part in ("rows", "checkpoints"):
            (folder / part).mkdir()
        ray = StandIn(random.Random(seed), troubles)  # noqa: S311
        monkeypatch.setattr(worker_pool, "ray", ray)
        monkeypatch.setattr(worker_pool, "alive_nodes", lambda: frozenset(ray.alive))
        monkeypatch.setattr(labelling_pool, "Trainer", _Trainer)
        study = LabellingStudy(Recipe(), 0, folder, None, "data", folder)
        notes = []
        return Pool(study, allocation or WorkerAllocation(2, "cpu"), notes.append), folder, ray, notes

    return make


def rows_of(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "rows").iterdir()}


def run(pool, tasks=TASKS):
    polled = []
    return list(pool.run(tasks, lambda: polled.append(len(pool.under_way))))


def test_every_training_is_told_once(pool_of):
    pool, folder, ray, notes = pool_of(WorkerAllocation(4, "cpu"))
    assert Counter(run(pool)) == Counter(TASKS)
    assert len(rows_of(folder)) == len(TASKS)
    assert (ray.most, ray.actors, notes) == (4, set(), [])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 4),
    lost=st.lists(st.sampled_from(["no", "before", "after"]), max_size=8),
)
def test_lost_workers_lose_and_repeat_nothing(pool_of, seed, workers, lost):
    """Machines that go away, before a row is written or after it, are never counted."""
    ends = {"no": None, "before": ActorDiedError(), "after": (ActorDiedError(),)}
    pool, folder, ray, _ = pool_of(WorkerAllocation(workers, "cpu"), seed, train=[ends[each] for each in lost])
    ray.alive = set()
    assert Counter(run(pool)) == Counter(TASKS)
    assert {row["state"] for row in rows_of(folder).values()} == {DONE}
    assert not ray.actors


def test_a_training_that_kills_its_process_has_failed(pool_of):
    pool, folder, _, _ = pool_of(WorkerAllocation(1, "cpu"), train=[ActorDiedError()] * TRIES)
    checkpoint_path(folder, TASKS[0]).write_bytes(b"left behind")
    assert Counter(run(pool)) == Counter(TASKS)
    states = {key: row["state"] for key, row in rows_of(folder).items()}
    assert states[TASKS[0].key] == FAILED
    assert Counter(states.values()) == {DONE: 5, FAILED: 1}
    assert "died 3 times" in rows_of(folder)[TASKS[0].key]["reason"]
    assert not list((folder / "checkpoints").iterdir())


def test_an_unknown_error_is_tried_again_and_then_has_failed(pool_of):
    pool, folder, _, _ = pool_of(WorkerAllocation(1, "cpu"), train=[task_error(RuntimeError("odd"))] * (TRIES - 1))
    run(pool)
    assert {row["state"] for row in rows_of(folder).values()} == {DONE}
    pool, folder, _, _ = pool_of(WorkerAllocation(1, "cpu"), train=[task_error(RuntimeError("odd"))] * TRIES)
    run(pool)
    assert rows_of(folder)[TASKS[0].key]["reason"] == "RuntimeError: odd"


@pytest.mark.parametrize("error", [task_error(DeviceMemoryError("full")), OutOfMemoryError("full")])
@pytest.mark.parametrize("when", ["ready", "train"])
def test_where_memory_does_not_suffice_fewer_train_beside_each_other(pool_of, error, when):
    pool, folder, ray, notes = pool_of(WorkerAllocation(8, "cuda", 8), **{when: [error]})
    assert Counter(run(pool)) == Counter(TASKS)
    assert {row["state"] for row in rows_of(folder).values()} == {DONE}
    assert ray.options[0] == {"num_cpus": 0.5, "num_gpus": 1 / 8}
    assert {options["num_gpus"] for options in ray.options} == {1 / 8, 1 / 4}
    assert notes == ["out of memory with 8 trainings beside each other, on with 4"]


def test_a_network_that_does_not_fit_alone_has_failed(pool_of):
    full = task_error(DeviceMemoryError("not enough memory"))
    pool, folder, _, notes = pool_of(WorkerAllocation(2, "cuda", 2), train=[full, full, full])
    assert Counter(run(pool)) == Counter(TASKS)
    reasons = [row["reason"] for row in rows_of(folder).values() if row["state"] == FAILED]
    assert set(reasons) == {"not enough memory"}
    assert notes == ["out of memory with 2 trainings beside each other, on with 1"]


def test_shares_get_roomier_down_to_one():
    assert WorkerAllocation(16, "cuda", 8).halved() == WorkerAllocation(8, "cuda", 4)
    assert WorkerAllocation(3, "cuda", 3).halved() == WorkerAllocation(1, "cuda", 1)
    assert WorkerAllocation(5, "cpu").halved() == WorkerAllocation(2, "cpu")
    assert WorkerAllocation(4, "cpu").per_device == 4
    assert WorkerAllocation(4, "cuda", 2).per_device == 2


def test_workers_that_die_as_they_start_end_it(pool_of):
    pool, _, ray, _ = pool_of(ready=[ActorDiedError()] * TRIES)
    with pytest.raises(ServiceError, match="die as they start"):
        run(pool)
    assert not ray.actors


def test_a_machine_that_is_taken_back_while_workers_start_on_it_is_not_counted(pool_of, monkeypatch):
    pool, folder, ray, _ = pool_of(ready=[ActorDiedError()] * 2 * TRIES)
    get = StandIn.get

    def get_and_lose(self, reference):
        self.alive = {HERE, f"after {len(self.troubles['ready'])}"}  # another one is gone at each answer
        return get(self, reference)

    monkeypatch.setattr(StandIn, "get", get_and_lose)
    assert Counter(run(pool)) == Counter(TASKS)
    assert {row["state"] for row in rows_of(folder).values()} == {DONE}
    assert not ray.actors


def test_a_full_disk_ends_it_with_its_message_and_keeps_rows(pool_of):
    full = task_error(WorkspaceError("cannot write: no space left on device"))
    pool, folder, ray, _ = pool_of(WorkerAllocation(1, "cpu"), train=[None, None, full])
    with pytest.raises(WorkspaceError, match="no space left"):
        run(pool)
    assert len(rows_of(folder)) == 2
    assert not ray.actors


def test_a_workspace_that_is_not_shared_is_found_out(pool_of, monkeypatch):
    pool, _, _, _ = pool_of()
    monkeypatch.setattr(_Trainer, "train", lambda *_: None)
    with pytest.raises(WorkspaceError, match="all machines share"):
        run(pool)
