"""The network of an ONNX model as validated plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto

from gennape.errors import InvalidDataError, InvalidGraphError, OpenShapeError
from gennape.search_spaces.graphs.order import topological_order
from gennape.search_spaces.importing.decimals import shortest
from gennape.search_spaces.importing.onnx_nodes.file import (
    MAX_DIM,
    MAX_NODES,
    MAX_RANK,
    Constant,
    constant,
    is_written_down,
    sparse_constant,
    unlearnt,
)

#: Supported opsets. After 23, the operators that are read here only gained dtypes.
OPSETS = range(11, 29)
_DOMAINS = ("", "ai.onnx")
_NAME_LENGTH = 80
#: Height and width of examples in messages.
_SIDE = 224


@dataclass(frozen=True, slots=True, eq=False)
class OnnxNode:
    """One operator; reading an attribute of the wrong type raises :class:`InvalidGraphError`."""

    op: str
    name: str
    inputs: tuple[str, ...]
    #: Names of the results, "" for unused ones.
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""

    def __str__(self) -> str:
        operator = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{self.name or next(filter(None, self.outputs), '?')!r} ({operator})"

    @property
    def n_taken(self) -> int:
        """How many results are needed: up to the last one that is used."""
        return max((i for i, name in enumerate(self.outputs, 1) if name), default=0)

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer attribute."""
        return self._typed(name, default, lambda value: isinstance(value, int), "an integer")

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return self._typed(name, default, lambda value: _all(value, int), "a list of integers")

    def real(self, name: str, default: float | None = None) -> float:
        """A finite float attribute."""
        return self._typed(name, default, lambda value: isinstance(value, float) and np.isfinite(value), "a number")

    def text(self, name: str, default: str | None = None) -> str:
        """A text attribute."""
        return self._typed(name, default, lambda value: isinstance(value, str), "text")

    def _typed(self, name: str, default: Any, fits: Callable[[Any], Any], what: str) -> Any:
        value = self.attributes.get(name, default)
        if value is None:
            raise InvalidGraphError(f"its attribute {name!r} is missing; it must be {what}")
        if name in self.attributes and not fits(value):
            raise InvalidGraphError(f"its attribute {name!r} must be {what}, got {str(value)[:_NAME_LENGTH]!r}")
        return value


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, kind) for part in value)


@dataclass(frozen=True, slots=True, eq=False)
class OnnxNetwork:
    """Operators in order of execution, with the constants and the input they use."""

    nodes: list[OnnxNode]
    #: Initializers by name.
    constants: dict[str, Constant]
    #: Name and shape of the one input.
    input: tuple[str, tuple[int, ...]]
    output: str
    opset: int
    #: The dtype of the input.
    type: int = 0


def network_of(model: onnx.ModelProto, shape: tuple[int, ...] | None = None) -> OnnxNetwork:
    """The network of ``model``, with ``shape`` in place of its declared input shape.

    Raises :class:`InvalidDataError` for an invalid model, and :class:`InvalidGraphError` for an unsupported opset,
    several inputs or outputs, or free dimensions.
    """
    try:
        graph, opset = model.graph, _opset(model)
        if len(graph.node) > MAX_NODES:
            raise InvalidDataError(f"the model has {len(graph.node)} nodes, more than the {MAX_NODES} allowed")
        constants = _constants(graph)
        _check_text(value.name for value in (*graph.input, *graph.output))
        inputs = [value for value in graph.input if value.name not in constants]
        nodes = in_order([_node(proto) for proto in graph.node])
        _check_names(nodes, constants, [value.name for value in inputs])
        entry = _one(inputs, "input")
        output = _one(graph.output, "output").name
        if output not in {entry.name, *constants, *(name for node in nodes for name in node.outputs)}:
            raise InvalidDataError(f"no node makes the output {output[:_NAME_LENGTH]!r}; export the model again")
        kind = entry.type.tensor_type.elem_type
        source = (entry.name, _input_shape(entry, shape))
    except (UnicodeDecodeError, DecodeError) as error:
        raise InvalidDataError(f"the model holds names that are not text ({error}); export it again") from error
    return OnnxNetwork(_without_unused(needed(nodes, output), output), constants, source, output, opset, kind)


