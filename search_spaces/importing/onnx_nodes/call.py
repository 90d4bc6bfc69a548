"""One operator of an ONNX network with its inputs, as handlers receive it."""

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
    """An ONNX sequence of values: the parts of a split, which are then picked."""

    parts: tuple[TracedValue | Constant, ...]


Result = TracedValue | Constant | Sequence


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An operator, its inputs, and the builder of its nodes."""

    node: OnnxNode
    xs: tuple[Input, ...]
    b: GraphBuilder
    opset: int
    #: Names of used operations outside the vocabulary.
    others: set[str]
    #: For each node that is a value times a constant, the value and the constant.
    scaled: dict[int, tuple[Value, float]]
    #: The dtype of each value, as ONNX numbers them.
    types: dict[str, int]
    #: The first input, if it is a sequence; ``xs`` then has None for it.
    sequence: Sequence | None = None

    def __len__(self) -> int:
        """Number of given inputs."""
        return sum(x is not None for x in self.xs)

    def traced(self, i: int = 0) -> TracedValue:
        """An input that must depend on the image."""
        x = self._input(i)
        if not isinstance(x, TracedValue):
            raise InvalidGraphError(
                f"its input {i} is {'missing' if x is None else 'a constant'}, must depend on the image"
            )
        return x

    def constant(self, i: int) -> Constant | None:
        """An input that must not depend on the image; None if it is left out."""
        x = self._input(i)
        if isinstance(x, TracedValue):
            raise InvalidGraphError(f"its input {i} depends on the image, must be a constant")
        return x

    def weight(self, i: int) -> Constant:
        """A constant input that must be given."""
        x = self.constant(i)
        if x is None:
            raise InvalidGraphError(f"its input {i} is missing")
        return x

    @property
    def constants(self) -> list[Constant | None]:
        """All inputs, None in place of those that depend on the image."""
        return [None if isinstance(x, TracedValue) else x for x in self.xs]

    def _input(self, i: int) -> Input:
        return self.xs[i] if i < len(self.xs) else None

    def type(self, i: int = 0) -> int:
        """The dtype of an input; 0 if it is unknown."""
        return self.types.get(self.node.inputs[i], 0) if i < len(self.node.inputs) else 0

    def settled(self, i: int = 0) -> TracedValue:
        """A traced input, with its dimensions as the node's axes."""
        return settle(self.b, self.traced(i))

    def arranged(self, i: int, groups: Groups) -> TracedValue:
        """A traced input with ``groups`` of its dimensions as the node's axes."""
        return arrange(self.b, self.traced(i), groups)

    def map(self, operation: Callable[[Value], Value]) -> TracedValue:
        """The result of an elementwise operation."""
        x = self.settled()
        return TracedValue(operation(x.value), x.dims)

    def other(self, name: str, shape: tuple[int, ...], *xs: TracedValue, macs: int = 0, params: int = 0) -> TracedValue:
        """The result of an operation outside the vocabulary; with the first input's shape it keeps its axes."""
        if not xs:
            raise InvalidGraphError("none of its inputs depends on the image")
        self.others.add(name)
        settled = [settle(self.b, x) for x in xs]
        values, first = [x.value for x in settled], settled[0]
        if first.shape == shape:
            return TracedValue(self.b.other(name, first.value.shape, *values, macs=macs, params=params), first.dims)
        groups = default_groups(shape)
        return grouped(self.b.other(name, sizes(shape, groups), *values, macs=macs, params=params), shape, groups)


#: Adds the nodes of an operator; returns a result for each of its outputs.
Handler = Callable[[Call], Result | list[Result]]
