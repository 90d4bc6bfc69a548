"""An exported program as a module that runs its calls; only known functions are ever called."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverloadPacket

from gennape.errors import InvalidDataError, InvalidGraphError, OpenShapeError
from gennape.search_spaces.graphs.graph import MAX_NODES
from gennape.search_spaces.importing.pt2_nodes.archive import DTYPES, Archive
from gennape.search_spaces.importing.pt2_nodes.arguments import decoded, names_of
from gennape.search_spaces.importing.tracing.overloads import equivalent
from gennape.search_spaces.importing.tracing.tables import called

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
#: Arithmetic on sizes. Powers and shifts are left out: their results may be huge.
_SIZES: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
    },
    "_operator.getitem": operator.getitem,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_not": operator.not_,
}
#: Sizes of tensors.
_OF_SIZES: dict[str, Callable[..., Any]] = {"sym_size": lambda x, dim: x.shape[dim], "sym_numel": lambda x: x.numel()}
#: Pure functions that take no tensor, or only constants.
_CONSTANTS = (
    *("arange", "linspace", "zeros", "ones", "full", "empty", "eye", "scalar_tensor", "tril", "triu", "outer"),
    *("meshgrid", "cumsum", "logical_xor", "isin", "bitwise_and", "bitwise_or", "bucketize", "one_hot", "embedding"),
)
#: Checks of inputs; a trace makes its own.
_CHECKS = ("_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size")
_LARGEST = 2**63
#: Most elements of one tensor.
_MAX_NUMBERS = 2**48


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    function: Callable[..., Any]
    arguments: list[dict[str, Any]]
    outputs: list[str | list[str | None] | None]


class Program(nn.Module):
    """An archive's program without weights: parameters and buffers have shapes, and values only if they are scalar.

    Args:
        archive: The contents of the file.
        known: The functions that may be called.
    """

    def __init__(self, archive: Archive, known: Container[Any]) -> None:
        super().__init__()
        try:
            module = archive.program["graph_module"]
            graph, signature = module["graph"], module["signature"]
            self._shapes = dict(graph["tensor_values"])
            self._calls = _calls(graph["nodes"], known)
            self._inputs = _user_inputs(signature["input_specs"])
            self._results = _user_outputs(signature["output_specs"])
            self._held = dict(_held(signature["input_specs"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidDataError(
                f"the program lacks what torch.export writes ({type(error).__name__}: {error}); save it again"
            ) from error
        self._register(archive, {name for name, (kind, _) in self._held.items() if kind == "parameter"})

    def _register(self, archive: Archive, parameters: set[str]) -> None:
        made: dict[Any, Tensor] = {}
        for name, (_, tensor) in self._held.items():
            key = archive.places.get(tensor, tensor)
            if key not in made:
                empty = torch.empty(self._sizes(name), dtype=self._dtype(name), device="meta")
                held = archive.numbers.get(tensor, empty) if name not in parameters else empty
                made[key] = nn.Parameter(empty, requires_grad=False) if name in parameters else held
            self.__dict__["_parameters" if name in parameters else "_buffers"][tensor] = made[key]

    def _meta(self, name: str) -> Mapping[str, Any]:
        found = self._shapes.get(name)
        if not isinstance(found, dict) or not isinstance(found.get("sizes"), list):
            raise InvalidDataError(f"the program lacks the shape of {name!r}; save it again")
        return found

    def _dtype(self, name: str) -> torch.dtype:
        dtype = DTYPES.get(self._meta(name).get("dtype", 0))
        if dtype is None:
            raise InvalidDataError(f"{name!r} has an unknown dtype; convert it to float32")
        return dtype

    def _sizes(self, name: str) -> list[int]:
        sizes = _whole(self._meta(name)["sizes"])
        if not all(type(size) is int and size >= 0 for size in sizes) or math.prod(sizes) > _MAX_NUMBERS:
            raise InvalidDataError(f"{name!r} has no fixed shape, or one that is too large: {str(sizes)[:200]}")
        return sizes

    def example(self, shape: tuple[int, ...] | None) -> Tensor:
        """An input image on the meta device; ``shape`` sets the program's free dimensions."""
        if len(self._inputs) != 1:
            raise InvalidGraphError(
                f"the program has {len(self._inputs)} inputs ({', '.join(self._inputs[:8])}), must have one image"
            )
        (name,) = self._inputs
        declared = _whole(self._meta(name)["sizes"])
        if len(declared) != 4:
            raise InvalidGraphError(f"the program's input has {len(declared)} dimensions, must be an image with 4")
        if declared[0] not in (None, 1):
            raise InvalidGraphError(
                f"the program takes a batch of {declared[0]} images; export it with batch size one, or a dynamic one"
            )
        sizes = self._image_sizes(name, [1, *declared[1:]], shape)
        return torch.empty(sizes, dtype=self._dtype(name), device="meta")

    @staticmethod
    def _image_sizes(name: str, declared: list[int | None], shape: tuple[int, ...] | None) -> list[int]:
        if shape is not None:
            shape = (1, *shape) if len(shape) == 3 else shape
            fits = len(shape) == 4 and all(d in (None, s) for d, s in zip(declared, shape, strict=True))
            if not fits or not all(isinstance(s, Integral) and 0 < s < 2**31 for s in shape):
                wanted = ", ".join("any" if d is None else str(d) for d in declared)
                raise InvalidDataError(f"input {name!r} takes ({wanted}), got shape={shape}")
            declared = list(shape)
        sizes = [size for size in declared if size is not None]
        if len(sizes) < 4:
            example = tuple(224 if size is None else size for size in declared)
            raise OpenShapeError(
                f"input {name!r} has free dimensions; give its shape, as in --shape {','.join(map(str, example))} "
                f"(in Python shape={example})"
            )
        return sizes

    def forward(self, x: Tensor) -> Any:
        """Run all calls."""
        values: dict[str, Any] = {self._inputs[0]: x}
        for name, (kind, tensor) in self._held.items():
            values[name] = (self._parameters if kind == "parameter" else self._buffers)[tensor]
        for call in self._calls:
            args, kwargs = [], {}
            for argument in call.arguments:
                value = decoded(argument["arg"], values)
                if argument.get("kind", 1) == 1:
                    args.append(value)
                elif argument["name"] not in ("device", "layout", "pin_memory"):
                    kwargs[argument["name"]] = value
            self._bind(values, call, call.function(*args, **kwargs))
        results = [decoded(argument, values) for argument in self._results]
        return results[0] if len(results) == 1 else tuple(results)

    @staticmethod
    def _bind(values: dict[str, Any], call: _Call, result: Any) -> None:
        if isinstance(result, int) and abs(result) >= _LARGEST:
            raise InvalidDataError(f"{call.name!r} makes a size of more than 63 bits")
        results = [result] if len(call.outputs) == 1 else list(result)
        for names, value in zip(call.outputs, results, strict=False):
            if isinstance(names, list):
                values.update((n, v) for n, v in zip(names, value, strict=False) if n is not None)
            elif names is not None:
                values[names] = value


