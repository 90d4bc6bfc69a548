"""Labelled architectures: tables of architectures and what was measured of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from gennape.errors import InvalidArchitectureError, InvalidDataError
from gennape.search_spaces.families.nb101 import MAX_VERTICES, N_EDGES, PAIRS, NasBench101
from gennape.search_spaces.space import SearchSpace


@dataclass(frozen=True, slots=True)
class LabelledArchitectures:
    """Rows of one family.

    ``genomes`` [n, g]; ``accuracy`` [n] in percent; ``identity``, a hash that equal architectures share; ``sampled``
    [n], whether the row belongs to a sample that ignores accuracy, and ``picked`` [n], whether an optimiser chose it
    for its accuracy (some rows are both); ``table``, all columns of the file.
    """

    genomes: Int64[np.ndarray, "n g"]
    accuracy: Float64[np.ndarray, " n"]
    identity: list[str]
    sampled: Bool[np.ndarray, " n"]
    picked: Bool[np.ndarray, " n"]
    table: pd.DataFrame

    def take(self, rows: Int64[np.ndarray, " k"] | Bool[np.ndarray, " n"]) -> LabelledArchitectures:
        """Some of the rows."""
        chosen = np.arange(len(self.genomes))[rows]
        return LabelledArchitectures(
            self.genomes[chosen],
            self.accuracy[chosen],
            [self.identity[i] for i in chosen],
            self.sampled[chosen],
            self.picked[chosen],
            self.table.iloc[chosen].reset_index(drop=True),
        )


def split(labels: LabelledArchitectures) -> Int64[np.ndarray, " n"]:
    """0 for training, 1 for validation (5 %), 2 for test (10 %), -1 for rows to leave out.

    By the architecture's hash, so that the split is the same for ever and equal architectures never part. Only sampled
    rows take part, and rows that were also picked for their accuracy are never validated or tested on.
    """
    bucket = np.array([int(identity[:8], 16) % 100 for identity in labels.identity])
    part = np.where(bucket < 10, 2, np.where(bucket < 15, 1, 0))
    return np.where(labels.sampled & ~(labels.picked & (part > 0)), part, -1)


def read_nb101(path: Path) -> LabelledArchitectures:
    """NAS-Bench-101 rows: ``n_vertices``, ``adj_bits`` (bit x + y(y-1)/2 is the edge x -> y), ``ops``, ``val108``.

    Rows without the accuracy after 108 epochs are left out; ``src`` says which samples a row is in: T uniform, E and P
    picked by optimisers. Raises :class:`InvalidDataError` naming a bad row.
    """
    table = _read_csv(path, {"ops": str, "hash": str, "src": str}, ("hash", "n_vertices", "adj_bits", "ops", "val108"))
    table = table[table["val108"].notna()].copy()
    accuracy = 100 * _numbers(path, table, "val108")
    table["ops"] = table["ops"].fillna("")
    _refuse_row(path, table, "ops", ~table["ops"].str.fullmatch(r"[0-9]*"), "must be a digit per inner vertex")
    _refuse_row(path, table, "hash", ~table["hash"].str.fullmatch(r"[0-9a-f]{8,}", na=False), "must be hexadecimal")
    vertices = table["n_vertices"].to_numpy()
    _refuse_row(path, table, "ops", table["ops"].str.len() != vertices - 2, "its digits do not fit its n_vertices")
    inner = MAX_VERTICES - 2
    bits = table["adj_bits"].to_numpy(np.int64)[:, None] >> np.arange(N_EDGES) & 1
    last = (bits * np.array([y for _, y in PAIRS])).max(1, initial=0)
    _refuse_row(path, table, "adj_bits", last != vertices - 1, "no edge ends at its last vertex, or one ends beyond")
    operations = np.array([[int(digit) for digit in o.ljust(inner, "0")] for o in table["ops"]], np.int64)
    genomes = np.concatenate([bits, operations.reshape(-1, inner)], axis=1)
    try:
        NasBench101().validate(genomes)
    except InvalidArchitectureError as error:
        raise InvalidDataError(f"{path}: {error}") from error
    source = table["src"].fillna("") if "src" in table else pd.Series("T", index=table.index)
    sampled, picked = (source.str.contains(letters).to_numpy(bool) for letters in ("T", "[EP]"))
    table = table.reset_index(drop=True)
    return LabelledArchitectures(genomes, accuracy, table["hash"].tolist(), sampled, picked, table)


def read_architectures(path: Path, space: SearchSpace, column: str = "acc") -> LabelledArchitectures:
    """Rows with the architecture as JSON in ``architecture`` and the accuracy in percent in ``column``."""
    table = _read_csv(path, {}, ("architecture", column))
    accuracy = _numbers(path, table, column)
    genomes = []
    for row, text in enumerate(table["architecture"]):
        try:
            genomes.append(space.decode(json.loads(text)))
        except (InvalidArchitectureError, json.JSONDecodeError, TypeError) as error:
            raise InvalidDataError(f"{path}, row {row + 1}: {error}") from error
    identity = [hashlib.sha256(genome.tobytes()).hexdigest() for genome in genomes]
    return LabelledArchitectures(
        np.stack(genomes), accuracy, identity, np.ones(len(table), bool), np.zeros(len(table), bool), table
    )


def read_labels(path: Path, space: SearchSpace, column: str = "acc") -> LabelledArchitectures:
    """Labelled rows of ``space`` in either form, told apart by the columns of the file."""
    if space.name == NasBench101.name and "adj_bits" in _columns(path):
        return read_nb101(path)
    return read_architectures(path, space, column)


def _columns(path: Path) -> list[str]:
    try:
        return list(pd.read_csv(path, nrows=0).columns)
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"cannot read {path} as CSV: {error}") from error


def _read_csv(path: Path, types: dict[str, type], needed: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=types)
    except (OSError, ValueError) as error:
        raise InvalidDataError(f"cannot read {path} as CSV: {error}") from error
    missing = [name for name in needed if name not in table.columns]
    if missing or len(table) == 0:
        raise InvalidDataError(f"{path}: needs columns {list(needed)} and rows; missing {missing}, {len(table)} rows")
    return table


def _numbers(path: Path, table: pd.DataFrame, column: str) -> Float64[np.ndarray, " n"]:
    """A column that must hold finite numbers."""
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    _refuse_row(path, table, column, ~np.isfinite(numbers), "must be a finite number")
    return numbers


def _refuse_row(path: Path, table: pd.DataFrame, column: str, bad: object, why: str) -> None:
    rows = np.flatnonzero(np.asarray(bad, bool))
    if len(rows):
        raise InvalidDataError(
            f"{path}, row {table.index[rows[0]] + 1}: {column} is {table[column].iloc[rows[0]]!r}; {why}"
        )
