"""Read architectures of a family, without labels, from a table or a JSON list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64

from gennape.errors import InvalidArchitectureError, InvalidDataError
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.files.bounded import bounded, open_bounded
from gennape.search_spaces.labels.labelled import Rejected, architecture_of
from gennape.search_spaces.labels.table import ARCHITECTURE, SUFFIXES, cell_genomes, is_of_cells, tables

#: Suffixes, in lower case, of the files that :func:`read_architectures` reads.
ARCHITECTURE_SUFFIXES = (*SUFFIXES, ".json", ".jsonl")
_MAX_JSON = 2**28  # bytes of a JSON list


@dataclass(frozen=True, slots=True, eq=False)
class FoundArchitecture:
    """One row: its position in the file, the architecture as written there, and its canonical ``genome`` [g]."""

    where: str
    text: str
    genome: Int64[np.ndarray, " g"]


def holds_architectures(path: Path) -> bool:
    """Whether the suffix, in any case, is that of a file of architectures."""
    return path.name.lower().endswith(ARCHITECTURE_SUFFIXES)


def read_architectures(path: Path, space: SearchSpace, rejected: Rejected | None = None) -> Iterator[FoundArchitecture]:
    """The architectures of ``space`` in a table (CSV, also compressed, or Parquet) or in JSON, row by row.

    A table has a column ``architecture`` or ``arch``, or holds cells of NAS-Bench-101 as bits. JSON is a list
    (``.json``), or one architecture a line (``.jsonl``); objects with a key ``architecture`` hold one.

    ``rejected`` is called with each row that the family does not have; without it the first such row raises
    :class:`InvalidDataError`, as does a file that cannot be read or has no such column.
    """
    readers = {".json": lambda: _of_json(path), ".jsonl": lambda: _of_lines(path)}
    listed = readers.get(path.suffix.lower(), lambda: _of_tables(path, space, rejected))()
    for where, written, known in listed:
        try:
            genome = space.decode(written) if known is None else known
        except InvalidArchitectureError as error:
            _reject(f"{where}: {error}", rejected)
            continue
        yield FoundArchitecture(where, written if isinstance(written, str) else json.dumps(written), genome)


def _reject(message: str, rejected: Rejected | None) -> None:
    if rejected is None:
        raise InvalidDataError(message)
    rejected(message)


#: The position of a row, the architecture as written, and its genome if it is already known.
_Listed = Iterator[tuple[str, Any, Int64[np.ndarray, " g"] | None]]


def _of_json(path: Path) -> _Listed:
    try:
        with open_bounded(path) as stream:
            listed = json.loads(bounded(stream, str(path), _MAX_JSON).read())
    except (ValueError, RecursionError) as error:
        raise InvalidDataError(f"cannot read {path} as JSON: {error}") from error
    if not isinstance(listed, list):
        raise InvalidDataError(f"{path} holds no list; architectures in JSON are a list of them")
    yield from ((f"{path}, row {row}", _held(each), None) for row, each in enumerate(listed, 1))


def _of_lines(path: Path) -> _Listed:
    try:
        with open_bounded(path) as stream:
            lines = bounded(stream, str(path), _MAX_JSON).read().decode().splitlines()
    except ValueError as error:
        raise InvalidDataError(f"cannot read {path} as text: {error}") from error
    for row, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}, row {row}", _held(architecture_of(line)), None


def _held(value: Any) -> Any:
    """The architecture of an object that has a key for it, else the value itself."""
    return value[ARCHITECTURE[0]] if isinstance(value, dict) and ARCHITECTURE[0] in value else value


def _of_tables(path: Path, space: SearchSpace, rejected: Rejected | None) -> _Listed:
    start = 0
    for table in tables(path):
        table.index = pd.RangeIndex(start, start + len(table))
        start += len(table)
        if is_of_cells(table, space):
            yield from _cells(path, table, space, rejected)
            continue
        column = next((name for name in ARCHITECTURE if name in table.columns), None)
        if column is None:
            named = [str(name) for name in table.columns[:10]]
            raise InvalidDataError(f"{path} has no column {ARCHITECTURE[0]!r}; its columns are {', '.join(named)}")
        for row, text in zip(table.index, table[column], strict=True):
            yield f"{path}, row {row + 1}", architecture_of(text), None


def _cells(path: Path, table: pd.DataFrame, space: SearchSpace, rejected: Rejected | None) -> _Listed:
    try:
        parts = [(table.index, cell_genomes(path, table))]
    except InvalidDataError:
        if rejected is None:
            raise
        parts = _good_cells(path, table, rejected)
    for rows, genomes in parts:
        for row, genome in zip(rows, genomes, strict=True):
            yield f"{path}, row {row + 1}", space.encode(genome), genome


def _good_cells(
    path: Path, table: pd.DataFrame, rejected: Rejected
) -> list[tuple[pd.Index[int], Int64[np.ndarray, "n g"]]]:
    """The genomes of valid rows; the others are rejected one by one."""
    good = []
    for row in range(len(table)):
        one = table.iloc[row : row + 1]
        try:
            good.append((one.index, cell_genomes(path, one)))
        except InvalidDataError as error:
            rejected(str(error))
    return good
