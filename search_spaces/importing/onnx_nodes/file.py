"""Read the structure of an ONNX file and leave its weights where they are: memory is bounded by the structure."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from jaxtyping import Shaped
from onnx import helper

from gennape.errors import InvalidDataError, InvalidGraphError
from gennape.search_spaces.files.bounded import open_regular

#: Largest file that is read, in bytes: what a protobuf may hold.
MAX_BYTES = 2**31 - 1
#: Largest structure (a file without its weights, descriptions and intermediate shapes), in bytes, parts and nodes.
_MAX_STRUCTURE, _MAX_PARTS, MAX_NODES = 8 * 2**20, 300_000, 20_000
#: Tensors and nodes of at most this many bytes are read whole; of larger ones only what says their shape, and whole
#: numbers, which are shapes and places, up to as many bytes as the second says.
_SMALL, _SMALL_WHOLE = 1024, 32 * 1024
_WHOLE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
#: Most numbers of a constant that are computed; of larger tensors only the shape.
MAX_NUMBERS = 4096
#: Largest dimension of a tensor, and most dimensions.
MAX_DIM, MAX_RANK = 2**31 - 1, 16

#: What PyTorch's older exporter calls tensors that a program writes down; what is learnt is called as in the module.
_WRITTEN_DOWN = re.compile(r"/(?:.*/)?Constant(?:_\d+)?_output_0", re.DOTALL)
_REAL = tuple(getattr(onnx.TensorProto, name) for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"))

# Fields of the messages that are looked into, by the name of what they hold; and fields that are left out.
_INSIDE = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor"},
    "tensor": {},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DATA_TYPE = 2 << 3
_LEFT_OUT = {
    "model": frozenset({6, 14, 20}),  # descriptions, metadata and training
    "graph": frozenset({10, 13, 14, 16}),  # descriptions, intermediate shapes, quantisation, metadata
    "node": frozenset({6, 9}),
    "attribute": frozenset({13}),
    "tensor": frozenset({4, 5, 6, 7, 9, 10, 11, 12, 13}),  # the numbers, however they are written
    "sparse": frozenset(),
}


Sources = frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A tensor of the file: its shape and, where it is small, its numbers."""

    shape: tuple[int, ...]
    values: Shaped[np.ndarray, "..."] | None = None
    #: The real tensors of the file that it was computed of, itself maybe, and how many numbers each holds: these may
    #: be learnt. 0 where they are of the program; none where it only says a shape or is filled with one number.
    sources: Sources = frozenset()
    #: The type that ONNX numbers so; 0 where the constant was computed.
    type: int = 0

    @property
    def params(self) -> int:
        """How many numbers of the file it was computed of."""
        return sum(size for _, size in self.sources)

    @property
    def fixed(self) -> bool:
        """Whether it was computed of nothing but tensors that the program writes down."""
        return bool(self.sources) and self.params == 0

    @property
    def numbers(self) -> Shaped[np.ndarray, "..."]:
        """The numbers; raises :class:`InvalidGraphError` where they are not known."""
        if self.values is None:
            raise InvalidGraphError(
                f"it needs the numbers of a constant {list(self.shape)} that is large or not in the file"
            )
        return self.values


def read_model(path: Path, max_bytes: int = MAX_BYTES) -> onnx.ModelProto:
    """The model in the ONNX file at ``path`` without its weights; external data is not looked at.

    Raises :class:`InvalidDataError` for a file that cannot be read, is larger than ``max_bytes``, or is not ONNX.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise InvalidDataError(
                    f"{path} has {size} bytes, more than the {max_bytes} that are read; store weights as external data"
                )
            return parse_model(file, size, str(path))
    except OSError as error:
        raise InvalidDataError(f"cannot read {path}: {error.strerror or error}; name a readable ONNX file") from error


def parse_model(file: io.BufferedIOBase, size: int, source: str) -> onnx.ModelProto:
    """The model in the next ``size`` bytes of ``file`` without its weights; ``source`` names the file in errors."""
    reduced = _Reduction(file, source).message("model", size)
    try:
        model = onnx.ModelProto.FromString(reduced)
    except DecodeError as error:
        raise InvalidDataError(f"{source} is not an ONNX model ({error}); export the model again") from error
    if not model.HasField("graph"):
        raise InvalidDataError(f"{source} is not an ONNX model: it holds no graph; export the model again")
    return model


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` without the numbers of its large tensors.

    Raises :class:`InvalidDataError` for a model beyond what a protobuf may hold.
    """
    try:
        data = model.SerializeToString()
    except (ValueError, MemoryError) as error:
        raise InvalidDataError(f"the model cannot be serialised ({error}); store weights as external data") from error
    return parse_model(io.BytesIO(data), len(data), "the model")


