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
from gennape.search_spaces.families.nb101 import MAX_VERTICES, N_EDGES, NasBench101
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

    Rows without the accuracy after 108 epochs are left out; ``src`` says which samples a row is
    in: T uniform, E and P picked by optimisers. Raises :class:`InvalidDataError` naming a bad row.
    """
    table = _read_csv(path, {"ops": str, "hash": str, "src": str}, ("hash", "n_vertices", "adj_bits", "ops", "val108"))
    table = table[table["val108"].notna()].reset_index(drop=True)
    ops = table["ops"].fillna("").tolist()
    inner = MAX_VERTICES - 2
    bits = table["adj_bits"].to_numpy(np.int64)[:, None] >> np.arange(N_EDGES) & 1
    if any(len(o) != v - 2 for o, v in zip(ops, table["n_vertices"], strict=True)):
        raise InvalidDataError(f"{path}: a row's ops do not fit its n_vertices; expected one digit per inner vertex")
    operations = np.array([[int(digit) for digit in o.ljust(inner, "0")] for o in ops], np.int64).reshape(-1, inner)
    genomes = np.concatenate([bits, operations], axis=1)
    try:
        NasBench101().validate(genomes)
    except InvalidArchitectureError as error:
        raise InvalidDataError(f"{path}: {error}") from error
    accuracy = 100 * table["val108"].to_numpy(np.float64)
    source = table["src"] if "src" in table else pd.Series("T", index=table.index)
    sampled, picked = (source.str.contains(letters).to_numpy(bool) for letters in ("T", "[EP]"))
    return LabelledArchitectures(genomes, accuracy, table["hash"].tolist(), sampled, picked, table)


def read_architectures(path: Path, space: SearchSpace, column: str = "acc") -> LabelledArchitectures:
    """Rows with the architecture as JSON in ``architecture`` and the accuracy in percent in ``column``."""
    table = _read_csv(path, {}, ("architecture", column))
    genomes = []
    for row, text in enumerate(table["architecture"]):
        try:
            genomes.append(space.decode(json.loads(text)))
        except (InvalidArchitectureError, json.JSONDecodeError, TypeError) as error:
            raise InvalidDataError(f"{path}, row {row + 1}: {error}") from error
    identity = [hashlib.sha256(genome.tobytes()).hexdigest() for genome in genomes]
    accuracy = table[column].to_numpy(np.float64)
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
