"""Who makes and who takes each value of an ONNX network: what patterns are looked for in."""

from __future__ import annotations

import math

from gennape.search_spaces.importing.decimals import as_told
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode


def scalar(x: Constant | None) -> float | None:
    """The value of a constant of one number, else None."""
    if x is None or x.values is None or x.values.size != 1 or x.values.dtype.kind not in "biuf":
        return None
    value = float(x.values.reshape(-1)[0])
    return as_told(value) if x.values.dtype.kind == "f" and x.values.dtype.itemsize < 8 else value


#: Operators of which patterns look at more than one input.
_TWO = ("Add", "Div", "MatMul", "Mul", "Pow", "Reshape", "Sub")


def is_whole(node: OnnxNode | None) -> bool:
    """Whether an operator is one of ONNX's own with all the inputs that patterns look at."""
    return node is not None and not node.domain and len(node.inputs) >= (2 if node.op in _TWO else 1)


class OnnxLinks:
    """Who makes and who takes each value."""

    def __init__(self, nodes: list[OnnxNode], constants: dict[str, Constant], output: str) -> None:
        self._constants = constants
        self._maker = {name: node for node in nodes for name in node.outputs if name}
        self._takers: dict[str, list[OnnxNode]] = {output: []}
        self._output = output
        for node in nodes:
            for name in node.inputs:
                self._takers.setdefault(name, []).append(node)

    def constant(self, name: str) -> Constant | None:
        """A value that does not depend on the image."""
        return self._constants.get(name)

    def scalar(self, name: str) -> float | None:
        """A value that is one known number."""
        return scalar(self._constants.get(name))

    def takers(self, name: str) -> list[OnnxNode]:
        """Each operator that takes the value, once for each time; none for the result of the network."""
        return [] if name == self._output else self._takers.get(name, [])

    def next(self, node: OnnxNode) -> OnnxNode | None:
        """The one operator that takes the result of ``node``, and takes it once."""
        takers = self.takers(node.outputs[0]) if node.n_taken == 1 and node.outputs[0] else []
        return takers[0] if len(takers) == 1 and is_whole(takers[0]) else None

    def maker(self, name: str, *ops: str, only: bool = True) -> OnnxNode | None:
        """The operator that makes the value, if it is one of ``ops`` and, with ``only``, nothing else takes it."""
        node = self._maker.get(name)
        if node is None or not is_whole(node) or node.op not in ops or (only and self.next(node) is None):
            return None
        return node

    def with_scalar(self, node: OnnxNode) -> tuple[str, float] | None:
        """The computed input and the constant of a two-input operator."""
        if len(node.inputs) == 2:
            for x, c in (node.inputs, node.inputs[::-1]):
                value = self.scalar(c)
                if value is not None and (node.op in ("Add", "Mul") or c == node.inputs[1]):
                    return x, value
        return None


def close(value: float | None, expected: float) -> bool:
    """Whether exporters would write ``expected`` so: in half precision, or with six digits."""
    return value is not None and math.isclose(value, expected, rel_tol=1e-3)


def other(node: OnnxNode, name: str) -> str | None:
    """The second input of a two-input operator whose first is ``name``."""
    if len(node.inputs) != 2 or name not in node.inputs:
        return None
    return node.inputs[1] if node.inputs[0] == name else node.inputs[0]
