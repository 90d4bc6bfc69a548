"""The memory that a Parquet file would need, computed from page headers before anything is decoded.

A page of a few bytes can stand for billions of values, and the footer of a file may be wrong about it, so the headers
of the pages themselves are read here: Thrift structures in the compact protocol
(https://github.com/apache/parquet-format, ``parquet.thrift``).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.bounded import expected

#: Exceptions of Arrow for damaged files; some are plain C++ errors.
UNREADABLE = (OSError, RuntimeError, UnicodeDecodeError, pa.ArrowException)
#: Maximum values of a column, uncompressed bytes of a page and of all pages of a column, and pages of a file.
MAX_VALUES, MAX_PAGE, MAX_COLUMN, MAX_PAGES = 2**25, 2**28, 2**31, 2**20
#: Limit of the bytes that texts of rows decoded at a time could need.
_MAX_BATCH = 2**28
_MAX_ROWS = 2**16
#: Maximum size of a footer and of a page header (with statistics), and maximum nesting of their structures.
_MAX_FOOTER, _HEADER, _DEPTH = 2**24, 2**16, 12
#: Fields of a footer, of a row group, of a column in it and of that column's description.
_ROW_GROUPS, _COLUMNS, _DESCRIPTION = 4, 1, 3
_CHUNK_SIZE, _OFFSETS = 7, (9, 11)  # the offsets of data pages and of the dictionary
_SIZE, _COMPRESSED = 2, 3
#: Where a header describes a data page, a dictionary and a data page of version 2, and there the encoding; the count of
#: values comes first in each.
_DESCRIPTIONS = {5: 2, 7: 2, 8: 4}
_DICTIONARY = 7
#: Types of values that may be of any length; encodings that write values out, and that look them up.
_TEXT = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
_PLAIN, _BY_DICTIONARY = 0, (2, 8)


class _Chunk(NamedTuple):
    """The position of a column's pages in the file."""

    start: int
    size: int


class _ParquetPage(NamedTuple):
    """Bytes before compression, values and their encoding, and whether other pages' values are looked up in it."""

    size: int
    values: int
    encoding: int
    dictionary: bool


