"""Settings from the JSON and modules from the tensors of a checkpoint, checked before memory is taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gennape.errors import CheckpointError

M = TypeVar("M", bound=nn.Module)
_REMEDY = "copy the checkpoint again, or make it anew with: gennape fit"
#: Greatest magnitude of a weight or statistic that anything can be computed with.
_GREATEST = 1e12
#: Buffers that are infinite until something is learnt.
_MAY_BE_INFINITE = "reach"
#: How the names of buffers end that hold first a mean and then a deviation.
_STATISTICS = "statistics"


class _Uninitialised(TorchFunctionMode):
    """Leaves initial values out: on the device "meta" there are none, and drawing some imports PyTorch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def made_of(make: Callable[[], M], tensors: Mapping[str, Tensor], where: str) -> M:
    """The module that ``make`` makes, with these tensors in it.

    Its sizes are found without taking memory for it. Raises :class:`CheckpointError`, naming ``where``, for tensors
    that are missing, unknown, of another size or type, or not finite.
    """
    with torch.device("meta"), _Uninitialised():
        expected = make().state_dict()
    if difference := _difference(expected, tensors):
        raise CheckpointError(f"{where}: the weights do not fit the sizes in the description: {difference}; {_REMEDY}")
    for name, tensor in tensors.items():
        _check_values(name, tensor, where)
    module = make()
    module.load_state_dict(dict(tensors))
    return module


def _difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """How two sets of tensors differ in names, sizes or types; empty where they do not."""
    if missing := sorted(expected.keys() - found.keys()):
        return f"{missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else "")
    if unknown := sorted(found.keys() - expected.keys()):
        return f"{unknown[0]} is unknown" + (f", and {len(unknown) - 1} more" if unknown[1:] else "")
    for name, tensor in expected.items():
        asked, got = (f"{list(one.shape)} of {str(one.dtype).removeprefix('torch.')}" for one in (tensor, found[name]))
        if asked != got:
            return f"{name} is {got}, should be {asked}"
    return ""


def _check_values(name: str, tensor: Tensor, where: str) -> None:
    if not tensor.is_floating_point() or not tensor.numel():
        return
    own = name.rpartition(".")[2]
    if own == _MAY_BE_INFINITE:
        tensor = tensor[~torch.isposinf(tensor)]
    divisors = tensor if own == _MAY_BE_INFINITE else tensor[1] if own.endswith(_STATISTICS) else tensor[:0]
    if not bool((divisors > 0).all()):
        raise CheckpointError(f"{where}: {name} holds a deviation or length that is not above 0; {_REMEDY}")
    if not bool((tensor.abs() <= _GREATEST).all()):  # NaN compares as false
        raise CheckpointError(f"{where}: {name} holds numbers that are not finite, or above {_GREATEST:g}; {_REMEDY}")


def parsed(kind: type[Any], fields: Any, before: str, remedy: str) -> Any:
    """A dataclass from JSON, nothing converted, left out or added; what is wrong is said after ``before``."""
    try:
        found = TypeAdapter(kind).validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        shown = repr(first["input"])
        shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
        raise CheckpointError(f"{before}{where}: {first['msg']}, got {shown}; {remedy}") from error
    if where := _added(fields, json.loads(json.dumps(asdict(found)))):
        raise CheckpointError(f"{before}{where}; {remedy}")
    return found


def _added(given: Any, known: Any, place: str = "") -> str:
    """The first field that only one of both has, and which; empty where there is none."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name in (*given, *known):
            if (name in given) != (name in known):
                return f"{place}{name} is {'unknown' if name in given else 'missing'}"
        parts = [(name, given[name], known[name]) for name in given]
    elif isinstance(given, list) and isinstance(known, list):
        parts = [(str(i), *pair) for i, pair in enumerate(zip(given, known, strict=True))]
    else:
        return ""
    return next((found for name, *pair in parts if (found := _added(pair[0], pair[1], f"{place}{name}."))), "")
