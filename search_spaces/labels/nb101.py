"""Read NAS-Bench-101's files, ``nasbench_only108.tfrecord`` and ``nasbench_full.tfrecord`` (Ying et al., 2019).

A record is a JSON list: hash of the cell, epochs of training, its adjacency matrix row by row as digits, its operations
joined by commas, and the measurements of one run, a protocol buffer in base 64. Fields of this message,
``ModelMetrics``: 1 repeats ``EvaluationData`` (at the start, halfway, at the end; doubles: 1 epoch, 2 training time in
s, 3 training, 4 validation, 5 test accuracy as fractions), 2 is the count of trainable parameters (varint), 3 the total
time (https://github.com/google-research/nasbench, ``nasbench/lib/model_metrics.proto``).
"""

from __future__ import annotations

import binascii
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.nb101 import NasBench101
from gennape.search_spaces.files import tfrecord
from gennape.search_spaces.labels.labelled import (
    LabelledArchitectures,
    LabelledRow,
    Reader,
    Request,
    choose_column,
    gather,
)

_DOUBLE = Struct("<d")
_USUAL = ("val108",)
#: Kept measures of a run's last evaluation: field of ``EvaluationData``, name, scale.
_MEASURES = ((4, "val", 100.0), (5, "test", 100.0), (3, "train", 100.0), (2, "train_time", 1.0))
_EPOCHS = (4, 12, 36, 108)

Fields = list[tuple[int, Any]]


def message_fields(data: bytes) -> Fields:
    """The fields of a protocol buffer as (number, value): integers, doubles and bytes.

    Raises :class:`InvalidDataError` if it is truncated or holds other kinds of values.
    """
    fields: Fields = []
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 1:
            if at + 8 > end:
                raise InvalidDataError("a protocol buffer is truncated")
            value: Any = _DOUBLE.unpack_from(data, at)[0]
            at += 8
        elif kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > end:
                raise InvalidDataError("a protocol buffer is truncated")
            value = data[at : at + length]
            at += length
        else:
            raise InvalidDataError(f"a protocol buffer has a value of unknown kind {kind}")
        fields.append((key >> 3, value))
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise InvalidDataError("a protocol buffer is truncated")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


#: The message of all released runs: three evaluations of five doubles, then the count of parameters.
_EVALUATION = "".join("Bd" for _ in range(5))
_USUAL_MESSAGE = Struct("<" + 3 * ("BB" + _EVALUATION))
_USUAL_TAGS = (10, 45, 9, 17, 25, 33, 41)


def last_evaluation(data: bytes) -> tuple[dict[int, float], int]:
    """Fields of the last evaluation of a ``ModelMetrics`` message, and the count of parameters."""
    if len(data) > _USUAL_MESSAGE.size:
        values = _USUAL_MESSAGE.unpack_from(data)
        tags = [values[at : at + 2] + values[at + 2 : at + 12 : 2] for at in (0, 12, 24)]
        if tags == [_USUAL_TAGS] * 3:
            parameters = dict(message_fields(data[_USUAL_MESSAGE.size :])).get(2, 0)
            return dict(zip((1, 2, 3, 4, 5), values[27:36:2], strict=True)), parameters
    fields = message_fields(data)
    evaluations = [value for number, value in fields if number == 1]
    if len(evaluations) != 3 or not isinstance(evaluations[-1], bytes):
        raise InvalidDataError(f"a run has {len(evaluations)} evaluations, must have 3")
    return dict(message_fields(evaluations[-1])), dict(fields).get(2, 0)


