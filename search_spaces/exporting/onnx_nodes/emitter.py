"""Collect the nodes and constants of an ONNX graph that is being written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gennape.search_spaces.graphs.plan import PlanStep

_PIXELS_LAST, _CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


class Emitter:
    """Collects the nodes and constants of an ONNX graph."""

    def __init__(
        self, dtype: np.dtype[Any], opset: int, state: dict[str, Any], first_names: dict[str, str] | None = None
    ) -> None:
        self.dtype = dtype
        self.opset = opset
        self.state = state
        self._first_names = first_names or {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def emit(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add one node; returns the name of its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any, dtype: Any = None) -> str:
        """Add a tensor, by default of the network's dtype, and return its name; equal names are the same tensor.

        A tensor that several layers share is written once, unless they need it in different shapes.
        """
        first = self._first_names.get(name, name)
        tensor = numpy_helper.from_array(np.asarray(values, dtype or self.dtype), name)
        written = self.constants.get(first)
        if written and (written.dims, written.raw_data) == (tensor.dims, tensor.raw_data):
            return first
        self.constants[name] = tensor
        return name

    def whole(self, name: str, values: Any) -> str:
        """Add an integer tensor: sizes, positions, axes."""
        return self.constant(name, values, np.int64)

    def weights(self, step: PlanStep, *parts: str) -> list[str]:
        """Add the given tensors of the step's layer, as far as it has them."""
        named = [(f"{step.name}.{part}", self.state.get(f"{step.name}.{part}")) for part in parts]
        return [self.constant(name, values) for name, values in named if values is not None]

    def filled(self, name: str, size: int, value: float) -> str:
        """Add a vector of ``size`` equal values that is not learnt."""
        value_tensor = numpy_helper.from_array(np.array([value], self.dtype))
        return self.emit("ConstantOfShape", [self.whole(f"size{size}", [size])], name, value=value_tensor)

    def fold(self, op: str, inputs: list[str], output: str) -> str:
        """Apply a binary operation to any number of inputs, from the left."""
        total = inputs[0]
        for i, value in enumerate(inputs[1:], 2):
            total = self.emit(op, [total, value], output if i == len(inputs) else f"{output}_part{i}")
        return total if len(inputs) > 1 else self.emit("Identity", inputs, output)

    def by_pixel(self, step: PlanStep, x: str, inner: Callable[[str, str], str]) -> str:
        """Apply an operation on the last axis to the channels."""
        moved = self.emit("Transpose", [x], f"{step.name}_pixels", perm=_PIXELS_LAST)
        return self.emit("Transpose", [inner(moved, f"{step.name}_inner")], step.name, perm=_CHANNELS_FIRST)
