"""Replace onnxruntime's fused operators, which it writes when it optimises a file, by standard ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode
from gennape.search_spaces.importing.onnx_nodes.patterns import FUSED

_DOMAIN = "com.microsoft"
#: Activations that are fused into a layer, with the attributes for their parameters.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}


class _Parts:
    """The ONNX operators that replace one node, and the constants that they use."""

    def __init__(self, node: OnnxNode, known: dict[str, Constant]) -> None:
        self.node, self.nodes = node, list[OnnxNode]()
        self.constants: dict[str, Constant] = {}
        self._known = known

    def input(self, i: int) -> str:
        """Name of an input, "" if it is left out."""
        return self.node.inputs[i] if i < len(self.node.inputs) else ""

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator; returns the name of its result."""
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        name = f"{self.node.outputs[0]}, part {len(self.nodes)}"
        self.nodes.append(OnnxNode(op, self.node.name, inputs, (name,), attributes, domain))
        return name

    def number(self, value: float) -> str:
        """Add a scalar constant; returns its name."""
        name = f"{self.node.outputs[0]}, number {len(self.constants)}"
        self.constants[name] = Constant((), np.array(value, np.float32), type=TensorProto.FLOAT)
        return name

    def turned(self, x: str) -> str:
        """Transpose a matrix or a batch of them; returns the name."""
        held = self._known.get(x)
        if held is None:
            return self.add("Turned", x, domain=FUSED)
        rank = len(held.shape)
        return self.add("Transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2)) if rank > 1 else x

    def activated(self, x: str, parameters: Any) -> bool:
        """Add the activation that an attribute names; False if it is unknown."""
        name = self.node.text("activation", "")
        if not isinstance(parameters, tuple) or not all(isinstance(number, float) for number in parameters):
            return False
        if name == "Clip" and len(parameters) == 2:
            self.add("Clip", x, *map(self.number, parameters))
        elif name in _ACTIVATIONS and len(_ACTIVATIONS[name]) == len(parameters):
            self.add(name, x, **dict(zip(_ACTIVATIONS[name], parameters, strict=True)))
        else:
            return not name
        return True

    def rest(self, *gone: str) -> dict[str, Any]:
        """The attributes without those named."""
        return {name: value for name, value in self.node.attributes.items() if name not in gone}


def _conv(p: _Parts) -> bool:
    """A convolution, an optional sum with a map, an activation."""
    x = p.add("Conv", *(p.input(i) for i in range(3)), **p.rest("activation", "activation_params"))
    if p.input(3):
        x = p.add("Add", x, p.input(3))
    return p.activated(x, p.node.attributes.get("activation_params", ()))


def _gemm(p: _Parts) -> bool:
    named = [name for name in ("activation_alpha", "activation_beta", "activation_gamma") if name in p.node.attributes]
    x = p.add("Gemm", *(p.input(i) for i in range(3)), **p.rest("activation", *named))
    wanted = _ACTIVATIONS.get(p.node.text("activation", ""), ())
    return p.activated(x, tuple(p.node.real(name) for name in named[: len(wanted)]))


def _matmul(p: _Parts) -> bool:
    """A product of matrices, which may be transposed, times a scalar."""
    if any(p.node.integer(name, 0) for name in ("transBatchA", "transBatchB")):
        return False
    operands = [
        p.turned(p.input(i)) if p.node.integer(name, 0) else p.input(i) for i, name in enumerate(("transA", "transB"))
    ]
    x, factor = p.add("MatMul", *operands), p.node.real("alpha", 1.0)
    if factor != 1:
        p.add("Mul", x, p.number(factor))
    return True


def _gelu(approximate: str) -> Callable[[_Parts], bool]:
    def rule(p: _Parts) -> bool:
        x = p.add("Add", p.input(0), p.input(1)) if p.input(1) else p.input(0)
        p.add("Gelu", x, approximate=approximate)
        return True

    return rule


def _quick_gelu(p: _Parts) -> bool:
    factor = p.node.real("alpha", 1.702)
    inner = p.input(0) if factor == 1 else p.add("Mul", p.input(0), p.number(factor))
    p.add("Mul", p.input(0), p.add("Sigmoid", inner))
    return True


def _skip_norm(p: _Parts) -> bool:
    """The normalised sum of two maps and an optional bias; the fourth result is the sum itself."""
    x = p.add("Add", p.input(0), p.input(1))
    if p.input(4):
        x = p.add("Add", x, p.input(4))
    if len(p.node.outputs) > 3 and p.node.outputs[3]:
        p.nodes[-1] = replace(p.nodes[-1], outputs=(x := p.node.outputs[3],))
    epsilon = p.node.real("epsilon", 1e-5)
    p.add("LayerNormalization", x, p.input(2), p.input(3), axis=-1, epsilon=epsilon)
    return not any(p.node.outputs[1:3])


_RULES: dict[str, Callable[[_Parts], bool]] = {
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "Gelu": _gelu("none"),
    "BiasGelu": _gelu("none"),
    "FastGelu": _gelu("tanh"),
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_norm,
}


#: How many results may be used, for operators with more than one.
_MAX_RESULTS = {"SkipLayerNormalization": 4}


def as_onnx(nodes: list[OnnxNode], constants: dict[str, Constant]) -> list[OnnxNode]:
    """The nodes with known operators of onnxruntime replaced; new constants are added to ``constants``."""
    made: list[OnnxNode] = []
    for node in nodes:
        parts = _Parts(node, constants)
        known = (
            node.domain == _DOMAIN
            and node.op in _RULES
            and node.outputs[0]
            and node.n_taken <= _MAX_RESULTS.get(node.op, 1)
        )
        if known and _RULES[node.op](parts):
            parts.nodes[-1] = replace(parts.nodes[-1], outputs=node.outputs[:1])
            constants.update(parts.constants)
            made += parts.nodes
        else:
            made.append(node)
    return made