class _Cells:
    """Sums over the runs of each cell, in one small row per cell, as the released file has 423,624 cells."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.cells: list[tuple[int, str, str]] = []
        self.texts: dict[str, str] = {}  # matrices and lists of operations, which recur, each stored once
        self.parameters = array("q")
        self.counts: dict[int, array[int]] = {}
        self.sums: dict[tuple[str, int], array[float]] = {}

    def add(self, offset: int, data: bytes) -> None:
        """Add one record; raises :class:`InvalidDataError` if it is invalid."""
        digest, epochs, adjacency, operations, metrics = _parse(data)
        adjacency, operations = (self.texts.setdefault(text, text) for text in (adjacency, operations))
        measured, parameters = _measured(metrics)
        row = self.index.get(digest)
        if row is None:
            row = self.index[digest] = len(self.cells)
            self.cells.append((offset, adjacency, operations))
            self.parameters.append(parameters)
            for counts in self.counts.values():
                counts.append(0)
            for sums in self.sums.values():
                sums.append(0.0)
        elif self.cells[row][1:] != (adjacency, operations):
            raise InvalidDataError(f"hash {digest} belongs to another cell at byte {self.cells[row][0]}")
        if epochs not in self.counts:
            self.counts[epochs] = array("q", [0]) * len(self.cells)
            self.sums |= {(name, epochs): array("d", [0.0]) * len(self.cells) for _, name, _ in _MEASURES}
        self.counts[epochs][row] += 1
        for name, value in measured.items():
            self.sums[name, epochs][row] += value

    def columns(self) -> list[str]:
        """Names of the measures, for example ``val108``."""
        return [f"{name}{epochs}" for name, epochs in sorted(self.sums, key=lambda key: -key[1])]

    def rows(self, path: Path) -> Iterator[LabelledRow]:
        """One row per cell, with means over its runs."""
        for digest, row in self.index.items():
            offset, adjacency, operations = self.cells[row]
            values: dict[str, float] = {"params": self.parameters[row]}
            for (name, epochs), sums in self.sums.items():
                if self.counts[epochs][row]:
                    values[f"{name}{epochs}"] = sums[row] / self.counts[epochs][row]
            values["runs"] = max(counts[row] for counts in self.counts.values())
            where = f"{path}, the record at byte {offset}"
            yield LabelledRow(where, _architecture(adjacency, operations), values, identity=digest)


def _measured(metrics: bytes) -> tuple[dict[str, float], int]:
    """The measures of one run by name, and the count of parameters."""
    evaluation, parameters = last_evaluation(metrics)
    if missing := [number for number, *_ in _MEASURES if not isinstance(evaluation.get(number), float)]:
        raise InvalidDataError(f"its last evaluation lacks the fields {missing}")
    if type(parameters) is not int or parameters >= 2**62:
        raise InvalidDataError("its count of parameters is invalid")
    return {name: scale * evaluation[number] for number, name, scale in _MEASURES}, parameters


def _parse(data: bytes) -> tuple[str, int, str, str, bytes]:
    try:
        digest, epochs, adjacency, operations, metrics = json.loads(data)
        raw = binascii.a2b_base64(metrics)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidDataError(f"not a record of NAS-Bench-101: {error}") from error
    if not all(isinstance(text, str) for text in (digest, adjacency, operations)) or epochs not in _EPOCHS:
        raise InvalidDataError(f"not a record of NAS-Bench-101: {data[:80]!r}")
    vertices = operations.count(",") + 1
    if len(adjacency) != vertices**2 or not set(adjacency) <= {"0", "1"}:
        raise InvalidDataError(f"a matrix of {len(adjacency)} digits {adjacency[:60]!r} for {vertices} vertices")
    if len(digest) != 32 or not set(digest) <= set("0123456789abcdef"):
        raise InvalidDataError(f"hash {digest[:40]!r} must be 32 hexadecimal digits")
    return digest, epochs, adjacency, operations, raw


def _architecture(adjacency: str, operations: str) -> object:
    """The cell in the form that :class:`NasBench101` reads."""
    ops = operations.split(",")
    v = len(ops)
    digits = [int(digit) for digit in adjacency]
    return {"matrix": [digits[x * v : (x + 1) * v] for x in range(v)], "ops": ops}


def blocks(path: Path, request: Request) -> Iterator[LabelledArchitectures]:
    """Cells with the means of their runs. A wrong checksum ends the reading; other bad records are rejected alone."""
    cells = _Cells()
    for offset, data in tfrecord.records(path):
        try:
            cells.add(offset, data)
        except InvalidDataError as error:
            request.reject(f"{path}, the record at byte {offset}: {error}")
    column = choose_column(path, request.column, _USUAL, [*cells.columns(), "params", "runs"])
    yield from gather(cells.rows(path), column, request)


READER = Reader(
    "NAS-Bench-101",
    "nasbench_only108.tfrecord, nasbench_full.tfrecord",
    tfrecord.recognises,
    blocks,
    (NasBench101,),
)
