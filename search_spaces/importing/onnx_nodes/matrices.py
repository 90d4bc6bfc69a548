"""Handlers of ONNX matrix products and softmax, with the rules of :mod:`tracing.products`."""

from __future__ import annotations

import math
from dataclasses import replace
from math import prod

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.decimals import shortest
from gennape.search_spaces.importing.onnx_nodes.arithmetic import ARITHMETIC, times, two
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler, Input, Result
from gennape.search_spaces.importing.onnx_nodes.dimensions import axis_of, flattened
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.tracing import traced_value as tv
from gennape.search_spaces.importing.tracing.traced_value import (
    Groups,
    TracedValue,
    arrange,
    grouped,
    pixelwise,
    settle,
)

Shape = tuple[int, ...]


def _linear(call: Call, x: TracedValue, dim: int, c_out: int, bias: bool, keep: bool = True) -> TracedValue:
    """A learnt matrix times dimension ``dim``, which becomes the channels."""
    x = pixelwise(call.b, x, dim)
    made = call.b.linear(x.value, c_out, bias)
    channels = grouped(made, (c_out,), ((0,), (), ())).dims[0]
    dims = [channels if d == dim else atoms for d, atoms in enumerate(x.dims) if keep or d != dim]
    return TracedValue(made, tuple(dims))


def _gemm(call: Call) -> Result | list[Result]:
    """alpha · A · B + beta · C: a layer if B is learnt, with C as bias if it has one element per column."""
    (x, y), c = two(replace(call, xs=call.xs[:2])), call.xs[2] if len(call.xs) > 2 else None
    turned = bool(call.node.integer("transA", 0)), bool(call.node.integer("transB", 0))
    alpha, beta = call.node.real("alpha", 1.0), call.node.real("beta", 1.0)
    if any(len(operand.shape) != 2 for operand in (x, y) if operand is not None):
        raise InvalidGraphError("its operands must be matrices")
    bias = None if beta == 0 else c
    if not isinstance(x, TracedValue) or not isinstance(y, Constant) or y.fixed:
        product = contract(call, x, y, ("ZX" if turned[0] else "XZ", "YZ" if turned[1] else "ZY", "XY"))
        return _plus(call, times(call, product, alpha, product.shape), bias, beta)
    rows = tv.moved(x, (1, 0)) if turned[0] else x
    c_in, c_out = y.shape[::-1] if turned[1] else y.shape
    if c_in != rows.shape[1]:
        raise InvalidGraphError(f"its matrix {list(y.shape)} does not match {list(x.shape)}")
    by_column = isinstance(bias, Constant) and bias.shape in ((c_out,), (1, c_out))
    product = _linear(call, rows, 1, c_out, by_column and alpha != 0)
    if alpha == 0:
        product = times(call, product, 0.0, product.shape)
    return product if by_column and alpha != 0 else _plus(call, product, bias, beta)


def _plus(call: Call, product: TracedValue, bias: Input, beta: float) -> Result | list[Result]:
    """The product plus a bias, which may be learnt even if it is a scalar."""
    if bias is None:
        return product
    if isinstance(bias, Constant) and prod(bias.shape) == 1 and len(bias.shape) <= 2 and bias.params:
        x = settle(call.b, product)
        free = next((axis for axis, n in enumerate(x.value.shape) if n == 1), None)
        if free is not None:
            return TracedValue(call.b.shift(x.value, (free,)), x.dims)
    if isinstance(bias, TracedValue):
        bias = times(call, bias, beta, bias.shape)
    return ARITHMETIC["Add"](replace(call, xs=(product, bias)))


