"""Evaluated networks: as arrays in memory, by hash for de-duplication, and as Parquet shards on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gennape.errors import WorkspaceError
from gennape.platform import objectives
from gennape.platform.workspace import atomic_path, remove_partial_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pandas as pd
    from jaxtyping import Float64, Int64

    from gennape.search_spaces.space import SearchSpace

SHARDS = "evaluations"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluations:
    """Evaluated networks, one row each.

    ``hashes`` U32 [n]: canonical hashes. ``genomes`` int64 [n, g]. ``values`` float64 [n, k]: every measure in its
    natural unit, columns as in ``objectives.NAMES``; not finite where the predictor had no answer. ``memberships``
    float64 [n, c]. ``island`` and ``generation`` int64 [n]: who evaluated it first, and when.
    """

    hashes: np.ndarray
    genomes: Int64[np.ndarray, "n g"]
    values: Float64[np.ndarray, "n k"]
    memberships: Float64[np.ndarray, "n c"]
    island: Int64[np.ndarray, " n"]
    generation: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, rows: np.ndarray | Sequence[int]) -> Evaluations:
        """Some rows, by index or mask."""
        index = np.asarray(rows, bool if np.asarray(rows).dtype == bool else np.int64)
        return Evaluations(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def finite(self) -> np.ndarray:
        """Which rows have an answer for every measure."""
        mask: np.ndarray = np.isfinite(self.values).all(1)
        return mask


def none_evaluated(genes: int) -> Evaluations:
    """No rows."""
    integers = np.zeros(0, np.int64)
    return Evaluations(
        np.zeros(0, "U32"),
        np.zeros((0, genes), np.int64),
        np.zeros((0, len(objectives.NAMES))),
        np.zeros((0, 0)),
        integers,
        integers,
    )


def concatenate(parts: Sequence[Evaluations]) -> Evaluations:
    """Rows of several, in order; empty parts do not decide the number of clusters."""
    kept = [part for part in parts if len(part)] or list(parts[:1])
    return Evaluations(*(np.concatenate([getattr(part, field.name) for part in kept]) for field in fields(Evaluations)))


class Archive:
    """All evaluations of a search, each network once.

    Looks up rows by canonical hash, and hashes by genome so that a known genome needs no graph to be recognised.
    """

    def __init__(self, genes: int) -> None:
        self._parts = [none_evaluated(genes)]
        self._values: dict[str, np.ndarray] = {}
        self._hashes: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, digest: str) -> bool:
        return digest in self._values

    def add(self, evaluations: Evaluations, overrule: bool = False) -> Evaluations:
        """Take in what is not here yet, the first of equal hashes; returns the rows taken.

        With ``overrule`` the measures given replace those known of the same network.
        """
        rows = []
        for row, (digest, genome) in enumerate(zip(evaluations.hashes.tolist(), evaluations.genomes, strict=True)):
            self._hashes[genome.tobytes()] = digest
            if new := digest not in self._values:
                rows.append(row)
            if new or overrule:
                self._values[digest] = evaluations.values[row]
        taken = evaluations.take(rows)
        if len(taken):
            self._parts.append(taken)
        return taken

    def remember(self, genome: Int64[np.ndarray, " g"], digest: str) -> None:
        """Note the hash of a genome, evaluated or not."""
        self._hashes[genome.tobytes()] = digest

    def hash_of(self, genome: Int64[np.ndarray, " g"]) -> str | None:
        """Hash of a genome met before."""
        return self._hashes.get(genome.tobytes())

    def values(self, digests: Iterable[str]) -> Float64[np.ndarray, "n k"]:
        """Measures of known networks."""
        rows = [self._values[digest] for digest in digests]
        return np.stack(rows) if rows else np.zeros((0, len(objectives.NAMES)))

    def all(self) -> Evaluations:
        """Every row, oldest first."""
        self._parts = [concatenate(self._parts)]
        return self._parts[0]


def to_table(evaluations: Evaluations, space: SearchSpace) -> pa.Table:
    """The rows as Arrow columns: hash, architecture (JSON), measures, island, generation, genome, memberships."""
    measures = dict(zip(objectives.NAMES, evaluations.values.T, strict=True))
    return pa.table(
        {
            "hash": pa.array(evaluations.hashes.tolist(), pa.string()),
            "architecture": pa.array([json.dumps(space.encode(g)) for g in evaluations.genomes], pa.string()),
            # Counts are whole numbers; accuracy is the one real measure.
            **{name: pa.array(v if name == "accuracy" else v.astype(np.int64)) for name, v in measures.items()},
            "island": pa.array(evaluations.island),
            "generation": pa.array(evaluations.generation),
            "genome": pa.array(evaluations.genomes.tolist(), pa.list_(pa.int64())),
            "memberships": pa.array(evaluations.memberships.tolist(), pa.list_(pa.float64())),
        }
    )


def to_frame(evaluations: Evaluations, space: SearchSpace) -> pd.DataFrame:
    """The same columns for people."""
    frame: pd.DataFrame = to_table(evaluations, space).to_pandas()
    return frame


def write_shard(folder: Path, generation: int, evaluations: Evaluations, space: SearchSpace) -> None:
    """Write one generation's evaluations atomically."""
    (folder / SHARDS).mkdir(exist_ok=True)
    with atomic_path(_shard(folder, generation)) as temporary:
        pq.write_table(to_table(evaluations, space), temporary)


def read_shards(folder: Path, generations: int, genes: int) -> Evaluations:
    """The evaluations of generations 0 .. ``generations`` - 1, bit for bit as written.

    Later shards, which a state never came to cover, and partial files are deleted. Raises :class:`WorkspaceError` when
    a shard is missing or unreadable.
    """
    shards = folder / SHARDS
    if shards.is_dir():
        remove_partial_files(shards)
        wanted = {_shard(folder, g).name for g in range(generations)}
        for path in shards.glob("*.parquet"):
            if path.name not in wanted:
                path.unlink()
    return concatenate([none_evaluated(genes), *(_read(_shard(folder, g)) for g in range(generations))])


def _shard(folder: Path, generation: int) -> Path:
    return folder / SHARDS / f"{generation:06d}.parquet"


def _read(path: Path) -> Evaluations:
    try:
        columns = pq.read_table(path).to_pydict()
    except (OSError, pa.ArrowInvalid) as error:
        raise WorkspaceError(f"cannot read the evaluations in {path} ({error}); the run cannot be continued") from error
    return Evaluations(
        np.array(columns["hash"], "U32"),
        _matrix(columns["genome"], np.int64),
        np.stack([np.array(columns[name], np.float64) for name in objectives.NAMES], axis=1),
        _matrix(columns["memberships"], np.float64),
        np.array(columns["island"], np.int64),
        np.array(columns["generation"], np.int64),
    )


def _matrix(rows: list[list[float]], dtype: type) -> np.ndarray:
    return np.array(rows, dtype).reshape(len(rows), -1) if rows else np.zeros((0, 0), dtype)
