"""Read your own labels: CSV (also compressed) or Parquet, with one architecture per row and numeric columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float64, Int64

from gennape.errors import InvalidArchitectureError, InvalidDataError
from gennape.search_spaces.families.nb101 import MAX_VERTICES, N_EDGES, PAIRS, NasBench101
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.files.bounded import require_regular
from gennape.search_spaces.files.parquet_pages import UNREADABLE, read_batches
from gennape.search_spaces.labels.csv_tables import csv_tables
from gennape.search_spaces.labels.labelled import (
    BLOCK,
    LabelledArchitectures,
    LabelledRow,
    Reader,
    Request,
    architecture_of,
    choose_column,
    gather,
)

#: Columns that hold the architecture, in order of preference.
ARCHITECTURE = ("architecture", "arch")
#: Default columns of the label, in order of preference.
USUAL = ("acc", "accuracy", "top1", "val108", "c10_test200")
_CELL = ("hash", "n_vertices", "adj_bits", "ops")
_TEXT: dict[str, type] = dict.fromkeys((*ARCHITECTURE, "hash", "ops", "src"), str)
#: Suffixes of tables.
SUFFIXES = (".csv", ".csv.gz", ".csv.bz2", ".parquet")


def recognises(path: Path) -> bool:
    """Whether the suffix is that of a table."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def blocks(path: Path, request: Request) -> Iterator[LabelledArchitectures]:
    """Blocks of rows; a bad value or architecture is rejected with its row, counted from 1."""
    start = 0
    for table in tables(path):
        table.index = pd.RangeIndex(start, start + len(table))
        start += len(table)
        if is_of_cells(table, request.space):
            yield from _cells(path, table, request)
        else:
            yield from _architectures(path, table, request)
    if start == 0:
        raise InvalidDataError(f"{path}: needs rows below its column names")


def tables(path: Path) -> Iterator[pd.DataFrame]:
    """The rows of a table in blocks; raises :class:`InvalidDataError` if the file cannot be read."""
    if path.name.lower().endswith(".parquet"):
        yield from _parquet_tables(path)
        return
    yield from csv_tables(path, _TEXT, BLOCK)


def _parquet_tables(path: Path) -> Iterator[pd.DataFrame]:
    try:
        require_regular(path)
        with pq.ParquetFile(path) as file:
            for batch in read_batches(path, file, BLOCK):
                batch.validate(full=True)  # buffers of text may be missing
                yield batch.to_pandas(ignore_metadata=True)
    except (*UNREADABLE, ValueError, KeyError) as error:
        raise InvalidDataError(f"cannot read {path} as Parquet: {error}") from error


# One architecture per row ---------------------------------------------------------------------------------------------


def _architectures(path: Path, table: pd.DataFrame, request: Request) -> Iterator[LabelledArchitectures]:
    holder = next((name for name in ARCHITECTURE if name in table.columns), None)
    if holder is None:
        raise InvalidDataError(f"{path}: needs a column {ARCHITECTURE[0]!r}; has {list(table.columns)}")
    column = label_column(path, table, request.column)
    table = table.copy()
    table[column] = [_as_number(value) for value in table[column]]
    table = _in_percent(path, table, column, request)
    records: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    rows = (
        LabelledRow(f"{path}, row {row + 1}", architecture_of(record[holder]), record)
        for row, record in zip(table.index, records, strict=True)
    )
    yield from gather(rows, column, request)


def label_column(path: Path, table: pd.DataFrame, wanted: str | None) -> str:
    """The column of labels; raises :class:`InvalidDataError` with the numeric columns if there is none."""
    if wanted is not None and wanted in table.columns:
        return wanted
    known = [str(name) for name in table.columns if name in USUAL or pd.api.types.is_numeric_dtype(table[name])]
    return choose_column(path, wanted, USUAL, known)


