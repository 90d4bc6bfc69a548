"""Producers and consumers of each value of an ONNX network, in which patterns are searched."""

from __future__ import annotations

import math

from gennape.search_spaces.importing.decimals import as_told
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode


def scalar(x: Constant | None) -> float | None:
    """The value of a scalar constant, else None."""
    if x is None or x.values is None or x.values.size != 1 or x.values.dtype.kind not in "biuf":
        return None
    value = float(x.values.reshape(-1)[0])
    return as_told(value) if x.values.dtype.kind == "f" and x.values.dtype.itemsize < 8 else value


#: Operators whose second input patterns read.
_TWO = ("Add", "Div", "MatMul", "Mul", "Pow", "Reshape", "Sub")


def is_whole(node: OnnxNode | None) -> bool:
    """Whether a node is a standard ONNX operator with all inputs that patterns read."""
    return node is not None and not node.domain and len(node.inputs) >= (2 if node.op in _TWO else 1)


class OnnxLinks:
    """Producers and consumers of each value."""

    def __init__(self, nodes: list[OnnxNode], constants: dict[str, Constant], output: str) -> None:
        self._constants = constants
        self._maker = {name: node for node in nodes for name in node.outputs if name}
        self._takers: dict[str, list[OnnxNode]] = {output: []}
        self._output = output
        for node in nodes:
            for name in node.inputs:
                self._takers.setdefault(name, []).append(node)

    def constant(self, name: str) -> Constant | None:
        """The constant of this name, else None."""
        return self._constants.get(name)

    def scalar(self, name: str) -> float | None:
        """The value of the scalar constant of this name, else None."""
        return scalar(self._constants.get(name))

    def takers(self, name: str) -> list[OnnxNode]:
        """Consumers of a value, once per use; empty for the network's output."""
        return [] if name == self._output else self._takers.get(name, [])

    def next(self, node: OnnxNode) -> OnnxNode | None:
        """The only consumer of the result of ``node``, if it is used once."""
        takers = self.takers(node.outputs[0]) if node.n_taken == 1 and node.outputs[0] else []
        return takers[0] if len(takers) == 1 and is_whole(takers[0]) else None

    def maker(self, name: str, *ops: str, only: bool = True) -> OnnxNode | None:
        """The producer of a value, if it is one of ``ops`` and, with ``only``, its result is used once."""
        node = self._maker.get(name)
        if node is None or not is_whole(node) or node.op not in ops or (only and self.next(node) is None):
            return None
        return node

    def with_scalar(self, node: OnnxNode) -> tuple[str, float] | None:
        """The other input and the scalar of a binary operator with a scalar constant."""
        if len(node.inputs) == 2:
            for x, c in (node.inputs, node.inputs[::-1]):
                value = self.scalar(c)
                if value is not None and (node.op in ("Add", "Mul") or c == node.inputs[1]):
                    return x, value
        return None


def close(value: float | None, expected: float) -> bool:
    """Whether ``value`` is ``expected`` up to the rounding of exporters (half precision or six digits)."""
    return value is not None and math.isclose(value, expected, rel_tol=1e-3)


def other(node: OnnxNode, name: str) -> str | None:
    """The other input of a binary operator that has the input ``name``."""
    if len(node.inputs) != 2 or name not in node.inputs:
        return None
    return node.inputs[1] if node.inputs[0] == name else node.inputs[0]