def _constants(graph: onnx.GraphProto) -> dict[str, Constant]:
    """The initializers by name; literals of the program are not learnt."""
    dense, sparse = graph.initializer, graph.sparse_initializer
    names = [*(tensor.name for tensor in dense), *(tensor.values.name for tensor in sparse)]
    _check_text(names)
    where = [f"initializer {name[:_NAME_LENGTH]!r}" for name in names]
    read = [*map(constant, dense, where), *map(sparse_constant, sparse, where[len(dense) :])]
    constants = dict(zip(names, read, strict=True))
    if len(constants) != len(names):
        raise InvalidDataError("two initializers of the model have the same name; export the model again")
    return {
        name: replace(x, sources=unlearnt(x.sources)) if is_written_down(name) else x for name, x in constants.items()
    }


def in_order(nodes: list[OnnxNode]) -> list[OnnxNode]:
    """The nodes in topological order, otherwise as they were; nodes in a cycle come last.

    ONNX requires this order, but onnxruntime runs files without it, and its own converter writes them.
    """
    makers = {name: i for i, node in reversed(list(enumerate(nodes))) for name in node.outputs if name}
    order = topological_order([{makers[name] for name in node.inputs if name in makers} for node in nodes])
    return [nodes[i] for i in (*order, *sorted({*range(len(nodes))} - {*order}))]


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _DOMAINS]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise InvalidGraphError(
            f"the model has opset {versions or 'unknown'}, must be {OPSETS[0]}..{OPSETS[-1]}; export it again, or "
            "convert it with onnx.version_converter"
        )
    return versions[0]


def _one(values: Any, what: str) -> Any:
    if len(values) != 1:
        names = ", ".join(value.name[:_NAME_LENGTH] for value in values[:20])
        raise InvalidGraphError(
            f"the model has {len(values)} {what}s ({names or 'none'}), must have one; cut it with "
            "onnx.utils.extract_model"
        )
    return values[0]


