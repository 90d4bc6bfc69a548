"""The log of a search: its evaluations on disk, in append-only Parquet shards. It is the authoritative record."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gennape.errors import WorkspaceError
from gennape.platform.search.evaluations import Evaluations, as_objects, concatenate, none_evaluated, to_table
from gennape.platform.search.failures import Outcome
from gennape.platform.search.objectives import NAMES
from gennape.platform.search.seen import Measurements, join_measurements, measurements_of, no_measurements
from gennape.search_spaces.files.atomic import atomic_path, is_partial, remove_partial_files
from gennape.search_spaces.files.bounded import open_regular
from gennape.search_spaces.files.parquet_pages import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

SHARDS = "evaluations"
_NAME = re.compile(r"(\d{6,})\.parquet")
#: Columns of every shard; further ones are further measures.
_SCHEMA = to_table(none_evaluated(0)).schema


def write_shard(folder: Path, number: int, evaluations: Evaluations) -> None:
    """Append a shard atomically; raises :class:`WorkspaceError` if there is already one with that number."""
    path = shard(folder, number)
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        raise WorkspaceError(f"{path} is already there and shards are never changed; does another search work here?")
    with atomic_path(path) as temporary:
        pq.write_table(to_table(evaluations), temporary, write_page_checksum=True)


def count_shards(folder: Path, *, repair: bool = True) -> int:
    """The number of shards. ``repair``, for the only process that writes, deletes partial files of killed writers.

    Raises :class:`WorkspaceError` if a shard before the last is missing, or for a file that is no shard.
    """
    if not (folder / SHARDS).is_dir():
        if os.path.lexists(folder / SHARDS):
            raise WorkspaceError(f"{folder / SHARDS} is no folder of evaluations; restore it from a copy")
        return 0
    if repair:
        remove_partial_files(folder / SHARDS)
    numbers = set()
    for path in (folder / SHARDS).iterdir():
        if not repair and is_partial(path):
            continue
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise WorkspaceError(f"{path} is no shard of evaluations; move it out of this folder")
        numbers.add(int(name[1]))
    missing = sorted(set(range(len(numbers))) - numbers)
    if missing:
        raise WorkspaceError(
            f"{shard(folder, missing[0])} is missing though later evaluations are there; "
            "restore it from a copy, or start a new search"
        )
    return len(numbers)


def read_shard(folder: Path, number: int) -> Evaluations:
    """The evaluations of one shard, bit for bit; raises :class:`WorkspaceError` when it cannot be read."""
    path = shard(folder, number)
    table = _table(path)
    with _readable(path):
        names = _names(table)
        values = np.stack([table[name].to_numpy().astype(np.float64) for name in names], axis=1)
        return Evaluations(
            np.array(table["hash"].to_pylist(), "U32"),
            _matrix(table["genome"], np.int64),
            values,
            _matrix(table["memberships"], np.float64),
            table["island"].to_numpy(),
            table["generation"].to_numpy(),
            np.array(table["state"].to_pylist(), "U10"),
            as_objects(table["architecture"].to_pylist()),
            table["deviation"].to_numpy(),
            table["violation"].to_numpy(),
            names,
        )


def read_log(folder: Path, genes: int) -> Evaluations:
    """All evaluations, oldest first; also while the run is at work."""
    shards = range(count_shards(folder, repair=False))
    return concatenate([none_evaluated(genes), *(read_shard(folder, number) for number in shards)])


def read_table(folder: Path) -> pa.Table:
    """The columns of all shards, oldest first; raises :class:`WorkspaceError` where there are none."""
    tables = [_table(shard(folder, number)) for number in range(count_shards(folder))]
    if not tables:
        raise WorkspaceError(f"{folder} holds no evaluations; has its search begun?")
    return pa.concat_tables([table for table in tables if len(table)] or tables[:1])


def count_rows(folder: Path) -> int:
    """The number of evaluations; also while the run is at work."""
    return sum(_rows(shard(folder, number)) for number in range(count_shards(folder, repair=False)))


def _rows(path: Path) -> int:
    with _readable(path):
        return int(pq.read_metadata(path).num_rows)


def read_measure_table(folder: Path) -> pd.DataFrame:
    """Only the measures of all evaluations, 8 bytes each, for drawing; also while the run is at work."""
    tables = [_table(shard(folder, number)) for number in range(count_shards(folder, repair=False))]
    frame: pd.DataFrame = pa.concat_tables([table.select(list(_names(table))) for table in tables]).to_pandas()
    return frame


def copy_log(folder: Path, to: Path) -> None:
    """Write all evaluations to one Parquet file, with one shard in memory at a time; also while the run is at work."""
    tables = (_table(shard(folder, number)) for number in range(count_shards(folder, repair=False)))
    first = next(tables)
    with atomic_path(to) as temporary, pq.ParquetWriter(temporary, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            if len(table):
                writer.write_table(table.cast(first.schema))


def read_measurements(folder: Path, shards: int) -> Measurements:
    """Measurements of the first ``shards`` shards, for islands. Other columns are in memory for one shard at a time."""
    return join_measurements(
        [no_measurements(), *(measurements_of(read_shard(folder, number)) for number in range(shards))]
    )


def chained(previous: str, evaluations: Evaluations) -> str:
    """Digest of a log with digest ``previous`` after these evaluations are appended."""
    chain = hashlib.blake2b(previous.encode(), digest_size=16)
    for array in _arrays(evaluations):
        chain.update(np.ascontiguousarray(array).tobytes())
    return chain.hexdigest()


def same(some: Evaluations, others: Evaluations) -> bool:
    """Whether both are equal, bit for bit."""
    return len(some) == len(others) and chained("", some) == chained("", others)


def shard(folder: Path, number: int) -> Path:
    """The path of a shard."""
    return folder / SHARDS / f"{number:06d}.parquet"


def _arrays(rows: Evaluations) -> Iterator[np.ndarray]:
    yield from (rows.digests, rows.genomes, rows.values, rows.memberships, rows.island, rows.generation)
    yield rows.states.astype("S10")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of damaged files and missing columns into :class:`WorkspaceError`."""
    try:
        yield
    except (*UNREADABLE, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(
            f"cannot read the evaluations in {path} ({error}); the run cannot be continued: "
            "restore the file from a copy, or start a new search"
        ) from error


def _table(path: Path) -> pa.Table:
    with _readable(path):
        with open_regular(path) as file:
            table = pq.read_table(file, page_checksum_verification=True)
        if "state" not in table.column_names:  # written before there were states
            finite = np.isfinite(table["accuracy"].to_numpy())
            states = np.where(finite, Outcome.DONE, Outcome.INFEASIBLE).tolist()
            table = table.append_column("state", pa.array(states, pa.string()))
        if "deviation" not in table.column_names:  # written before there were deviations
            table = table.append_column("deviation", pa.array(np.full(len(table), np.nan)))
        if "violation" not in table.column_names:  # written before there were limits
            table = table.append_column("violation", pa.array(np.zeros(len(table))))
        further = [name for name in table.column_names if name not in _SCHEMA.names]
        schema = to_table(none_evaluated(0, (*NAMES, *further))).schema
        return table.select(schema.names).cast(schema)


def _names(table: pa.Table) -> tuple[str, ...]:
    """The measures in the order of :attr:`Evaluations.names`."""
    return (*NAMES, *(name for name in table.column_names if name not in _SCHEMA.names))


def _matrix(column: pa.ChunkedArray, dtype: type) -> np.ndarray:
    rows = column.combine_chunks()
    flat = rows.flatten().to_numpy(zero_copy_only=False).astype(dtype)
    matrix: np.ndarray = flat.reshape(len(rows), len(flat) // max(len(rows), 1))
    return matrix
