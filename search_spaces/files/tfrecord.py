"""TFRecord files: records of bytes with lengths and CRC-32C sums (https://www.tensorflow.org/tutorials/load_data/tfrecord).

A record is its length (8 bytes), a masked sum of these, the data, a masked sum of the data; all little-endian.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from struct import Struct

import numpy as np
from jaxtyping import UInt8, UInt32

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.bounded import open_bounded

_HEAD, _TAIL = Struct("<QI"), Struct("<I")
#: Largest record that is read; those of NAS-Bench-101 have some hundred bytes. Sums of many are computed as wide as the
#: longest of them.
MAX_RECORD = 1 << 14
_CHUNK_RECORDS, _CHUNK_BYTES = 4096, 1 << 22
_DELTA = 0xA282EAD8


def _byte_table() -> UInt32[np.ndarray, "256"]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_BYTE = _byte_table()
_PAIR = np.arange(1 << 16, dtype=np.uint32)  # the same for two bytes at a time, with half the steps
_PAIR = _BYTE[(_BYTE[_PAIR & 255] ^ (_PAIR >> 8)) & 255] ^ (_BYTE[_PAIR & 255] >> 8)


def crc32c(records: list[bytes]) -> UInt32[np.ndarray, " n"]:
    """CRC-32C (Castagnoli) of each record, computed over all of them at a time."""
    lengths = np.array([len(record) for record in records])
    width = -(-max(int(lengths.max(initial=0)), 4) // 2) * 2
    # Aligned at their ends: a register of zeros stays zero under leading zeros, so shorter ones may start late. The
    # usual start, a register of ones, equals inverting the first four bytes.
    rows = np.frombuffer(bytearray().join(record.rjust(width, b"\0") for record in records), np.uint8)
    rows = rows.reshape(len(records), width)
    long = np.flatnonzero(lengths >= 4)
    rows[long[:, None], (width - lengths[long])[:, None] + np.arange(4)] ^= 255
    columns = np.ascontiguousarray(rows.view("<u2").T)
    register = np.zeros(len(records), np.uint32)
    for column in columns:
        register = _PAIR[(register ^ column) & 0xFFFF] ^ (register >> 16)
    sums = register ^ np.uint32(0xFFFFFFFF)
    for row in np.flatnonzero(lengths < 4):
        sums[row] = _crc32c_short(np.frombuffer(records[row], np.uint8))
    return sums


def _crc32c_short(data: UInt8[np.ndarray, " n"]) -> np.uint32:
    register = np.uint32(0xFFFFFFFF)
    for byte in data:
        register = _BYTE[(register ^ byte) & 255] ^ (register >> np.uint32(8))
    return register ^ np.uint32(0xFFFFFFFF)


def masked(sums: UInt32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """Sums as the files hold them: rotated, and a constant added."""
    wide = sums.astype(np.uint64)
    return ((((wide >> 15) | (wide << 17)) + _DELTA) & 0xFFFFFFFF).astype(np.uint32)


@lru_cache(maxsize=1 << 16)
def _length_sum(length: bytes) -> int:
    """The masked sum of a length. It is cached, since records have few different lengths."""
    return int(masked(crc32c([length]))[0])


def records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every record with the byte it begins at; some megabytes are held at a time.

    Raises :class:`InvalidDataError` with the byte of the record that is cut off or does not have its sum.
    """
    with open_bounded(path) as stream:
        offset = 0
        while chunk := _chunk(stream, path, offset):
            _check(path, chunk)
            yield from ((start, data) for start, data, _ in chunk)
            start, data, _ = chunk[-1]
            offset = start + 16 + len(data)


def _chunk(stream: io.BufferedReader, path: Path, offset: int) -> list[tuple[int, bytes, int]]:
    """The next records: offset, data and its stated sum."""
    chunk: list[tuple[int, bytes, int]] = []
    total = 0
    while len(chunk) < _CHUNK_RECORDS and total < _CHUNK_BYTES:
        head = stream.read(_HEAD.size)
        if not head:
            break
        if len(head) < _HEAD.size:
            raise _damaged(path, offset, "is cut off")
        length, length_sum = _HEAD.unpack(head)
        if length > MAX_RECORD or length_sum != _length_sum(head[:8]):
            raise _damaged(path, offset, "has a damaged length")
        rest = stream.read(length + _TAIL.size)
        if len(rest) < length + _TAIL.size:
            raise _damaged(path, offset, "is cut off")
        chunk.append((offset, rest[:length], _TAIL.unpack(rest[length:])[0]))
        total += length
        offset += length + 16
    return chunk


def _check(path: Path, chunk: list[tuple[int, bytes, int]]) -> None:
    """Compare the sums of the data. Those of the lengths were, one by one, before anything was read by them."""
    stated = np.array([stated for *_, stated in chunk], np.uint32)
    wrong = np.flatnonzero(masked(crc32c([data for _, data, _ in chunk])) != stated)
    if len(wrong):
        raise _damaged(path, chunk[wrong[0]][0], "does not have its checksum")


def _damaged(path: Path, offset: int, what: str) -> InvalidDataError:
    return InvalidDataError(f"{path}: the record at byte {offset} {what}; fetch the file again")


def recognises(path: Path) -> bool:
    """Whether a file begins as TFRecord files do: a length and its sum."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
    return len(head) == _HEAD.size and _length_sum(head[:8]) == _HEAD.unpack(head)[1]