def read_batches(
    path: Path, file: pq.ParquetFile, most_rows: int = _MAX_ROWS, numbers: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Read the rows of the open file at ``path`` in parts that are small enough for memory.

    Raises :class:`InvalidDataError` as :func:`check_pages` does, where two columns have one name, and where those
    beside ``numbers`` become far more than a file of this size should hold. Damaged files raise :data:`UNREADABLE`.
    """
    names = Counter(file.schema_arrow.names)
    if len(names) != names.total():
        raise InvalidDataError(f"{path}: the column {names.most_common(1)[0][0]!r} stands there more than once")
    rows, most, size = check_pages(path, file.metadata), expected(path.stat().st_size), 0
    for batch in file.iter_batches(min(rows, most_rows)):
        size += sum(_written_out(batch.column(name)) for name in names.keys() - set(numbers))
        if size > most:
            raise InvalidDataError(f"{path} would become more than {most} bytes in memory; write its texts only once")
        yield batch


def _written_out(column: pa.Array) -> int:
    """Bytes of a column's values, those that are looked up counted each time."""
    return int((column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).nbytes)


def check_pages(path: Path, footer: pq.FileMetaData, most_values: int = MAX_VALUES) -> int:
    """The number of rows of the file at ``path`` that can safely be decoded at a time.

    Raises :class:`InvalidDataError` naming the column that has more than ``most_values`` values or would take more
    bytes than are read, or whose pages cannot be followed.
    """
    totals = [_Total(footer.schema.column(index)) for index in range(footer.num_columns)]
    followed = 0
    with path.open("rb") as file:
        for columns in _row_groups(file, path, len(totals)):
            for total, column in zip(totals, columns, strict=True):
                where = f"{path}, column {total.name}"
                for page in _pages(file, column, where):
                    total.add(page)
                    followed += 1
                    if followed > MAX_PAGES or page.size > MAX_PAGE or total.exceeds(most_values):
                        raise InvalidDataError(
                            f"{where}: it would become {total.values} values and {total.size} bytes or more; at most "
                            f"{most_values} and {MAX_COLUMN} are read of a file: write several"
                        )
    longest = max((total.longest for total in totals if total.text), default=1)
    return max(1, min(_MAX_ROWS, _MAX_BATCH // max(longest, 1)))


def _row_groups(file: BinaryIO, path: Path, n_columns: int) -> list[list[_Chunk]]:
    """The columns of each row group. They are parsed here, since Arrow may crash on a damaged footer."""
    file.seek(-8, io.SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    if length > _MAX_FOOTER:
        raise InvalidDataError(f"{path}: its footer has {length} bytes, more than {_MAX_FOOTER}; write several files")
    file.seek(-8 - length, io.SEEK_END)
    try:
        groups = _structure(io.BytesIO(file.read(length)), 0, length)[_ROW_GROUPS]
        chunks = [[_chunk(column[_DESCRIPTION]) for column in group[_COLUMNS]] for group in groups]
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidDataError(f"{path}: its footer cannot be read; the file is damaged") from error
    if any(len(columns) != n_columns for columns in chunks):
        raise InvalidDataError(f"{path}: a row group does not have {n_columns} columns; the file is damaged")
    return chunks


def _chunk(description: dict[int, Any]) -> _Chunk:
    offsets = [int(description[name]) for name in _OFFSETS if description.get(name)]
    return _Chunk(min(offsets, default=0), int(description[_CHUNK_SIZE]))


class _Total:
    """The total size of a column's pages."""

    def __init__(self, schema: Any) -> None:
        self.text, self.nested = schema.physical_type in _TEXT, schema.max_repetition_level > 0
        self.name = schema.path
        self.values = self.size = self.longest = self.dictionary = 0

    def add(self, page: _ParquetPage) -> None:
        """Count one more page."""
        if page.dictionary:
            self.dictionary = max(self.dictionary, page.size)
        # Where a page's values are not written out one by one, each may be as long as what they are made of.
        length = self.dictionary if page.encoding in _BY_DICTIONARY else page.size * (page.encoding != _PLAIN)
        self.longest = max(self.longest, length)
        self.values += page.values
        # Limiting rows does not limit the texts in lists.
        self.size += page.values * length if self.text and self.nested and length else page.size

    def exceeds(self, most_values: int) -> bool:
        """Whether a limit is exceeded."""
        return self.values > most_values or self.size > MAX_COLUMN


def _pages(file: BinaryIO, column: _Chunk, where: str) -> Iterator[_ParquetPage]:
    """The pages of a column chunk."""
    at, end = column.start, column.start + column.size
    while at < end:
        file.seek(max(at, 0))
        header = io.BytesIO(file.read(_HEADER))
        try:
            fields = _structure(header, 0, _HEADER)
            size, compressed = int(fields[_SIZE]), int(fields[_COMPRESSED])
            described = [(fields[name], place) for name, place in _DESCRIPTIONS.items() if name in fields]
            counts = [int(description[1]) for description, _ in described]
            encoding = max((int(description[place]) for description, place in described), default=_PLAIN)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise InvalidDataError(f"{where}: no page can be read at byte {at}; the file is damaged") from error
        if min(size, compressed, *counts) < 0:
            raise InvalidDataError(f"{where}: the page at byte {at} has a size below 0; the file is damaged")
        yield _ParquetPage(size, max(counts, default=0), encoding, _DICTIONARY in fields)
        at += header.tell() + compressed


# Thrift's compact protocol -----------------------------------------------------------------------------------------


def _structure(data: io.BytesIO, depth: int, most: int) -> dict[int, Any]:
    """The fields of a structure by number. Raises plain Python errors, to which the caller adds the location."""
    if depth > _DEPTH:
        raise ValueError("structures nest too deep")
    fields: dict[int, Any] = {}
    number = 0
    while head := data.read(1)[0]:
        number = number + (head >> 4) if head >> 4 else _integer(data)
        fields[number] = _value(data, head & 15, depth, most)
    return fields


def _value(data: io.BytesIO, kind: int, depth: int, most: int) -> Any:
    """A value. Lengths of texts and lists are checked against ``most``, the remaining bytes."""
    if kind in (1, 2):  # true and false
        return kind == 1
    if kind == 3:
        return data.read(1)[0]
    if kind in (4, 5, 6):
        return _integer(data)
    if kind in (7, 8):
        if data.seek(8 if kind == 7 else min(_unsigned(data), most), io.SEEK_CUR) > most:
            raise ValueError("a text that does not end")
        return None
    if kind in (9, 10):
        head = data.read(1)[0]
        count, inner = head >> 4 if head >> 4 < 15 else _unsigned(data), head & 15
        return [_value(data, 3 if inner in (1, 2) else inner, depth + 1, most) for _ in range(min(count, most))]
    if kind == 12:
        return _structure(data, depth + 1, most)
    raise ValueError(f"a field of kind {kind}")


def _unsigned(data: io.BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = data.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number of more than ten bytes")


def _integer(data: io.BytesIO) -> int:
    """Decode zigzag integers: 0, -1, 1, -2, ..."""
    value = _unsigned(data)
    return value >> 1 ^ -(value & 1)