def _as_number(value: Any) -> Any:
    """The value as a float, if it is one; anything else unchanged, to be rejected with its row."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _in_percent(path: Path, table: pd.DataFrame, column: str, request: Request) -> pd.DataFrame:
    """The rows with accuracies in percent; a column of fractions is refused, as it would look like useless networks."""
    if column not in USUAL:
        return table
    accuracy = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    outside = (accuracy < 0) | (accuracy > 100)
    for row in np.flatnonzero(outside).tolist():
        request.reject(
            f"{path}, row {table.index[row] + 1}: {column} is {accuracy[row]:.6g}; accuracies are in percent, 0 to 100"
        )
    inside = accuracy[~outside & ~np.isnan(accuracy)]
    if len(inside) > 1 and (inside <= 1).all():
        raise InvalidDataError(
            f"{path}: {column} lies between {inside.min():.4g} and {inside.max():.4g}; "
            "accuracies are in percent, so multiply the column by 100"
        )
    return table[~outside]


# NAS-Bench-101 cells as bits ------------------------------------------------------------------------------------------


def is_of_cells(table: pd.DataFrame, space: SearchSpace) -> bool:
    """Whether the rows are NAS-Bench-101 cells as bits, and ``space`` is their family."""
    return space.name == NasBench101.name and "adj_bits" in table.columns


def _cells(path: Path, table: pd.DataFrame, request: Request) -> Iterator[LabelledArchitectures]:
    """Rows of ``n_vertices``, ``adj_bits`` (bit x + y(y-1)/2: the edge x -> y) and ``ops`` (a digit per inner vertex).

    Accuracies are fractions, and empty if not measured; ``src`` lists the samples of a row: T uniform, E and P picked
    by optimisers.
    """
    _require_cell_columns(path, table)
    column = label_column(path, table, request.column)
    table = _with_texts(table[table[column].notna()])
    try:
        yield from _cell_block(path, table, column)
        return
    except InvalidDataError:
        if request.rejected is None:
            raise
    for row in range(len(table)):  # one by one, to reject only bad rows
        try:
            yield from _cell_block(path, table.iloc[row : row + 1], column)
        except InvalidDataError as error:
            request.reject(str(error))


def _cell_block(path: Path, table: pd.DataFrame, column: str) -> list[LabelledArchitectures]:
    """The rows as one block, or no block without rows."""
    if len(table) == 0:
        return []
    scale = 100 if column.startswith(("val", "test", "train")) and "time" not in column else 1
    accuracy = scale * _numbers(path, table, column)
    genomes = _genomes_of_cells(path, table)
    source = table["src"] if "src" in table else pd.Series("T", index=table.index)
    sampled, picked = (source.str.contains(letters).to_numpy(bool) for letters in ("T", "[EP]"))
    table = table.reset_index(drop=True)
    return [LabelledArchitectures(genomes, accuracy, table["hash"].tolist(), sampled, picked, table, column)]


def cell_genomes(path: Path, table: pd.DataFrame) -> Int64[np.ndarray, "n g"]:
    """The genomes of cells as bits; raises :class:`InvalidDataError` with the first invalid row."""
    _require_cell_columns(path, table)
    return _genomes_of_cells(path, _with_texts(table))


def _require_cell_columns(path: Path, table: pd.DataFrame) -> None:
    if missing := [name for name in _CELL if name not in table.columns]:
        raise InvalidDataError(f"{path}: cells as bits need columns {list(_CELL)}; missing {missing}")


def _with_texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its text columns as text; other values become empty."""
    table = table.copy()
    for name in {"hash", "ops", "src"} & set(table.columns):
        texts = [value if isinstance(value, str) else "" for value in table[name]]
        table[name] = pd.Series(texts, table.index, str)
    return table


def _genomes_of_cells(path: Path, table: pd.DataFrame) -> Int64[np.ndarray, "n g"]:
    _refuse_row(path, table, "ops", ~table["ops"].str.fullmatch(r"[0-9]*"), "must be a digit per inner vertex")
    _refuse_row(path, table, "hash", ~table["hash"].str.fullmatch(r"[0-9a-f]{8,}"), "must be hexadecimal")
    vertices, numbers = (_numbers(path, table, name) for name in ("n_vertices", "adj_bits"))
    _refuse_row(path, table, "adj_bits", (numbers < 0) | (numbers % 1 != 0) | (numbers > 2**53), "must be an integer")
    _refuse_row(path, table, "ops", table["ops"].str.len() != vertices - 2, "its digits do not match its n_vertices")
    inner = MAX_VERTICES - 2
    bits = numbers.astype(np.int64)[:, None] >> np.arange(N_EDGES) & 1
    last = (bits * np.array([y for _, y in PAIRS])).max(1, initial=0)
    beyond = (last != vertices - 1) | (numbers >= 2.0**N_EDGES)
    _refuse_row(path, table, "adj_bits", beyond, "no edge ends at its last vertex, or one ends beyond")
    operations = np.array([[int(digit) for digit in o.ljust(inner, "0")] for o in table["ops"]], np.int64)
    genomes = np.concatenate([bits, operations.reshape(-1, inner)], axis=1)
    _check_cells(path, table, genomes)
    return NasBench101().canonical(genomes)


def _check_cells(path: Path, table: pd.DataFrame, genomes: Int64[np.ndarray, "n g"]) -> None:
    space = NasBench101()
    try:
        space.validate(genomes)
    except InvalidArchitectureError:
        for row, genome in zip(table.index, genomes, strict=True):
            try:
                space.validate(genome[None])
            except InvalidArchitectureError as error:
                raise InvalidDataError(f"{path}, row {row + 1}: {error}") from error


def _numbers(path: Path, table: pd.DataFrame, column: str) -> Float64[np.ndarray, " n"]:
    """A column as finite numbers; the first other value is refused."""
    numbers = pd.to_numeric(pd.Series(list(table[column])), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    _refuse_row(path, table, column, ~np.isfinite(numbers), "must be a finite number")
    return numbers


def _refuse_row(path: Path, table: pd.DataFrame, column: str, bad: object, why: str) -> None:
    rows = np.flatnonzero(np.asarray(bad, bool))
    if len(rows):
        raise InvalidDataError(
            f"{path}, row {table.index[rows[0]] + 1}: {column} is {table[column].iloc[rows[0]]!r}; {why}"
        )


READER = Reader(
    "table",
    "CSV, also compressed, or Parquet: columns of numbers and one named architecture (JSON, or the benchmark's string)",
    recognises,
    blocks,
)
