"""Read CSV files in blocks of rows, with errors that say how to fix them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.bounded import bounded, open_bounded

#: Maximum bytes of a block of rows, about ten kilobytes per row.
_MAX_BLOCK = 1 << 28
#: Other column separators, and their names.
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
#: Messages of pandas, and what they mean for the author of the file.
_REASONS = (
    (r"Expected (\d+) fields in line (\d+), saw (\d+)", r"line \2 has \3 fields, the others \1; put texts in quotes"),
    (r"EOF inside string starting at row (\d+)", r"row \1 opens a quote that is never closed; close it"),
    (r"No columns to parse from file", r"it has only empty lines; name the columns in the first"),
)


def csv_tables(path: Path, texts: dict[str, type], block: int) -> Iterator[pd.DataFrame]:
    """The rows in blocks of ``block``; columns in ``texts`` are read as text.

    Raises :class:`InvalidDataError` if the file cannot be read.
    """
    try:
        _require_header(path)
        with open_bounded(path) as stream:
            rows = bounded(stream, str(path), _MAX_BLOCK)
            limit: Any = rows.raw
            for table in pd.read_csv(rows, dtype=texts, chunksize=block, low_memory=False):
                limit.most = limit.count + _MAX_BLOCK
                if not isinstance(table.index, pd.RangeIndex):
                    raise ValueError("rows have more fields than the header; put fields with commas in quotes")
                yield table
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InvalidDataError(
            f"cannot read {path} as CSV: it is not UTF-8, but has a byte 0x{byte:02x}; save it as UTF-8"
        ) from error
    except (ValueError, OverflowError) as error:
        raise InvalidDataError(f"cannot read {path} as CSV: {_reason(str(error))}") from error


def _require_header(path: Path) -> None:
    """Refuse duplicate column names, which pandas would rename, and separators other than commas."""
    with open_bounded(path) as stream:
        first = pd.read_csv(bounded(stream, str(path), _MAX_BLOCK), header=None, nrows=1, dtype=str)
    names = [name for name in first.iloc[0] if isinstance(name, str)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"the column {twice[0]!r} occurs more than once; keep one, or rename the others")
    other = next((words for sign, words in _SEPARATORS.items() if len(names) == 1 and sign in names[0]), None)
    if other is not None:
        raise ValueError(f"its columns are separated by {other}; save it with commas")


def _reason(said: str) -> str:
    """A clearer message for known errors of pandas; else its own message without internal details."""
    for pattern, words in _REASONS:
        if found := re.search(pattern, said):
            return found.expand(words)
    return said.removeprefix("Error tokenizing data. C error: ").strip()
