"""Read GENNAPE's HiAML, Inception and Two-Path files, such as ``gpi_test_hiaml_cifar10_labelled_cg_data.json``.

A file is one object ``{key: {"net_config", "max_perf", "perfs", "cg"}}``; ``max_perf`` and ``perfs`` are accuracies in
percent, ``cg`` is the graph, which is skipped.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.hiaml import HiAML
from gennape.search_spaces.families.inception import Inception
from gennape.search_spaces.families.two_path import TwoPath
from gennape.search_spaces.files.bounded import open_bounded
from gennape.search_spaces.labels.labelled import (
    LabelledArchitectures,
    LabelledRow,
    Reader,
    Request,
    architecture_of,
    choose_column,
    gather,
    is_finite,
)

_USUAL = ("acc",)
_CHUNK = 1 << 20
#: Largest entry; published ones have a few hundred kilobytes.
_MAX_BYTES = 1 << 26
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")
_START = re.compile(rb"\s*\{\s*\"(?:[^\"\\]|\\.){0,4096}\"\s*:\s*\{")


class _Text:
    """The text of a file, with only the current part in memory."""

    def __init__(self, stream: io.BufferedReader, where: str) -> None:
        self.lines = io.TextIOWrapper(stream, encoding="utf-8")
        self.where, self.text, self.at, self.passed = where, "", 0, 0

    def more(self, wanted: int) -> bool:
        """Read up to ``wanted`` further characters; returns False at the end of the file."""
        self.passed += self.at
        self.text, self.at = self.text[self.at :], 0
        grown = self.lines.read(wanted)
        self.text += grown
        return bool(grown)

    def sign(self) -> str:
        """Consume and return the next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self.text, self.at)
            self.at = match.end() if match else self.at
            if self.at < len(self.text):
                self.at += 1
                return self.text[self.at - 1]
            if not self.more(_CHUNK):
                return ""

    def value(self) -> Any:
        """The next JSON value."""
        if not self.sign():
            raise self.refuse("the file ends too early")
        self.at -= 1
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                held = len(self.text) - self.at
                if isinstance(error, RecursionError) or held > _MAX_BYTES or not self.more(max(held, _CHUNK)):
                    raise self.refuse(f"cannot be read as JSON: {error}") from error
                continue
            length = end - self.at
            if end == len(self.text) and self.more(_CHUNK):  # a number may continue
                continue
            self.at += length
            return value

    def refuse(self, why: str) -> InvalidDataError:
        return InvalidDataError(f"{self.where}: after character {self.passed + self.at}: {why}")


def members(stream: io.BufferedReader, where: str) -> Iterator[tuple[str, Any]]:
    """The members of a JSON object, one at a time; raises :class:`InvalidDataError` with the position of an error."""
    text = _Text(stream, where)
    try:
        if text.sign() != "{":
            raise text.refuse("an object was expected")
        sign = text.sign()
        while sign != "}":
            text.at -= 1
            key = text.value()
            if not isinstance(key, str) or text.sign() != ":":
                raise text.refuse("a name and a colon were expected")
            yield key, text.value()
            if (sign := text.sign()) not in ",}" or not sign:
                raise text.refuse("a comma or the end of the object was expected")
            if sign == "," and (sign := text.sign()) != '"':
                raise text.refuse("a name was expected")
    except UnicodeDecodeError as error:
        raise text.refuse(str(error)) from error


def recognises(path: Path) -> bool:
    """Whether this is a JSON file with an object of objects."""
    if not path.is_file() or not path.name.endswith((".json", ".json.gz")):
        return False
    with open_bounded(path) as stream:
        return _START.match(stream.read(8192)) is not None


def blocks(path: Path, request: Request) -> Iterator[LabelledArchitectures]:
    """Blocks of entries; those without configuration or accuracy are rejected by key."""
    column = choose_column(path, request.column, _USUAL, ("acc", "acc_mean"))
    with open_bounded(path) as stream:
        yield from gather(_rows(members(stream, str(path)), path, request), column, request)


def _rows(found: Iterator[tuple[str, Any]], path: Path, request: Request) -> Iterator[LabelledRow]:
    for key, entry in found:
        where = f"{path}, entry {key[:60]!r}"
        if not isinstance(entry, dict) or "net_config" not in entry or "max_perf" not in entry:
            request.reject(f"{where}: needs net_config and max_perf")
            continue
        values = {"acc": entry["max_perf"]}
        runs = entry.get("perfs")
        if isinstance(runs, list) and runs and all(map(is_finite, runs)):
            values["acc_mean"] = sum(runs) / len(runs)
        yield LabelledRow(where, architecture_of(entry["net_config"]), values)


READER = Reader(
    "GENNAPE's own families",
    "gpi_test_hiaml_cifar10_labelled_cg_data.json, gpi_test_two_path_…, inception_cifar10_labelled_cg_data.json",
    recognises,
    blocks,
    (HiAML, TwoPath, Inception),
)
