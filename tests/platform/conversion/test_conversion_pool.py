"""Which deaths of workers count against what they were at, and which end a conversion; on a stand-in for Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from conversion_cases import SAMPLE
from ray.exceptions import RayActorError

from gennape.errors import ServiceError
from gennape.platform.cluster import worker_pool
from gennape.platform.cluster.worker_pool import TRIES
from gennape.platform.conversion.parts import Watch
from gennape.platform.conversion.pool import ConversionJob, Written, write_jobs


@dataclass
class Cluster:
    """Workers, numbered from 1, each on a machine of its own; calls are answered in the order in which they were made.

    Those in ``stillborn`` die as they start, those in ``doomed`` as they write, and those that write a shard of
    ``fatal`` with all its rows; with ``machines`` their machines go with them.
    """

    stillborn: set[int] = field(default_factory=set)
    doomed: set[int] = field(default_factory=set)
    fatal: set[str] = field(default_factory=set)
    machines: bool = False
    started: int = 0
    gone: set[int] = field(default_factory=set)
    skips: list[dict[int, str]] = field(default_factory=list)

    def remote(self, _class):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.start))

    def start(self, _own):
        self.started += 1
        number = self.started
        ready = SimpleNamespace(remote=lambda: _Call(self, number, number in self.stillborn, str(number)))
        return SimpleNamespace(ready=ready, write=SimpleNamespace(remote=lambda *given: self.write(number, *given)))

    def write(self, number, _part, path, _watch, skip, *_):
        self.skips.append(dict(skip))
        dies = number in self.doomed or (path.name in self.fatal and not skip)
        if not dies:
            path.write_text("a shard")
        return _Call(self, number, dies, (Written(1, 0, ""), 0))

    def nodes(self):
        return [{"NodeID": str(number), "Alive": number not in self.gone} for number in range(1, self.started + 1)]

    def wait(self, calls, num_returns, timeout):
        assert timeout > 0
        return calls[:num_returns], calls[num_returns:]

    def get(self, call):
        return call.answer()

    def kill(self, _):
        pass


@dataclass(eq=False)
class _Call:
    """A call of a worker."""

    cluster: Cluster
    worker: int
    dies: bool
    result: object

    def answer(self):
        if self.dies:
            if self.cluster.machines:
                self.cluster.gone.add(self.worker)
            raise RayActorError
        return self.result


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write ten shards on two workers of a cluster; returns the indices of those written."""

    def on(cluster):
        monkeypatch.setattr(worker_pool, "ray", cluster)
        alive = lambda: frozenset(node["NodeID"] for node in cluster.nodes() if node["Alive"])  # noqa: E731
        monkeypatch.setattr(worker_pool, "alive_nodes", alive)
        watch = Watch(tmp_path / "note", 60)
        jobs = [ConversionJob(SAMPLE, i, range(5 * i, 5 * i + 5), tmp_path / str(i), watch) for i in range(10)]
        return sorted(job.index for job, *_ in write_jobs(jobs, 2, 5, {}))

    return on


def test_a_worker_that_starts_or_writes_makes_up_for_those_that_died_as_they_started(write):
    assert write(Cluster(stillborn=set(range(2, 99)))) == list(range(10))
    with pytest.raises(ServiceError, match="workers die as they start"):
        write(Cluster(stillborn=set(range(1, 99))))


def test_lost_machines_are_not_counted(write):
    cluster = Cluster(stillborn={1, 2, 3, 4, 5}, doomed={6, 7, 8, 9, 10}, machines=True)
    assert write(cluster) == list(range(10))
    assert not any(cluster.skips)


def test_deaths_on_a_machine_that_stays_are(write):
    cluster = Cluster(fatal={"1"})
    assert write(cluster) == list(range(10))
    reason = f"FAILED: the process that converted it died {TRIES} times"
    assert [skip for skip in cluster.skips if skip] == [dict.fromkeys(range(5, 10), reason)]
    assert cluster.started == 2 + TRIES
