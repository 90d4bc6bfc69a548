"""Safe replacements of the few functions that data files call: containers, numbers, numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Shaped

from gennape.errors import InvalidDataError

#: Maximum elements of an array, and of a ``range``.
_MAX_ELEMENTS = 2**31


class Dtype:
    """The element type of a numpy array, under construction: the byte order follows later."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or np.dtype(_NUMERIC.get(code.lstrip("<>=|"), "V")).kind == "V":
            raise InvalidDataError(f"an array of {code!r}; only arrays of numbers are read")
        self.dtype = np.dtype(_NUMERIC[code.lstrip("<>=|")])
        if code[:1] in "<>":
            self.dtype = self.dtype.newbyteorder(code[0])  # type: ignore[arg-type]


_NUMERIC = {code: code for code in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")}
_NUMERIC |= {"?": "b1"}


def _dtype(args: tuple[Any, ...]) -> Dtype:
    return Dtype(args[0])


def _bytes(value: object) -> bytes:
    """Bytes in a pickle, which old pickles store as text."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise InvalidDataError(f"bytes expected, got a {type(value).__name__}")


def _number(args: tuple[Any, ...]) -> object:
    """A numpy scalar, as a Python number."""
    kind, data = args
    if not isinstance(kind, Dtype):
        raise InvalidDataError("a number without a type")
    raw = _bytes(data)
    if len(raw) != kind.dtype.itemsize:
        raise InvalidDataError(f"a number of {len(raw)} bytes, its type has {kind.dtype.itemsize}")
    return np.frombuffer(raw, kind.dtype)[0].item()


def _array(shape: object, kind: object, data: bytes, column_major: bool) -> Shaped[np.ndarray, "..."]:
    if not isinstance(kind, Dtype) or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise InvalidDataError("an array without a shape and a type")
    if len(shape) > 32 or math.prod(shape) > _MAX_ELEMENTS or math.prod(shape) * kind.dtype.itemsize != len(data):
        raise InvalidDataError(f"an array of shape {shape} and {kind.dtype} in {len(data)} bytes")
    return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if column_major else "C")


def _empty_array(_: tuple[Any, ...]) -> Shaped[np.ndarray, "..."]:
    return np.zeros(0, np.uint8)


def _array_of_buffer(args: tuple[Any, ...]) -> Shaped[np.ndarray, "..."]:
    data, kind, shape, order = args
    return _array(shape, kind, _bytes(data), order == "F")


def set_state(target: object, state: object) -> None:
    """Give a dtype its byte order or an array its contents; attributes of dictionaries are left out."""
    if isinstance(target, dict):
        return
    if not isinstance(state, tuple):
        raise InvalidDataError(f"a state for a {type(target).__name__}")
    if isinstance(target, Dtype):
        if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise InvalidDataError("an array of records; only arrays of numbers are read")
        if state[1] in "<>":
            target.dtype = target.dtype.newbyteorder(state[1])
    elif isinstance(target, np.ndarray) and target.shape == (0,):
        _, shape, kind, column_major, data = state
        contents = _array(shape, kind, _bytes(data), bool(column_major))
        # Fill the array in place, as numpy does, so that all references see the contents.
        restored = (1, contents.shape, contents.dtype, bool(column_major), contents.tobytes("A"))
        target.__setstate__(restored)  # type: ignore[arg-type]
    else:
        raise InvalidDataError(f"a state for a {type(target).__name__}")


def _encoded(args: tuple[Any, ...]) -> bytes:
    text, encoding = args
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise InvalidDataError(f"bytes encoded as {encoding!r}")
    return text.encode("latin-1")


def _octets(args: tuple[Any, ...]) -> bytes:
    if not args:
        return b""
    if len(args) == 2:
        return _encoded(args)
    if isinstance(args[0], list):
        return bytes(args[0])
    return _bytes(args[0])


def _one(make: Callable[[Iterable[object]], object]) -> Callable[[tuple[Any, ...]], object]:
    """A container of the elements in the one list or tuple given."""

    def call(args: tuple[Any, ...]) -> object:
        if len(args) > 1 or not all(isinstance(part, list | tuple | set | frozenset) for part in args):
            raise InvalidDataError("a container of something else than a list")
        return make(*args)

    return call


def _mapping(args: tuple[Any, ...]) -> dict[object, object]:
    """A dictionary of pairs; the factory of a ``defaultdict`` is ignored."""
    pairs = [part for part in args if isinstance(part, list | dict)]
    return dict(pairs[0]) if pairs else {}


def _range(args: tuple[Any, ...]) -> range:
    if not all(type(part) is int for part in args) or len(made := range(*args)) > _MAX_ELEMENTS:
        raise InvalidDataError("a range of something else than integers, or too long")
    return made


def _complex(args: tuple[Any, ...]) -> complex:
    real, imaginary = args
    return complex(float(real), float(imaginary))


def _nothing(_: tuple[Any, ...]) -> object:
    raise InvalidDataError("an object of a class that only serves as a name")


_BUILTINS: dict[str, Callable[[tuple[Any, ...]], object]] = {
    "set": _one(set), "frozenset": _one(frozenset), "list": _one(list), "tuple": _one(tuple), "dict": _mapping,
    "bytes": _octets, "bytearray": lambda args: bytearray(_octets(args)), "range": _range, "xrange": _range,
    "complex": _complex, "int": _nothing, "float": _nothing, "object": _nothing,
}  # fmt: skip
_MULTIARRAY = {"scalar": _number, "_reconstruct": _empty_array}

#: By qualified name, under the names that old and new versions of Python and numpy write.
INERT: dict[str, Callable[[tuple[Any, ...]], object]] = {
    **{f"{module}.{name}": call for module in ("builtins", "__builtin__") for name, call in _BUILTINS.items()},
    **{
        f"{module}.multiarray.{name}": call
        for module in ("numpy.core", "numpy._core")
        for name, call in _MULTIARRAY.items()
    },
    **{f"{module}.numeric._frombuffer": _array_of_buffer for module in ("numpy.core", "numpy._core")},
    "numpy.dtype": _dtype,
    "numpy.ndarray": _nothing,
    "_codecs.encode": _encoded,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
}
