"""Decode the arguments of an exported program's calls from JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from gennape.errors import InvalidDataError
from gennape.search_spaces.importing.pt2_nodes.archive import DTYPES

#: Tensors and integers of a run, by name.
Values = Mapping[str, Any]
_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}


def _named(value: Any, values: Values) -> Any:
    return values[value["name"]]


def _maybe_symbol(value: Any, values: Values) -> Any:
    """A number, or the name of one."""
    ((kind, content),) = value.items()
    return values[content] if kind == "as_name" else _float(content, values) if kind == "as_float" else content


def _plain(value: Any, _: Values) -> Any:
    return value


def _float(value: Any, _: Values) -> Any:
    """A float; values that JSON lacks are strings, such as ``-Infinity``."""
    return float(value) if isinstance(value, str) else value


def _each(decode: Callable[[Any, Values], Any]) -> Callable[[Any, Values], Any]:
    return lambda value, values: [decode(item, values) for item in value]


def _optional(value: Any, values: Values) -> Any:
    ((kind, content),) = value.items()
    return None if kind == "as_none" else _named(content, values)


_DECODERS: dict[str, Callable[[Any, Values], Any]] = {
    "as_none": lambda _, __: None,
    "as_tensor": _named,
    "as_tensors": _each(_named),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _each(_optional),
    "as_nested_tensors": _each(_each(_named)),
    **dict.fromkeys(("as_int", "as_bool", "as_string"), _plain),
    **dict.fromkeys(("as_ints", "as_bools", "as_strings", "as_int_lists"), _plain),
    "as_float": _float,
    "as_floats": _each(_float),
    "as_float_lists": _each(_each(_float)),
    **dict.fromkeys(("as_sym_int", "as_sym_float", "as_sym_bool"), _maybe_symbol),
    **dict.fromkeys(("as_sym_ints", "as_sym_floats", "as_sym_bools"), _each(_maybe_symbol)),
    "as_scalar_type": lambda value, _: DTYPES[value],
    "as_memory_format": lambda value, _: _FORMATS[value],
    "as_layout": lambda _, __: torch.strided,
    "as_device": lambda _, __: None,  # the network runs on the meta device
}


def decoded(argument: Any, values: Values) -> Any:
    """The value of an argument; raises :class:`InvalidDataError` if its kind is unknown."""
    try:
        ((kind, content),) = argument.items()
        return _DECODERS[kind](content, values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidDataError(
            f"the argument {str(argument)[:200]} cannot be decoded; save the program again"
        ) from error


def names_of(output: Any) -> str | list[str | None] | None:
    """The name of a result, a list of names for a list of results, or None if it is unused."""
    ((kind, content),) = output.items()
    if kind == "as_tensor":
        return str(content["name"])
    if kind == "as_tensors":
        return [str(item["name"]) for item in content]
    if kind == "as_optional_tensors":
        return [None if "as_none" in item else str(item["as_tensor"]["name"]) for item in content]
    return str(content["as_name"]) if isinstance(content, dict) and "as_name" in content else None
