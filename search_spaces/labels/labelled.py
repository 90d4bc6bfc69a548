"""Labelled architectures, which all readers of labels yield, and how they are built from rows."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from gennape.errors import InvalidArchitectureError, InvalidDataError
from gennape.search_spaces.families.nb101 import NasBench101, graph_hash
from gennape.search_spaces.families.space import SearchSpace, shown

#: Rows in a block.
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class LabelledArchitectures:
    """Rows of one family.

    ``genomes`` [n, g]; ``accuracy`` [n] in percent, or another column in its own unit; ``identity``, a hash that equal
    architectures share; ``sampled`` [n], whether the row was sampled independently of accuracy, and ``picked`` [n],
    whether an optimiser chose it for its accuracy (some rows are both); ``table``, all columns of the rows;
    ``column``, the one that ``accuracy`` holds.
    """

    genomes: Int64[np.ndarray, "n g"]
    accuracy: Float64[np.ndarray, " n"]
    identity: list[str]
    sampled: Bool[np.ndarray, " n"]
    picked: Bool[np.ndarray, " n"]
    table: pd.DataFrame
    column: str = ""

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
            self.column,
        )


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """One row of a file: its position, the architecture in the form that ``decode`` takes, and its values.

    Columns that were not measured are absent from ``values``. Without ``identity`` it is computed from the genome.
    """

    where: str
    architecture: Any
    values: Mapping[str, Any]
    identity: str | None = None
    sampled: bool = True
    picked: bool = False


#: Called with position and reason of every row that cannot be read; None makes the first such row an error.
Rejected = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """The family and label column to read (``None``: the format's usual one), and the callback for bad rows."""

    space: SearchSpace
    column: str | None = None
    rejected: Rejected | None = None

    def reject(self, message: str) -> None:
        """Report a bad row to ``rejected``, or raise :class:`InvalidDataError` without one."""
        if self.rejected is None:
            raise InvalidDataError(message)
        self.rejected(message)


@dataclass(frozen=True, slots=True)
class Reader:
    """A format of labelled files. ``families``: classes of the families it can hold; empty means any."""

    name: str
    reads: str
    recognises: Callable[[Path], bool]
    blocks: Callable[[Path, Request], Iterator[LabelledArchitectures]]
    families: tuple[type[SearchSpace], ...] = ()


def split(labels: LabelledArchitectures) -> Int64[np.ndarray, " n"]:
    """0 for training, 1 for validation (5 %), 2 for test (10 %), -1 for rows to leave out.

    The split depends on the architecture's hash alone, so it never changes and keeps equal architectures together.
    Only sampled rows are used, and rows that were also picked for their accuracy are only trained on.
    """
    bucket = np.array([int(identity[:8], 16) % 100 for identity in labels.identity], np.int64)
    part = np.where(bucket < 10, 2, np.where(bucket < 15, 1, 0))
    return np.where(labels.sampled & ~(labels.picked & (part > 0)), part, -1)


def choose_column(where: object, wanted: str | None, usual: Iterable[str], known: Iterable[str]) -> str:
    """The column of labels: ``wanted``, or the first usual one that exists.

    Raises :class:`InvalidDataError` with a list of ``known`` columns if there is none.
    """
    present, names = list(known), list(usual)
    for name in names if wanted is None else [wanted]:
        if name in present:
            return name
    problem = (
        f"no usual column of accuracies ({', '.join(names)})" if wanted is None else f"no column of numbers {wanted!r}"
    )
    choose = f"name one of {present} by --column; for a verb without, rename it to {names[0]!r}"
    remedy = choose if present else "the file has no column of numbers; add the accuracies"
    raise InvalidDataError(f"{where}: {problem}; {remedy}")


def gather(rows: Iterable[LabelledRow], column: str, request: Request) -> Iterator[LabelledArchitectures]:
    """Collect rows into blocks; rows without ``column`` are left out, bad ones rejected."""
    kept: list[tuple[LabelledRow, Int64[np.ndarray, " g"]]] = []
    for row in rows:
        if column not in row.values:
            continue
        try:
            _check_values(row, column)
            genome = request.space.decode(row.architecture)
        except (InvalidArchitectureError, InvalidDataError) as error:
            request.reject(f"{row.where}: {error}")
            continue
        kept.append((row, genome))
        if len(kept) == BLOCK:
            yield _block(kept, column, request.space)
            kept = []
    if kept:
        yield _block(kept, column, request.space)


def gather_like_first(
    path: Path, rows: Iterator[LabelledRow], usual: Iterable[str], request: Request
) -> Iterator[LabelledArchitectures]:
    """Like :func:`gather`, with the columns of the first row; later rows without the label are left out."""
    first = next(rows, None)
    if first is not None:
        column = choose_column(path, request.column, usual, first.values)
        yield from gather(chain([first], rows), column, request)


def readable_rows(loads: Iterable[Callable[[], LabelledRow]], request: Request) -> Iterator[LabelledRow]:
    """The rows that can be loaded; the others are rejected."""
    for load in loads:
        try:
            row = load()
        except InvalidDataError as error:
            request.reject(str(error))
            continue
        yield row


def is_finite(value: object) -> bool:
    """Whether this is a finite number within the range of floats."""
    number: Any = value if isinstance(value, int | float | np.integer | np.floating) else math.nan
    return bool(abs(number) <= sys.float_info.max)


def _check_values(row: LabelledRow, column: str) -> None:
    """Refuse labels that are no finite numbers, and text that cannot be encoded."""
    value = row.values[column]
    if isinstance(value, bool) or not is_finite(value):
        raise InvalidDataError(f"{column} is {str(value)[:60]!r}; must be a finite number")
    for name, text in row.values.items():
        try:
            (text if isinstance(text, str) else "").encode()
        except UnicodeEncodeError:
            raise InvalidDataError(f"{name} is {shown(text)}, which is no valid text") from None


def _block(
    kept: list[tuple[LabelledRow, Int64[np.ndarray, " g"]]], column: str, space: SearchSpace
) -> LabelledArchitectures:
    rows = [row for row, _ in kept]
    return LabelledArchitectures(
        np.stack([genome for _, genome in kept]),
        np.array([row.values[column] for row in rows], np.float64),
        [row.identity or identity_of(space, genome) for row, genome in kept],
        np.array([row.sampled for row in rows], bool),
        np.array([row.picked for row in rows], bool),
        pd.DataFrame([dict(row.values) for row in rows]),
        column,
    )


#: Families whose benchmark defines a hash; using it, all files of the benchmark have the same split.
_IDENTITIES: Mapping[str, Callable[[Any], str]] = {NasBench101.name: graph_hash}


def identity_of(space: SearchSpace, genome: Int64[np.ndarray, " g"]) -> str:
    """A hexadecimal hash that equal architectures of a family share."""
    own = _IDENTITIES.get(space.name)
    return own(genome) if own else hashlib.sha256(genome.tobytes()).hexdigest()


def concatenate(blocks: Iterable[LabelledArchitectures], path: Path) -> LabelledArchitectures:
    """Join blocks into one; raises :class:`InvalidDataError` if there are none."""
    parts = list(blocks)
    if not parts:
        raise InvalidDataError(f"{path}: holds no labelled architecture of this family")
    return LabelledArchitectures(
        np.concatenate([part.genomes for part in parts]),
        np.concatenate([part.accuracy for part in parts]),
        [identity for part in parts for identity in part.identity],
        np.concatenate([part.sampled for part in parts]),
        np.concatenate([part.picked for part in parts]),
        pd.concat([part.table for part in parts], ignore_index=True),
        parts[0].column,
    )


def architecture_of(text: object) -> Any:
    """An architecture as written in a table: parsed JSON, or else the benchmark's string unchanged."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
