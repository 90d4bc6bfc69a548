"""Read archives of ``torch.export.save`` as data: the program as JSON, and the values of its scalar constants.

``torch.export.load`` is not used: it unpickles the file's contents, evaluates expressions, and calls any PyTorch
function that is named. Layout: https://pytorch.org/docs/stable/export.html (PT2 archive).
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.bounded import BROKEN, bounded, expected

#: Most bytes of the JSON of a program or of its weights: far more than any network needs.
MAX_JSON = 2**26
_MAX_FILES = 2**20
#: Dtypes by their code in the format.
DTYPES: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


@dataclass(frozen=True)
class Archive:
    """The program, and for each tensor the file that holds its values."""

    program: dict[str, Any]
    #: File and position in it, by the tensor's name: equal for tensors that share storage.
    places: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    #: Tensors with one element, by name.
    numbers: dict[str, Tensor] = field(default_factory=dict)


def read_archive(path: Path) -> Archive:
    """The program in the file at ``path``; raises :class:`InvalidDataError` if it is damaged or too large."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, str(path))
    except OSError as error:
        raise InvalidDataError(f"cannot read {path}: {error.strerror or error}") from error
    except (*BROKEN, NotImplementedError, UnicodeDecodeError) as error:
        raise InvalidDataError(f"{path} is no program of torch.export: {error}; save it again") from error


def _read(archive: zipfile.ZipFile, where: str) -> Archive:
    files = {info.filename.partition("/")[2]: info for info in archive.infolist()[:_MAX_FILES]}
    whole = {info.filename: info for info in archive.infolist()[:_MAX_FILES]}
    models = sorted(name for name in files if name.startswith("models/") and name.endswith(".json"))
    if not models and "serialized_exported_program.json" in whole:  # PyTorch before 2.8
        return Archive(_json(archive, whole["serialized_exported_program.json"], where))
    if len(models) != 1:
        found = f"several programs ({', '.join(models[:8])}); save one" if models else "no program of torch.export"
        raise InvalidDataError(f"{where} holds {found}; write it with torch.export.save(program, path)")
    name = models[0].removeprefix("models/").removesuffix(".json")
    places: dict[str, tuple[Any, ...]] = {}
    numbers: dict[str, Tensor] = {}
    for folder in ("weights", "constants"):
        config = files.get(f"data/{folder}/{name}_{folder}_config.json")
        if config is None:
            continue
        for tensor, entry in _json(archive, config, where).get("config", {}).items():
            place = (entry.get("path_name"), json.dumps(entry.get("tensor_meta")))
            places[tensor] = place
            number = _number(archive, files.get(f"data/{folder}/{place[0]}"), entry, where)
            if number is not None:
                numbers[tensor] = number
    return Archive(_json(archive, files[models[0]], where), places, numbers)


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> dict[str, Any]:
    try:
        value = json.loads(_content(archive, info, MAX_JSON, where))
    except (ValueError, RecursionError) as error:
        raise InvalidDataError(f"{where}: {info.filename} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidDataError(f"{where}: {info.filename} must be an object, got {type(value).__name__}")
    return value


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int, where: str) -> bytes:
    if info.file_size > min(most, expected(info.compress_size)):
        raise InvalidDataError(f"{where}: {info.filename} has {info.file_size} bytes, more than the limit of {most}")
    with archive.open(info) as file:
        return bounded(file, f"{where}: {info.filename}", most).read()


def _number(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, entry: dict[str, Any], where: str) -> Tensor | None:
    """The tensor if it has one element and is not pickled, else None."""
    meta = entry.get("tensor_meta") or {}
    dtype = DTYPES.get(meta.get("dtype", -1))
    sizes = [size.get("as_int") for size in meta.get("sizes", ())]
    if info is None or entry.get("use_pickle") or dtype is None or any(size != 1 for size in sizes):
        return None
    if info.file_size != dtype.itemsize:
        return None
    content = bytearray(_content(archive, info, 16, where))
    return torch.frombuffer(content, dtype=dtype).reshape(sizes)
