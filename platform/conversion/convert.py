"""Convert architectures to Parquet shards of graphs on Ray actors. An interrupted conversion is continued."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import ray

import gennape
from gennape.errors import ConfigError
from gennape.platform.cluster.connection import local_ray
from gennape.platform.conversion.config import ConversionConfig
from gennape.platform.conversion.inputs import sha256_of
from gennape.platform.conversion.parts import COLUMNS, Watch
from gennape.platform.conversion.pool import REJECTED, ConversionJob, Written, write_jobs
from gennape.platform.workspace.files import make_writable
from gennape.platform.workspace.run_files import read_json
from gennape.platform.workspace.run_lock import lock_run
from gennape.search_spaces.files.atomic import atomic_path, remove_partial_files, write_json
from gennape.search_spaces.graphs.parquet import SCHEMA_VERSION, read_notes
from gennape.source import commit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gennape.platform.conversion.inputs import Inputs

__all__ = ["ConversionConfig", "ConversionResult", "convert"]

#: Files beside the shards: a manifest of the data set and its finished shards, and the rejected rows with reasons.
#: Readers of Parquet folders ignore names that begin with an underscore.
MANIFEST, REPORT = "_manifest.json", "_rejected.csv"


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """A finished conversion: converted rows, rejected rows by kind, shards, how many of them were finished before,
    and the peak memory of a worker (0 if none ran)."""

    rows: int
    rejected: Counter[str]
    shards: int
    kept: int
    peak_bytes: int


def convert(
    inputs: Inputs,
    to: Path,
    config: ConversionConfig,
    workers: int | None = None,
    address: str | None = None,
    follow: Callable[[int, int], None] = lambda done, rejected: None,  # noqa: ARG005
) -> ConversionResult:
    """Write ``inputs`` as shards into the folder ``to``, or continue an interrupted call.

    A shard depends only on its rows, so its bytes do not depend on the number of workers or on interruptions.
    ``workers`` defaults to the number of CPUs; ``follow`` receives the total numbers of converted and rejected rows.
    Raises :class:`ConfigError` if ``to`` holds something else, :class:`WorkspaceError` if it cannot be written, and
    :class:`ServiceError` if no worker starts.
    """
    to = to.absolute()
    _make_folder(to)
    with lock_run(to):
        jobs = _jobs(inputs, to, config)
        manifest = _manifest(inputs, to, config)
        finished = _whole_shards(to, manifest)
        kept, peak = len(finished), 0
        for written in finished.values():
            follow(written.rows + written.rejected, written.rejected)
        todo = [job for job in jobs if job.path.name not in finished]
        with ExitStack() as stack:
            if todo:
                stack.enter_context(local_ray(address, workers))
                cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
                workers = min(workers or cpus, len(todo))
            shards = closing(write_jobs(todo, workers or 0, config.spectrum, manifest["conversion"]))
            for job, written, memory in stack.enter_context(shards):
                _give_usual_permissions(job.path)
                finished[job.path.name] = written
                peak = max(peak, memory)
                _save(to, manifest, finished)
                follow(written.rows + written.rejected, written.rejected)
        _sweep(to)
        rejected = _report(inputs, to, finished)
        _save(to, manifest, finished)
        return ConversionResult(sum(w.rows for w in finished.values()), rejected, len(jobs), kept, peak)


def _jobs(inputs: Inputs, to: Path, config: ConversionConfig) -> list[ConversionJob]:
    starts = range(0, len(inputs), config.shard_size)
    digits = max(5, len(str(len(starts))))  # so that names sort by number
    names = [f"part-{index:0{digits}d}.parquet" for index in range(len(starts))]
    return [
        ConversionJob(
            inputs,
            index,
            range(start, min(start + config.shard_size, len(inputs))),
            to / name,
            Watch(to / f".{name}.note", config.timeout_s),
        )
        for index, (start, name) in enumerate(zip(starts, names, strict=True))
    ]


def _give_usual_permissions(path: Path) -> None:
    """The permissions of new files under the user's umask; workers of a local Ray would write for their owner only."""
    mask = os.umask(0o077)
    os.umask(mask)
    with suppress(OSError):  # a user of another machine may have written it
        path.chmod(0o666 & ~mask)


def _make_folder(to: Path) -> None:
    make_writable(to, "give another folder")
    foreign = sorted(path.name for path in to.iterdir() if not path.name.startswith("."))
    if foreign and MANIFEST not in foreign:
        raise ConfigError(f"{to} holds {foreign[0]} and no conversion; give an empty or a new folder")


def _manifest(inputs: Inputs, to: Path, config: ConversionConfig) -> dict[str, Any]:
    """The stored manifest if it describes the same conversion, else a new one. Removes leftovers of killed workers."""
    conversion = {
        **inputs.describe(),
        "spectrum": config.spectrum,
        "shard_size": config.shard_size,
        "gennape": gennape.__version__,
        "commit": commit(),
        "layout": SCHEMA_VERSION.decode(),
        "columns": list(COLUMNS),
    }
    if not (to / MANIFEST).exists():
        manifest = {"conversion": conversion, "shards": {}}
        _save(to, manifest, {})
        return manifest
    manifest = read_json(to / MANIFEST)
    try:
        stored = {**manifest["conversion"]}
        for shard in manifest["shards"].values():
            Written(**shard)
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(f"{to / MANIFEST} is of something else; give an empty or a new folder") from None
    differing = [
        f"{name} was {stored.get(name)!r}, now {conversion.get(name)!r}"
        for name in {**stored, **conversion}
        if stored.get(name) != conversion.get(name)
    ]
    if differing:
        raise ConfigError(
            f"{to} holds another conversion: {'; '.join(differing)}. Repeat the command and the version that began it, "
            "or give another folder"
        )
    _sweep(to)
    return manifest


def _sweep(to: Path) -> None:
    """Remove leftovers of killed workers. A worker that was taken for dead but still writes then fails silently."""
    remove_partial_files(to)
    for note in to.glob(".*.note"):
        note.unlink(missing_ok=True)


def _save(to: Path, manifest: dict[str, Any], finished: dict[str, Written]) -> None:
    write_json(to / MANIFEST, manifest | {"shards": {name: asdict(written) for name, written in finished.items()}})


def _whole_shards(to: Path, manifest: dict[str, Any]) -> dict[str, Written]:
    """Finished shards whose files are unchanged. Others are written again."""
    shards = {name: Written(**shard) for name, shard in manifest["shards"].items()}
    return {name: w for name, w in shards.items() if (to / name).is_file() and sha256_of(to / name) == w.sha256}


def _report(inputs: Inputs, to: Path, finished: dict[str, Written]) -> Counter[str]:
    """Write ``_rejected.csv``, unreadable sources first, then by row; returns the number of each kind."""
    kinds: Counter[str] = Counter()
    with atomic_path(to / REPORT) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("source", "row", "reason"))
        for source, reason in inputs.unread:
            kinds["INVALID"] += 1
            rows.writerow((source, "", f"INVALID: {reason}"))
        for name in sorted(finished):
            if finished[name].rejected:
                _, notes = read_notes(to / name)
                for source, row, reason in csv.reader(io.StringIO(notes[REJECTED])):
                    kinds[reason.partition(":")[0]] += 1
                    rows.writerow((source, row, reason))
    return kinds