def _matmul(call: Call) -> TracedValue:
    x, y = two(call)
    if isinstance(x, TracedValue) and isinstance(y, Constant) and len(y.shape) in (1, 2) and not y.fixed:
        c_in, c_out = y.shape if len(y.shape) == 2 else (y.shape[0], 1)
        if not x.shape or x.shape[-1] != c_in:
            raise InvalidGraphError(f"its matrix {list(y.shape)} does not match {list(x.shape)}")
        return _linear(call, x, len(x.shape) - 1, c_out, call.constant(2) is not None, keep=len(y.shape) == 2)
    (x, y), scale = _unscaled(call, x, y)
    product = contract(call, x, y, _labels(x, y))
    return times(call, product, scale, product.shape)


def _unscaled(call: Call, x: Input, y: Input) -> tuple[tuple[Input, Input], float]:
    """The operands and the factor of their product: (s · x) (s · y) = s² (x y).

    Exporters write attention that way, which PyTorch scales once by 1 / sqrt(head width).
    """
    if isinstance(x, TracedValue) and isinstance(y, TracedValue):
        found = [call.scaled.get(operand.value.node) for operand in (x, y)]
        if found[0] and found[1] and found[0][1] == found[1][1] and 1e-3 < found[0][1] < 1:
            (before_x, s), (before_y, _) = found[0], found[1]
            width = round(s**-4)
            scale = width**-0.5 if math.isclose(width**-0.25, s, rel_tol=1e-6) else shortest(s * s)
            return (TracedValue(before_x, x.dims), TracedValue(before_y, y.dims)), scale
    return (x, y), 1.0


def _fused_linear(call: Call) -> TracedValue:
    """A pattern of :mod:`patterns`: a product with a matrix plus a vector."""
    x, matrix = call.traced(), call.weight(1)
    if not x.shape or x.shape[-1] != matrix.shape[0]:
        raise InvalidGraphError(f"its matrix {list(matrix.shape)} does not match {list(x.shape)}")
    return _linear(call, x, len(x.shape) - 1, matrix.shape[1], True)


def _labels(x: Input, y: Input) -> tuple[str, str, str]:
    """The einsum labels of a batched matrix product; batch dimensions are aligned from the last."""
    left, right = (len(operand.shape) if operand is not None else 0 for operand in (x, y))
    if left < 1 or right < 1:
        raise InvalidGraphError("its operands must be matrices or vectors")
    lead = "abcdefghijklmnopqrst"[: max(left, right, 2) - 2]
    of_x = "Z" if left == 1 else lead[len(lead) - (left - 2) :] + "XZ"
    of_y = "Z" if right == 1 else lead[len(lead) - (right - 2) :] + "ZY"
    return of_x, of_y, lead + "X" * (left > 1) + "Y" * (right > 1)


def _einsum(call: Call) -> TracedValue:
    equation = call.node.text("equation").replace(" ", "")
    inputs, arrow, of_out = equation.partition("->")
    labels = inputs.split(",")
    known = set("".join(labels)) >= set(of_out) and len(set(of_out)) == len(of_out)
    if not arrow or len(labels) != 2 or not "".join((*labels, of_out)).isalpha() or not known:
        raise InvalidGraphError(f"its equation {equation[:80]!r} must have letters for two operands and the result")
    return contract(call, *two(call), (labels[0], labels[1], of_out))