def _whole(sizes: list[Any]) -> list[Any]:
    """Fixed sizes as they are, None for free ones."""
    return [size.get("as_int") if isinstance(size, dict) else None for size in sizes]


def _calls(nodes: list[dict[str, Any]], known: Container[Any]) -> list[_Call]:
    if len(nodes) > MAX_NODES:
        raise InvalidGraphError(f"the program makes {len(nodes)} calls, more than {MAX_NODES}; divide the network")
    calls, problems = [], []
    for node in nodes:
        target = str(node["target"])
        if any(target.startswith(f"torch.ops.aten.{name}.") for name in _CHECKS):
            continue
        function = _function(target, known)
        if function is None:
            problems.append(f"  {str(node.get('name') or target)[:200]}: {target[:200]}: no operation is known for it")
            continue
        calls.append(_Call(target, function, list(node["inputs"]), [names_of(output) for output in node["outputs"]]))
    if problems:
        listed = "\n".join(dict.fromkeys(problems[:200]))
        raise InvalidGraphError(
            f"{len(problems)} parts of the program cannot be expressed as a graph:\n{listed}\n"
            "Write them with other functions"
        )
    return calls


def _function(target: str, known: Container[Any]) -> Callable[..., Any] | None:
    """The function of a name; None for any but known pure functions."""
    found = _ATEN.fullmatch(target)
    if found is None:
        return _SIZES.get(target)
    name, overload = found.groups()
    if name in _CONSTANTS:
        return next(iter(called(name)), None)
    packet = getattr(torch.ops.aten, name, None)
    if name in _OF_SIZES or not isinstance(packet, OpOverloadPacket) or overload not in packet.overloads():
        return _OF_SIZES.get(name)
    return equivalent(getattr(packet, overload), known)


def _user_inputs(specs: list[dict[str, Any]]) -> list[str]:
    found = []
    for spec in specs:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            found.append(str(content["arg"]["as_tensor"]["name"]))
    return found


def _held(specs: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Name in the program, and (kind, name in the module), of each parameter, buffer and constant."""
    for spec in specs:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            continue
        if kind not in ("parameter", "buffer", "tensor_constant"):
            raise InvalidGraphError(f"the program takes {kind}, which a graph cannot express")
        yield str(content["arg"]["name"]), (kind, str(content[f"{kind}_name"]))


def _user_outputs(specs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for spec in specs:
        ((kind, content),) = spec.items()
        if kind == "user_output":
            found.append(content["arg"])
    return found
