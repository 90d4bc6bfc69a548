"""Files written by ``torch.save``, of before and since PyTorch 1.6, read as data; tensors become numpy arrays.

Format: https://pytorch.org/docs/stable/notes/serialization.html. Old files are five pickles in a row (a magic number, a
version, facts of the machine, the value, the keys of the storages) and then each storage as its length and bytes; new
ones a zip archive with the value in ``data.pkl`` and a file per storage.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.bounded import BROKEN, MAX_BYTES, bounded, expected, open_bounded, require_regular
from gennape.search_spaces.files.restricted_pickle.machine import Global, Limits, Rules
from gennape.search_spaces.files.restricted_pickle.reader import read_pickle

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_KINDS = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1",
    "Byte": "u1", "Bool": "?",
}  # fmt: skip
_MAX_NUMBERS = 2**29
_STORAGES = {f"torch.{name}Storage": np.dtype(kind) for name, kind in _KINDS.items()}


class Storage:
    """The numbers that tensors are views of; ``data`` [n] once the file was read to its end."""

    def __init__(self, dtype: np.dtype[Any], key: str, size: int) -> None:
        self.dtype, self.key, self.size = dtype, key, size
        self.data: Shaped[np.ndarray, " n"] | None = None

    def fill(self, raw: bytes, where: str) -> None:
        """Set the numbers from their bytes, which must be as many as announced."""
        if len(raw) != self.size * self.dtype.itemsize:
            raise InvalidDataError(f"{where}: storage {self.key!r} has {len(raw)} bytes, not those of {self.size}")
        self.data = np.frombuffer(raw, self.dtype)


class Tensor:
    """A view of a storage."""

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def array(self) -> Shaped[np.ndarray, "..."]:
        """A copy, of the tensor's shape; raises :class:`InvalidDataError` when the view leaves its storage."""
        data = self.storage.data
        if data is None:
            raise InvalidDataError(f"the file lacks the storage {self.storage.key!r} of a tensor")
        numbers = (self.offset, *self.shape, *self.stride)
        count = math.prod(self.shape)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if min(numbers) < 0 or count > len(data) or (count and last >= len(data)):
            raise InvalidDataError(f"a tensor of shape {self.shape} does not lie in its storage of {len(data)} numbers")
        if count == 0:
            return np.zeros(self.shape, data.dtype)
        steps = tuple(data.itemsize * step for step in self.stride)
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, steps).copy()


def _tensor(args: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, stride = args[:4]
    views = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 16
    if not isinstance(storage, Storage) or not views or not all(type(n) is int for n in (offset, *shape, *stride)):
        raise InvalidDataError("a tensor without storage, shape and stride")
    return Tensor(storage, offset, shape, stride)


def _parameter(args: tuple[Any, ...]) -> object:
    return args[0]


def _shape(args: tuple[Any, ...]) -> tuple[object, ...]:
    return tuple(args[0])


def _name_only(_: tuple[Any, ...]) -> object:
    raise InvalidDataError("a storage within the pickle itself")


_CALLS = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _shape,
    **dict.fromkeys(_STORAGES, _name_only),
}


class _Storages:
    """The storages that a pickle refers to, by key."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def find(self, reference: object) -> Storage:
        """The storage of a persistent id ``("storage", kind, key, device, size, ...)``."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise InvalidDataError("an external value that is no storage")
        kind, key, size = reference[1], reference[2], reference[4]
        if not isinstance(kind, Global) or kind.key not in _STORAGES or type(key) is not str or type(size) is not int:
            raise InvalidDataError("a storage of an unknown kind")
        if not 0 <= size <= _MAX_NUMBERS:
            raise InvalidDataError(f"a storage of {size} numbers, more than {_MAX_NUMBERS}")
        if len(reference) > 5 and reference[5] is not None:
            raise InvalidDataError("a storage that is part of another")
        return self.by_key.setdefault(key, Storage(_STORAGES[kind.key], key, size))


def read_torch(path: Path, rules: Rules | None = None, limits: Limits | None = None) -> object:
    """The value in a file of ``torch.save``, tensors being :class:`Tensor`.

    Raises :class:`InvalidDataError` for anything else, and for whatever :func:`read_pickle` refuses.
    """
    storages = _Storages()
    given = rules or Rules({})
    rules = replace(given, calls={**given.calls, **_CALLS}, persistent=storages.find)
    try:
        require_regular(path)
        read = _read_zip if zipfile.is_zipfile(path) else _read_old
    except BROKEN as error:
        raise InvalidDataError(f"{path}: not a whole file of torch.save: {error}; fetch it again") from error
    return read(path, rules, limits, storages)


def _read_zip(path: Path, rules: Rules, limits: Limits | None, storages: _Storages) -> object:
    try:
        most = expected(path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == "data.pkl"]
            with archive.open(name) as member:
                value = read_pickle(bounded(member, str(path), most), str(path), rules, limits)
            for storage in storages.by_key.values():
                member_name = f"{name.removesuffix('data.pkl')}data/{storage.key}"
                if archive.getinfo(member_name).file_size != storage.size * storage.dtype.itemsize:
                    raise InvalidDataError(f"{path}: storage {storage.key!r} is not of the announced size")
                with archive.open(member_name) as member:
                    storage.fill(bounded(member, str(path), most).read(), str(path))
    except (*BROKEN, KeyError) as error:
        raise InvalidDataError(f"{path}: not a whole file of torch.save: {error}; fetch it again") from error
    return value


def _read_old(path: Path, rules: Rules, limits: Limits | None, storages: _Storages) -> object:
    where = str(path)
    with open_bounded(path, MAX_BYTES) as stream:
        header = [read_pickle(stream, where) for _ in range(2)]
        if header != [_MAGIC, _VERSION]:
            raise InvalidDataError(f"{path}: not a file of torch.save")
        read_pickle(stream, where)
        value = read_pickle(stream, where, rules, limits)
        keys = read_pickle(stream, where)
        if not isinstance(keys, list) or not set(storages.by_key) <= set(map(str, keys)):
            raise InvalidDataError(f"{path}: the list of storages is not whole")
        for key in keys:
            _fill(stream, storages.by_key.get(key), where)
    return value


def _fill(stream: io.BufferedReader, storage: Storage | None, where: str) -> None:
    """Read one storage: its count of elements in eight bytes, then these."""
    if storage is None:
        raise InvalidDataError(f"{where}: a storage that no tensor uses")
    count = int.from_bytes(stream.read(8), "little", signed=True)
    if count != storage.size:
        raise InvalidDataError(f"{where}: storage {storage.key!r} of {count} elements, announced were {storage.size}")
    left, parts = count * storage.dtype.itemsize, bytearray()
    while left and (part := stream.read(min(left, 1 << 20))):
        parts += part
        left -= len(part)
    storage.fill(bytes(parts), where)
