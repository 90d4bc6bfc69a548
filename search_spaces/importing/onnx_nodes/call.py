"""One operator of an ONNX network at the moment when its nodes are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode
from gennape.search_spaces.importing.tracing.traced_value import (
    Groups,
    TracedValue,
    arrange,
    default_groups,
    grouped,
    settle,
    sizes,
)

Input = TracedValue | Constant | None


@dataclass(frozen=True, slots=True)
class Sequence:
    """Several values in one, as ONNX has them for a split whose parts are then picked."""

    parts: tuple[TracedValue | Constant, ...]


Result = TracedValue | Constant | Sequence


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An operator, what it takes, and where its nodes go."""

    node: OnnxNode
    xs: tuple[Input, ...]
    b: GraphBuilder
    opset: int
    #: Names of the operations outside the vocabulary that have been used.
    others: set[str]
    #: For each node that is a value times a constant, the value and the constant.
    scaled: dict[int, tuple[Value, float]]
    #: The number type of each value, as ONNX counts them.
    types: dict[str, int]
    #: The first input, where it is a sequence; it then is none of ``xs``.
    sequence: Sequence | None = None

    def __len__(self) -> int:
        """Number of inputs that are given."""
        return sum(x is not None for x in self.xs)

    def traced(self, i: int = 0) -> TracedValue:
        """An input that must be computed of the image."""
        x = self._input(i)
        if not isinstance(x, TracedValue):
            raise InvalidGraphError(f"its input {i} is {'missing' if x is None else 'a constant'}, must be computed")
        return x

    def constant(self, i: int) -> Constant | None:
        """An input that must not be computed of the image; None where it is left out."""
        x = self._input(i)
        if isinstance(x, TracedValue):
            raise InvalidGraphError(f"its input {i} is computed of the image, must be a constant")
        return x

    def weight(self, i: int) -> Constant:
        """A constant input that must be given."""
        x = self.constant(i)
        if x is None:
            raise InvalidGraphError(f"its input {i} is missing")
        return x

    @property
    def constants(self) -> list[Constant | None]:
        """All inputs, None in place of those that are computed."""
        return [None if isinstance(x, TracedValue) else x for x in self.xs]

    def _input(self, i: int) -> Input:
        return self.xs[i] if i < len(self.xs) else None

    def type(self, i: int = 0) -> int:
        """The number type of an input; 0 where it is not known."""
        return self.types.get(self.node.inputs[i], 0) if i < len(self.node.inputs) else 0

    def settled(self, i: int = 0) -> TracedValue:
        """A computed input, its dimensions being the node's axes."""
        return settle(self.b, self.traced(i))

    def arranged(self, i: int, groups: Groups) -> TracedValue:
        """A computed input with ``groups`` of its dimensions as the node's axes."""
        return arrange(self.b, self.traced(i), groups)

    def map(self, operation: Callable[[Value], Value]) -> TracedValue:
        """The result of an operation on every number alone."""
        x = self.settled()
        return TracedValue(operation(x.value), x.dims)

    def other(self, name: str, shape: tuple[int, ...], *xs: TracedValue, macs: int = 0, params: int = 0) -> TracedValue:
        """The result of an operation outside the vocabulary; one of the first input's shape keeps its axes."""
        if not xs:
            raise InvalidGraphError("none of its inputs is computed of the image")
        self.others.add(name)
        settled = [settle(self.b, x) for x in xs]
        values, first = [x.value for x in settled], settled[0]
        if first.shape == shape:
            return TracedValue(self.b.other(name, first.value.shape, *values, macs=macs, params=params), first.dims)
        groups = default_groups(shape)
        return grouped(self.b.other(name, sizes(shape, groups), *values, macs=macs, params=params), shape, groups)


#: Makes the nodes of an operator: one result for each of its outputs.
Handler = Callable[[Call], Result | list[Result]]
