"""Handlers of matrix products."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from gennape.search_spaces.graphs import operations as ops
from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Handler, Number, called, table
from gennape.search_spaces.importing.tracing.tensors import Untraceable
from gennape.search_spaces.importing.tracing.traced_value import (
    Groups,
    TracedValue,
    arrange,
    grouped,
    pixelwise,
    plan,
)


def _linear(r: Recorder, out: Tensor, tensor: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    if r.is_traced(weight) or not r.is_traced(tensor) or r.is_traced(bias):
        raise Untraceable("its weights depend on the image; write it as a matrix product and a sum")
    c_out = weight.shape[0] if weight.dim() > 1 else 1
    _matrix(r, out, pixelwise(r.b, r.traced(tensor), tensor.dim() - 1), c_out, weight, bias)


def _matrix(r: Recorder, out: Tensor, x: TracedValue, c_out: int, weight: Tensor, bias: Tensor | None) -> None:
    """Bind ``out`` to a linear layer on the channels of every pixel of ``x``, its last dimension."""
    size = weight.numel() + (0 if bias is None else bias.numel())
    made = r.layer(ops.linear(x.value.shape, c_out, bias is not None), x.value, size, weight, bias)
    added = bias is not None and made is None  # the bias is only partly learnt
    if added:
        made = r.layer(ops.linear(x.value.shape, c_out, False), x.value, weight.numel(), weight)
    if made is None:
        r.other("fixed_linear", out, x, macs=prod(x.value.shape) * c_out, params=r.spend(weight, bias))
        return
    channels = grouped(made, (c_out,), ((0,), (), ())).dims[0]
    value = TracedValue(made, (*x.dims[:-1], channels)[: out.dim()])
    if added:
        shifted = r.b.shift(made, (0,), params=r.spend(bias))
        r.note(shifted, bias)
        r.bind(out, TracedValue(shifted, value.dims))
    else:
        r.bind(out, value)


def contract(r: Recorder, out: Tensor, x: Tensor, y: Tensor, labels: tuple[str, str, str]) -> None:
    """Bind ``out`` to the einsum of ``x`` and ``y``: labels that the output lacks are summed over."""
    of_x, of_y, of_out = labels
    sizes = dict(zip(of_x + of_y, (*x.shape, *y.shape), strict=True))
    wide_x = {label for label, n in zip(of_x, x.shape, strict=True) if n > 1}
    wide_y = {label for label, n in zip(of_y, y.shape, strict=True) if n > 1}
    sizes.update({label: n for label, n in zip(of_x, x.shape, strict=True) if n > 1})
    both, summed = wide_x & wide_y, (wide_x | wide_y) - set(of_out)
    macs = prod(sizes.values())
    batch = [label for label in of_out if label in both]
    free_x, free_y = ([label for label in of_out if label in wide - both] for wide in (wide_x, wide_y))
    inner = [label for label in of_x if label in summed]
    plain = len(set(of_x)) == len(of_x) and len(set(of_y)) == len(of_y) and summed <= both
    if not plain or not (r.is_traced(x) and r.is_traced(y)):
        _priced(r, out, (x, y), labels, (batch, free_x, free_y, inner), macs, plain)
        return
    value_x, value_y = r.traced(x), r.traced(y)
    left = arrange(r.b, value_x, _groups(of_x, batch, free_x, inner))
    straight, turned = _groups(of_y, batch, inner, free_y), _groups(of_y, batch, free_y, inner)
    transposed = _cost(value_y, turned) < _cost(value_y, straight)
    right = arrange(r.b, value_y, turned if transposed else straight)
    made = r.b.matmul(left.value, right.value, transposed)
    r.bind(out, grouped(made, tuple(out.shape), _groups(of_out, batch, free_x, free_y)))


def _groups(labels: str, c: list[str], h: list[str], w: list[str]) -> Groups:
    first, second, third = (tuple(labels.index(label) for label in group) for group in (c, h, w))
    return (first, second, third)


def _cost(x: TracedValue, groups: Groups) -> int:
    found = plan(x, groups)
    return 4 if found is None or x.repeats else found.cost


def _priced(
    r: Recorder,
    out: Tensor,
    operands: tuple[Tensor, Tensor],
    labels: tuple[str, str, str],
    roles: tuple[list[str], ...],
    macs: int,
    plain: bool,
) -> None:
    """Bind a product with a learnt matrix as a layer; anything else as an operation with only its cost."""
    batch, *free, inner = roles
    which = 0 if r.is_traced(operands[0]) else 1
    x, weight = operands[which], operands[1 - which]
    if r.is_traced(weight) or not plain or batch or r.learnt(weight) != weight.numel():
        traced = [r.traced(t) for t in operands if r.is_traced(t)]
        r.other("product", out, *traced, macs=macs, params=r.spend(*(t for t in operands if not r.is_traced(t))))
        return
    kept, made = free[which], free[1 - which]
    value = arrange(r.b, r.traced(x), _groups(labels[which], inner, kept[:-1], kept[-1:]))
    c_out = weight.numel() // value.value.c
    node = r.layer(ops.linear(value.value.shape, c_out, False), value.value, weight.numel(), weight)
    if node is not None:
        r.bind(out, grouped(node, tuple(out.shape), _groups(labels[2], made, kept[:-1], kept[-1:])))


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _matmul(r: Recorder, out: Tensor, tensor: Tensor, other: Tensor) -> None:
    """Batched matrix product; batch dimensions are aligned from the last, and vectors are allowed."""
    x, y = tensor, other
    if x.dim() < 1 or y.dim() < 1:
        raise Untraceable("its operands must be matrices or vectors")
    lead = _LETTERS[: max(x.dim(), y.dim()) - 2] if max(x.dim(), y.dim()) > 2 else ""
    of_x = "Z" if x.dim() == 1 else lead[len(lead) - (x.dim() - 2) :] + "XZ"
    of_y = "Z" if y.dim() == 1 else lead[len(lead) - (y.dim() - 2) :] + "ZY"
    of_out = lead + "X" * (x.dim() > 1) + "Y" * (y.dim() > 1)
    contract(r, out, x, y, (of_x, of_y, of_out))


def _rmatmul(r: Recorder, out: Tensor, tensor: Tensor, other: Tensor) -> None:
    _matmul(r, out, other, tensor)


def _addmm(
    r: Recorder, out: Tensor, tensor: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> None:
    if r.is_traced(mat2) or r.is_traced(tensor) or (beta, alpha) != (1, 1) or tensor.numel() != mat2.shape[1]:
        raise Untraceable("only a learnt bias and a learnt matrix make a layer; write it as a product and a sum")
    _matrix(r, out, pixelwise(r.b, r.traced(mat1), 1), mat2.shape[1], mat2, tensor)


def _einsum(r: Recorder, out: Tensor, equation: str, *operands: Any) -> None:
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    left, arrow, of_out = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if not arrow or len(parts) != 2 or len(operands) != 2 or "." in equation:
        raise Untraceable(f"{equation!r} is not supported; write two operands, without an ellipsis, and the result")
    contract(r, out, operands[0], operands[1], (parts[0], parts[1], of_out))


HANDLERS: dict[Any, Handler] = table(
    (called("linear"), _linear),
    (called("matmul", "mm", "bmm", "mv", "__matmul__"), _matmul),
    (called("__rmatmul__"), _rmatmul),
    (called("addmm"), _addmm),
    (called("einsum"), _einsum),
)
