"""The workers of a conversion: one shard at a time each, replaced when they die."""

from __future__ import annotations

import csv
import io
import json
import resource
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from gennape.errors import ServiceError, WorkspaceError
from gennape.platform.cluster.worker_pool import TRIES, Allocation, WorkerPool
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
    whose worker dies is begun again by another. What kills its worker :data:`TRIES` times is rejected: the file at
    work where files are read, else all rows of the shard; lost machines are not counted. A file whose time is up is
    rejected at once. Raises :class:`ServiceError` when one worker after another dies before it has begun.
    """
    return _ShardPool(workers, spectrum, json.dumps(conversion, sort_keys=True)).run(jobs)


class _ShardPool(WorkerPool[ConversionJob, tuple[ConversionJob, Written, int]]):
    """Writers of shards, and what is left out of shards because it killed them."""

    def __init__(self, workers: int, spectrum: int, conversion: str) -> None:
        super().__init__(ShardWriter, Allocation(workers))
        self._spectrum, self._conversion = spectrum, conversion
        #: Rows to leave out of each shard, with reasons.
        self._skip: dict[int, dict[int, str]] = {}

    def arguments(self) -> tuple[()]:
        """None but the search spaces that every worker is given."""
        return ()

    def begin(self, actor: Any, task: ConversionJob) -> Any:
        """Write it, without what is to be left out."""
        part, skip = task.inputs.part(task.index, task.rows), self._skip.get(task.index, {})
        return actor.write.remote(part, task.path, task.watch, skip, self._spectrum, self._conversion)

    def finished(self, task: ConversionJob, answer: tuple[Written, int]) -> tuple[ConversionJob, Written, int]:
        """A shard is there."""
        if not task.path.is_file():
            raise WorkspaceError(f"{task.path} was written elsewhere; give a folder that all machines share")
        return task, *answer

    def died(self, task: ConversionJob, error: Exception) -> None:  # noqa: ARG002
        """Blame the file that was read, or else all rows: they are left out at once or after some deaths."""
        row, late = read_note(task.watch.note)
        task.watch.note.unlink(missing_ok=True)
        skip = self._skip.setdefault(task.index, {})
        if len(skip) == len(task.rows):
            raise ServiceError(f"a worker died writing {task.path}, which has no graphs; see the logs of Ray")
        last = self.was_last_try((task.index, row))
        if late and row is not None:
            skip[row] = f"TIMEOUT: not read within {task.watch.seconds:g} s"
        elif last:
            reason = f"FAILED: the process that converted it died {TRIES} times"
            skip |= dict.fromkeys(task.rows if row is None else [row], reason)


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