class _Reduction:
    """Copies a protobuf without weights, passing over them in the file."""

    def __init__(self, file: io.BufferedIOBase, source: str) -> None:
        self._file = file
        self._source = source
        self._parts = 0
        self._bytes = 0

    def message(self, kind: str, size: int) -> bytes:
        """The next ``size`` bytes, a message of that kind, reduced."""
        end = self._file.tell() + size
        inside, left_out = _INSIDE[kind], _LEFT_OUT[kind]
        kept, whole = [], False
        while self._file.tell() < end:
            tag, key = self._varint()
            wire, inner = tag & 7, inside.get(tag >> 3)
            length, prefix = self._varint() if wire == 2 else (self._length(wire), b"")
            if self._file.tell() + length > end:
                raise self._broken("a part is longer than what holds it: the file is truncated or damaged")
            if tag >> 3 in left_out and not (whole and length <= _SMALL_WHOLE):
                self._file.seek(length, io.SEEK_CUR)
            elif inner is not None and wire == 2 and (length > _SMALL or kind == "model"):
                content = self.message(inner, length)
                kept += [key, _encode(len(content)), content]
            else:
                content = self._copy(length)
                whole |= kind == "tensor" and tag == _DATA_TYPE and content[0] in _WHOLE
                kept += [key, prefix, content]
        return b"".join(kept)

    def _length(self, wire: int) -> int:
        """Bytes of a number; of one of variable length they are counted by reading it."""
        if wire == 0:
            start = self._file.tell()
            _, raw = self._varint()
            self._file.seek(start)
            return len(raw)
        if wire in (1, 5):
            return 8 if wire == 1 else 4
        raise self._broken(f"it has a part of unknown kind {wire}")

    def _varint(self) -> tuple[int, bytes]:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise self._broken(f"it has more than {_MAX_PARTS} parts")
        raw, number = b"", 0
        while len(raw) < 10:
            byte = self._file.read(1)
            if not byte:
                raise self._broken("it ends in the middle of a part: the file is truncated")
            number |= (byte[0] & 127) << (7 * len(raw))
            raw += byte
            if byte[0] < 128:
                return number, raw
        raise self._broken("it has a number of more than 10 bytes")

    def _copy(self, length: int) -> bytes:
        self._bytes += length
        if self._bytes > _MAX_STRUCTURE:
            raise self._broken(f"its structure without weights is larger than {_MAX_STRUCTURE} bytes")
        data = self._file.read(length)
        if len(data) != length:
            raise self._broken("it ends in the middle of a part: the file is truncated")
        return data

    def _broken(self, what: str) -> InvalidDataError:
        return InvalidDataError(f"{self._source} is not an ONNX model that can be read: {what}; export it again")


def is_written_down(name: str) -> bool:
    """Whether a tensor of the file is one of the program's own, which nothing learns, by the name that it has."""
    return _WRITTEN_DOWN.fullmatch(name) is not None


def unlearnt(sources: Sources) -> Sources:
    """The same tensors, of which nothing is learnt."""
    return frozenset((name, 0) for name, _ in sources)


def _encode(number: int) -> bytes:
    """A number as protobuf writes lengths."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def constant(tensor: onnx.TensorProto, where: str) -> Constant:
    """The shape of ``tensor`` and, where they are in the file and few, its numbers.

    Raises :class:`InvalidDataError` naming ``where`` for dimensions or numbers that no tensor has.
    """
    shape = _shape(tensor.dims, where)
    size = math.prod(shape)
    sources = _sources(tensor, where, size)
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type == onnx.TensorProto.STRING:
        return Constant(shape, None, sources, tensor.data_type)
    held = any(
        len(getattr(tensor, name))
        for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    )
    if size > _SMALL_WHOLE // 8 or (size and not held):
        return Constant(shape, None, sources, tensor.data_type)
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        values = onnx.numpy_helper.to_array(tensor) if size else np.zeros(shape, dtype)
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidDataError(f"the numbers of {where} do not fill its shape {list(shape)} ({error})") from error
    return Constant(shape, values, sources, tensor.data_type)


def sparse_constant(tensor: onnx.SparseTensorProto, where: str) -> Constant:
    """The shape of a tensor of which the file holds only what is not zero; its zeros count as well."""
    shape = _shape(tensor.dims, where)
    return Constant(shape, None, _sources(tensor.values, where, math.prod(shape)), tensor.values.data_type)


def _shape(dims: Iterable[int], where: str) -> tuple[int, ...]:
    shape = tuple(dims)
    if len(shape) > MAX_RANK or any(not 0 <= n <= MAX_DIM for n in shape):
        raise InvalidDataError(f"{where} has dimensions {list(shape)[:MAX_RANK]}, which no tensor can have")
    return shape


def _sources(tensor: onnx.TensorProto, where: str, size: int) -> Sources:
    return frozenset([(where, size)]) if tensor.data_type in _REAL else frozenset()