def _with_batch(entry: onnx.ValueInfoProto, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The given shape, with a batch of one if it is left out: the input has one more dimension, or is an image."""
    kind = entry.type.tensor_type
    rank = len(kind.shape.dim) if entry.type.HasField("tensor_type") and kind.HasField("shape") else None
    left_out = len(shape) + 1 == rank or (rank is None and len(shape) == 3 and shape[0] != 1)
    if rank and not left_out and len(shape) != rank:
        example = tuple(
            d.dim_value if d.HasField("dim_value") else _SIDE if i else 1 for i, d in enumerate(kind.shape.dim)
        )
        raise OpenShapeError(
            f"input {entry.name!r} has {rank} dimensions, got the shape {list(shape)[:MAX_RANK]}; give all of them, "
            f"as in {_remedy(example[:MAX_RANK])}"
        )
    return (1, *shape) if left_out else shape


def _input_shape(entry: onnx.ValueInfoProto, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    given = shape is not None
    shape = _declared(entry) if shape is None else _with_batch(entry, shape)
    if not 1 <= len(shape) <= MAX_RANK or any(not isinstance(n, Integral) or not 1 <= n <= MAX_DIM for n in shape):
        wanted = f"1 to {MAX_RANK} sizes from 1 to {MAX_DIM}"
        raise InvalidGraphError(f"input {entry.name!r} has shape {list(shape)[:MAX_RANK]}; must be {wanted}")
    if len(shape) < 2 or shape[0] == 1:
        return shape
    if len(shape) != 3:
        raise OpenShapeError(f"input {entry.name!r} is a batch of {shape[0]}; give {_remedy((1, *shape[1:]))}")
    if not given:  # ambiguous: channels, height and width, or a batch of matrices
        raise OpenShapeError(
            f"input {entry.name!r} has shape {list(shape)}: for one image of {shape[0]} channels give "
            f"{_remedy(shape)}; for one item of a batch of {shape[0]} give {_remedy((1, *shape[1:]))}"
        )
    return shape


def _declared(entry: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape in the file; a free first dimension, the batch, is set to 1."""
    if not entry.type.HasField("tensor_type") or not entry.type.tensor_type.HasField("shape"):
        raise OpenShapeError(f"input {entry.name!r} has no shape; give it, as in {_remedy((1, 3, _SIDE, _SIDE))}")
    dims = entry.type.tensor_type.shape.dim
    free = {i: str(d.dim_param or "?") for i, d in enumerate(dims) if not d.HasField("dim_value")}
    named = ", ".join(f"{i} ({name[:_NAME_LENGTH]})" for i, name in free.items() if i)
    if named:
        sizes = tuple((_SIDE if i else 1) if i in free else d.dim_value for i, d in enumerate(dims))
        raise OpenShapeError(
            f"input {entry.name!r} has free dimensions: {named[:1000]}; give its shape, as in "
            f"{_remedy(sizes[:MAX_RANK])}"
        )
    return tuple(1 if i in free else d.dim_value for i, d in enumerate(dims))


def _remedy(shape: tuple[int, ...]) -> str:
    """The shape as an option of the command line and as an argument in Python."""
    return f"--shape {','.join(map(str, shape))} (in Python shape={shape})"


def _node(proto: onnx.NodeProto) -> OnnxNode:
    _check_text((proto.op_type, proto.domain, proto.name, *proto.input, *proto.output))
    _check_text(attribute.name for attribute in proto.attribute)
    where = f"node {(proto.name or ','.join(proto.output))[:_NAME_LENGTH]!r}"
    attributes = {a.name: _attribute(a, f"attribute {a.name!r} of {where}") for a in proto.attribute}
    domain = "" if proto.domain in _DOMAINS else proto.domain[:_NAME_LENGTH]
    names = tuple(proto.input), tuple(proto.output)
    return OnnxNode(proto.op_type[:_NAME_LENGTH], proto.name, *names, attributes, domain)


_ATTRIBUTES: dict[int, Callable[[AttributeProto, str], Any]] = {
    AttributeProto.FLOAT: lambda a, _: shortest(a.f),
    AttributeProto.INT: lambda a, _: a.i,
    AttributeProto.STRING: lambda a, _: a.s.decode(errors="replace"),
    AttributeProto.FLOATS: lambda a, _: tuple(map(shortest, a.floats)),
    AttributeProto.INTS: lambda a, _: tuple(a.ints),
    AttributeProto.TENSOR: lambda a, where: constant(a.t, where),
}


def _attribute(proto: AttributeProto, where: str) -> Any:
    """The value of an attribute; for unsupported types, the number of the type."""
    read = _ATTRIBUTES.get(proto.type)
    return read(proto, where) if read else {"attribute of type": proto.type}


def _check_text(names: Iterable[Any]) -> None:
    """Refuse names that are not text; protobuf returns them as bytes, or raises."""
    for name in names:
        if not isinstance(name, str):
            raise InvalidDataError(
                f"the model has the name {name[:_NAME_LENGTH]!r}, which is not text; export it again"
            )


def _check_names(nodes: list[OnnxNode], constants: dict[str, Constant], inputs: list[str]) -> None:
    """Refuse values that have two producers, none, or one in a cycle."""
    known = {"", *constants, *inputs}
    made = {name for node in nodes for name in node.outputs}
    for node in nodes:
        missing = next((name for name in node.inputs if name not in known), None)
        if missing is not None:
            why = "it depends on that node's result: the model has a cycle" if missing in made else "no node makes it"
            raise InvalidDataError(f"node {node} takes {missing[:_NAME_LENGTH]!r}, but {why}; export the model again")
        twice = next((name for name in node.outputs if name and name in known), None)
        if twice is not None:
            raise InvalidDataError(f"node {node} makes {twice[:_NAME_LENGTH]!r} a second time; export the model again")
        known.update(node.outputs)


def _without_unused(nodes: list[OnnxNode], output: str) -> list[OnnxNode]:
    """The nodes without the names of unused results: masks, indices of maxima, means."""
    taken = {output}.union(*(node.inputs for node in nodes))
    return [replace(node, outputs=tuple(name if name in taken else "" for name in node.outputs)) for node in nodes]


def needed(nodes: list[OnnxNode], output: str) -> list[OnnxNode]:
    """The nodes that ``output`` depends on."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(filter(None, node.inputs))
            kept.append(node)
    return kept[::-1]
