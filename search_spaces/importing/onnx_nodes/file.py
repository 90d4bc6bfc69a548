"""Read the structure of an ONNX file without its weights, so that memory depends on the structure alone."""

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

#: Largest file that is read, in bytes: the limit of protobuf.
MAX_BYTES = 2**31 - 1
#: Largest structure (a file without its weights, descriptions and intermediate shapes), in bytes, parts and nodes.
_MAX_STRUCTURE, _MAX_PARTS, MAX_NODES = 8 * 2**20, 300_000, 20_000
#: Tensors and nodes up to this many bytes are read whole. Larger ones are read without values, except integers (shapes
#: and positions) up to the second limit.
_SMALL, _SMALL_WHOLE = 1024, 32 * 1024
_WHOLE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
#: Most elements of a folded constant; larger ones have only a shape.
MAX_NUMBERS = 4096
#: Largest dimension of a tensor, and most dimensions.
MAX_DIM, MAX_RANK = 2**31 - 1, 16

#: Names that PyTorch's older exporter gives to literals of a program; parameters have their names in the module.
_WRITTEN_DOWN = re.compile(r"/(?:.*/)?Constant(?:_\d+)?_output_0", re.DOTALL)
_REAL = tuple(getattr(onnx.TensorProto, name) for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"))

# Message fields that are read into, by what they hold; and fields that are skipped.
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
    "tensor": frozenset({4, 5, 6, 7, 9, 10, 11, 12, 13}),  # values, in any encoding
    "sparse": frozenset(),
}


Sources = frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A tensor of the file: its shape and, if it is small, its values."""

    shape: tuple[int, ...]
    values: Shaped[np.ndarray, "..."] | None = None
    #: The floating-point tensors of the file that it was computed from, maybe itself, with the number of elements that
    #: may be learnt: 0 for literals of the program. Shapes and filled tensors have no sources.
    sources: Sources = frozenset()
    #: The dtype, as ONNX numbers it; 0 if the constant was computed.
    type: int = 0

    @property
    def params(self) -> int:
        """How many learnable elements it was computed from."""
        return sum(size for _, size in self.sources)

    @property
    def fixed(self) -> bool:
        """Whether it was computed from literals of the program alone."""
        return bool(self.sources) and self.params == 0

    @property
    def numbers(self) -> Shaped[np.ndarray, "..."]:
        """The values; raises :class:`InvalidGraphError` if they are unknown."""
        if self.values is None:
            raise InvalidGraphError(
                f"it needs the values of a constant {list(self.shape)} that is large or not in the file"
            )
        return self.values


def read_model(path: Path, max_bytes: int = MAX_BYTES) -> onnx.ModelProto:
    """The model in the ONNX file at ``path`` without its weights; external data is ignored.

    Raises :class:`InvalidDataError` if the file cannot be read, is larger than ``max_bytes``, or is not ONNX.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise InvalidDataError(
                    f"{path} has {size} bytes, more than the {max_bytes} allowed; store weights as external data"
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
    """A copy of ``model`` without the values of its large tensors.

    Raises :class:`InvalidDataError` if the model exceeds protobuf's limit.
    """
    try:
        data = model.SerializeToString()
    except (ValueError, MemoryError) as error:
        raise InvalidDataError(f"the model cannot be serialised ({error}); store weights as external data") from error
    return parse_model(io.BytesIO(data), len(data), "the model")


class _Reduction:
    """Copies a protobuf without weights, which are skipped in the file."""

    def __init__(self, file: io.BufferedIOBase, source: str) -> None:
        self._file = file
        self._source = source
        self._parts = 0
        self._bytes = 0

    def message(self, kind: str, size: int) -> bytes:
        """The next ``size`` bytes, a message of ``kind``, without weights."""
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
        """Bytes of a number; one of variable length is read to count them."""
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
    """Whether a tensor's name says that it is a literal of the program, which is not learnt."""
    return _WRITTEN_DOWN.fullmatch(name) is not None


def unlearnt(sources: Sources) -> Sources:
    """The same tensors with no learnable elements."""
    return frozenset((name, 0) for name, _ in sources)


def _encode(number: int) -> bytes:
    """A number as a protobuf varint."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def constant(tensor: onnx.TensorProto, where: str) -> Constant:
    """The shape of ``tensor`` and, if they are few and in the file, its values.

    Raises :class:`InvalidDataError` naming ``where`` for invalid dimensions or values.
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
        raise InvalidDataError(f"the values of {where} do not fill its shape {list(shape)} ({error})") from error
    return Constant(shape, values, sources, tensor.data_type)


def sparse_constant(tensor: onnx.SparseTensorProto, where: str) -> Constant:
    """The shape of a sparse tensor; its zeros count as elements too."""
    shape = _shape(tensor.dims, where)
    return Constant(shape, None, _sources(tensor.values, where, math.prod(shape)), tensor.values.data_type)


def _shape(dims: Iterable[int], where: str) -> tuple[int, ...]:
    shape = tuple(dims)
    if len(shape) > MAX_RANK or any(not 0 <= n <= MAX_DIM for n in shape):
        raise InvalidDataError(f"{where} has dimensions {list(shape)[:MAX_RANK]}, which are invalid")
    return shape


def _sources(tensor: onnx.TensorProto, where: str, size: int) -> Sources:
    return frozenset([(where, size)]) if tensor.data_type in _REAL else frozenset()
