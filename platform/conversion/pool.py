"""The workers of a conversion: one shard at a time each, replaced when they die."""

from __future__ import annotations

import csv
import io
import json
import resource
import sys
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from gennape.errors import GennapeError, ServiceError, WorkspaceError
from gennape.platform.cluster.connection import alive_nodes
from gennape.platform.cluster.own_code import carried
from gennape.platform.conversion.inputs import sha256_of
from gennape.platform.conversion.parts import read_note
from gennape.search_spaces.families.registry import REGISTRY
from gennape.search_spaces.graphs.parquet import write_graphs

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    from gennape.platform.conversion.inputs import Inputs
    from gennape.platform.conversion.parts import Converted, Part, Watch
    from gennape.search_spaces.families.space import SearchSpace

#: Notes in the footer of a shard: the conversion that it belongs to as JSON; its rejected rows as CSV without header.
CONVERSION, REJECTED = "gennape.conversion", "gennape.rejected"
#: Deaths of workers after which what they were at is rejected, or, while they start, the conversion given up.
DEATHS = 3
_DEAD = (RayActorError, WorkerCrashedError, OutOfMemoryError, NodeDiedError)


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """A shard to write. Its part is cut out of the inputs only when a worker is free for it."""

    inputs: Inputs
    index: int
    rows: range
    path: Path
    watch: Watch


@dataclass(frozen=True, slots=True)
class Written:
    """A finished shard: its graphs, its rejected rows, its hash."""

    rows: int
    rejected: int
    sha256: str


class ShardWriter:
    """A worker: writes one shard at a time, on one core."""

    def __init__(self, own: Sequence[SearchSpace] = ()) -> None:
        REGISTRY.take(own)
        # Ray sets OMP_NUM_THREADS by the CPUs that an actor reserves; Arrow has pools of its own.
        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)

    def ready(self) -> str:
        """Returns when the worker is up, with the node that this is."""
        return str(ray.get_runtime_context().get_node_id())

    def write(
        self, part: Part, path: Path, watch: Watch, skip: Mapping[int, str], spectrum: int, conversion: str
    ) -> tuple[Written, int]:
        """Convert a part into the file ``path``, which appears whole or not at all; also the worker's peak memory."""
        return write_shard(path, part.convert(spectrum, watch, skip), conversion), peak_bytes()


def write_shard(path: Path, converted: Converted, conversion: str) -> Written:
    """Write graphs and, in the footer, what was rejected beside them."""
    text = io.StringIO()
    csv.writer(text).writerows((r.source, r.row, r.reason) for r in converted.rejected)
    write_graphs(path, converted.graphs, converted.columns, {CONVERSION: conversion, REJECTED: text.getvalue()})
    return Written(len(converted.graphs), len(converted.rejected), sha256_of(path))


def write_jobs(
    jobs: Sequence[ConversionJob], workers: int, spectrum: int, conversion: Mapping[str, Any]
) -> Generator[tuple[ConversionJob, Written, int]]:
    """Write shards on ``workers`` actors, each of one CPU; yields each with its worker's peak memory as it is finished.

    Every worker has one shard at a time and the driver keeps none, so memory is bounded on both sides. A shard
    whose worker dies is begun again by another. What kills its worker :data:`DEATHS` times is rejected: the file at
    work where files are read, else all rows of the shard; lost machines are not counted. A file whose time is up is
    rejected at once. Raises :class:`ServiceError` when one worker after another dies before it has begun.
    """
    if not jobs:
        return
    text = json.dumps(conversion, sort_keys=True)
    actor_class = ray.remote(num_cpus=1)(ShardWriter)
    waiting, troubles = deque(jobs), _Troubles()
    running: dict[Any, tuple[_ConversionWorker, ConversionJob | None]] = {}
    _start(actor_class, running, workers)
    try:
        while waiting or any(job is not None for _, job in running.values()):
            (done,), _ = ray.wait(list(running), num_returns=1)
            worker, job = running.pop(done)
            try:
                answer = _get(done)
            except _DEAD as error:
                troubles.died(worker, job, error)
                if job is not None:
                    waiting.appendleft(job)
                _start(actor_class, running, 1)
                continue
            troubles.false_starts = 0
            if job is None:
                worker.node = answer
            else:
                if not job.path.is_file():
                    raise WorkspaceError(f"{job.path} was written elsewhere; give a folder that all machines share")
                yield job, *answer
            if waiting:
                job = waiting.popleft()
                part = job.inputs.part(job.index, job.rows)
                task = worker.actor.write.remote(part, job.path, job.watch, troubles.skip(job), spectrum, text)
                running[task] = worker, job
    finally:
        for worker, _ in running.values():
            ray.kill(worker.actor)


@dataclass(slots=True, eq=False)
class _ConversionWorker:
    """An actor, the nodes that there were when it was started, and its own once it is up."""

    actor: Any
    nodes: frozenset[str]
    node: str = ""


class _Troubles:
    """What killed workers, and what is left out for it; ``false_starts``: deaths at the start since all went well."""

    def __init__(self) -> None:
        self.false_starts = 0
        self._deaths: Counter[tuple[int, int | None]] = Counter()
        self._skip: dict[int, dict[int, str]] = {}

    def skip(self, job: ConversionJob) -> dict[int, str]:
        """Rows to leave out, with reasons."""
        return self._skip.get(job.index, {})

    def died(self, worker: _ConversionWorker, job: ConversionJob | None, error: Exception) -> None:
        """A worker died: of what it was at, unless its machine went."""
        if job is not None:
            if worker.node in alive_nodes():
                self._blame(job)
        elif worker.nodes <= alive_nodes():  # else it may have been starting on the one that is gone
            self.false_starts += 1
            if self.false_starts == DEATHS:
                raise ServiceError(f"workers die as they start: {error}; see the logs of Ray") from error

    def _blame(self, job: ConversionJob) -> None:
        row, late = read_note(job.watch.note)
        job.watch.note.unlink(missing_ok=True)
        skip = self._skip.setdefault(job.index, {})
        if len(skip) == len(job.rows):
            raise ServiceError(f"a worker died writing {job.path}, which has no graphs; see the logs of Ray")
        self._deaths[job.index, row] += 1
        if late and row is not None:
            skip[row] = f"TIMEOUT: not read within {job.watch.seconds:g} s"
        elif self._deaths[job.index, row] >= DEATHS:
            reason = f"FAILED: the process that converted it died {DEATHS} times"
            skip |= dict.fromkeys(job.rows if row is None else [row], reason)


def _start(actor_class: Any, running: dict[Any, tuple[_ConversionWorker, ConversionJob | None]], count: int) -> None:
    nodes = alive_nodes()
    for _ in range(count):
        actor = actor_class.remote(carried(REGISTRY.registered))
        running[actor.ready.remote()] = _ConversionWorker(actor, nodes), None


def _get(reference: Any) -> Any:
    """The answer of a worker; our own errors come out as themselves."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, GennapeError):
            raise error.cause from None
        raise


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