def contract(call: Call, x: Input, y: Input, labels: tuple[str, str, str]) -> TracedValue:
    """The einsum of ``x`` and ``y``: labels that the result lacks are summed over."""
    of_x, of_y, of_out = labels
    if x is None or y is None or (len(x.shape), len(y.shape)) != (len(of_x), len(of_y)):
        raise InvalidGraphError("its equation does not match the dimensions of its operands")
    pairs = [*zip(of_x, x.shape, strict=True), *zip(of_y, y.shape, strict=True)]
    size = dict.fromkeys(of_x + of_y, 1) | {label: n for label, n in pairs if n > 1}
    if any(n not in (1, size[label]) for label, n in pairs):
        raise InvalidGraphError(f"its operands {list(x.shape)} and {list(y.shape)} do not match")
    wide_x, wide_y = (
        {label for label, n in zip(of_t, t.shape, strict=True) if n > 1} for of_t, t in ((of_x, x), (of_y, y))
    )
    both, summed = wide_x & wide_y, (wide_x | wide_y) - set(of_out)
    batch = [label for label in of_out if label in both]
    free = [[label for label in of_out if label in wide - both] for wide in (wide_x, wide_y)]
    inner = [label for label in of_x if label in summed]
    shape = tuple(size[label] for label in of_out)
    plain = len(set(of_x)) == len(of_x) and len(set(of_y)) == len(of_y) and summed <= both
    if not plain or isinstance(x, Constant) or isinstance(y, Constant):
        return _priced(call, (x, y), labels, shape, (batch, *free, inner) if plain else None, prod(size.values()))
    left = arrange(call.b, x, _groups(of_x, batch, free[0], inner))
    straight, turned = _groups(of_y, batch, inner, free[1]), _groups(of_y, batch, free[1], inner)
    transposed = _cost(y, turned) < _cost(y, straight)
    right = arrange(call.b, y, turned if transposed else straight)
    made = call.b.matmul(left.value, right.value, transposed)
    return grouped(made, shape, _groups(of_out, batch, free[0], free[1]))


def _groups(labels: str, c: list[str], h: list[str], w: list[str]) -> Groups:
    first, second, third = (tuple(labels.index(label) for label in group) for group in (c, h, w))
    return (first, second, third)


def _cost(x: TracedValue, groups: Groups) -> int:
    found = tv.plan(x, groups)
    return 4 if found is None or x.repeats else found.cost


def _priced(
    call: Call,
    operands: tuple[TracedValue | Constant, TracedValue | Constant],
    labels: tuple[str, str, str],
    shape: Shape,
    roles: tuple[list[str], ...] | None,
    macs: int,
) -> TracedValue:
    """A product with a learnt matrix, as a layer; anything else as an operation with only its cost."""
    which = 0 if isinstance(operands[0], TracedValue) else 1
    x, weight = operands[which], operands[1 - which]
    if isinstance(x, Constant):
        raise InvalidGraphError("none of its operands depends on the image")
    if isinstance(weight, TracedValue) or roles is None or roles[0] or weight.fixed:
        traced = [t for t in operands if isinstance(t, TracedValue)]
        learnt = sum(t.params for t in operands if isinstance(t, Constant))
        return call.other("product", shape, *traced, macs=macs, params=learnt)
    kept, made, inner = roles[1 + which], roles[2 - which], roles[3]
    value = arrange(call.b, x, _groups(labels[which], inner, kept[:-1], kept[-1:]))
    node = call.b.linear(value.value, prod(weight.shape) // value.value.c, False)
    return grouped(node, shape, _groups(labels[2], made, kept[:-1], kept[-1:]))


def _softmax(call: Call) -> TracedValue:
    """Softmax along one dimension; before opset 13, along all from the given one on."""
    x, old = call.traced(), call.opset < 13
    dim = axis_of(call.node.integer("axis", 1 if old else -1), len(x.shape))
    rest = [d for d in range(dim, len(x.shape)) if x.dims[d]]
    if not old or len(rest) < 2:
        return softmax_along(call, x, rest[0] if old and rest else dim)
    flat = tv.reshaped(call.b, x, flattened(x.shape, dim))
    return tv.reshaped(call.b, softmax_along(call, flat, 1), x.shape)


def softmax_along(call: Call, x: TracedValue, dim: int) -> TracedValue:
    x = settle(call.b, x)
    axis = tv.axis_of(x, dim)
    if axis is None:
        every = tuple(range(len(x.dims)))
        x, axis = arrange(call.b, x, (every[:dim], (dim,), every[dim + 1 :])), 1
    return TracedValue(call.b.softmax(x.value, axis), x.dims)


MATRICES: dict[str, Handler] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Softmax": _softmax,
}
#: Fused operators of :mod:`patterns`.
FUSED_MATRICES: dict[str, Handler] = {"Linear": _fused_linear}
