"""Constant folding of operators on weights; often only the shapes of results are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx_nodes.dimensions import Shape, axis_of, need, parts
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode

#: Most products that are summed for the values of a constant.
_MAX_PRODUCTS = 2**20
#: The shape of a result, and a function for its values, called if all inputs are known.
Computed = tuple[Shape, Callable[[], Any]]


def _gather_nd(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    """Elements or slices selected by index tuples."""
    x, index = need(xs), need(xs, 1)
    depth = index.shape[-1] if index.shape else 0
    if node.integer("batch_dims", 0) or not 1 <= depth <= len(x.shape):
        raise InvalidGraphError(f"its indices {list(index.shape)} into {list(x.shape)} are not supported")
    shape = (*index.shape[:-1], *x.shape[depth:])
    return shape, lambda: x.numbers[tuple(np.moveaxis(index.numbers, -1, 0))]


def _split(node: OnnxNode, xs: list[Constant | None]) -> list[Computed]:
    x = need(xs)
    axis = axis_of(node.integer("axis", 0), len(x.shape))
    sizes = parts(node, xs, x.shape[axis])

    def part(start: int, size: int) -> Any:
        return x.numbers[(*[slice(None)] * axis, slice(start, start + size))]

    starts = np.cumsum((0, *sizes))[:-1].tolist()
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    return [(shape, partial(part, *cut)) for shape, *cut in zip(shapes, starts, sizes, strict=True)]


def _standardised(node: OnnxNode, xs: list[Constant | None]) -> list[Computed]:
    """Weight standardisation, which exporters write as a batch normalisation of the weight in training mode."""
    x, channels = need(xs), need(xs, 1)
    if node.n_taken > 1 and not node.integer("training_mode", 0):
        raise InvalidGraphError("it returns a mean and a variance, but is not in training mode")
    return [(x.shape, lambda: None), (channels.shape, lambda: None), (channels.shape, lambda: None)]


def _matmul(_node: OnnxNode, xs: list[Constant | None]) -> Computed:
    """A product of weights, with values if they are few."""
    x, y = need(xs), need(xs, 1)
    if len(x.shape) < 2 or len(y.shape) < 2 or x.shape[-1] != y.shape[-2]:
        raise InvalidGraphError(f"its operands {list(x.shape)} and {list(y.shape)} do not match")
    shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
    few = math.prod(shape) * x.shape[-1] <= _MAX_PRODUCTS
    return shape, lambda: np.matmul(x.numbers, y.numbers) if few else None


def _conv(node: OnnxNode, xs: list[Constant | None]) -> Computed:
    """A pointwise convolution of a positional embedding: only its shape."""
    x, weight = need(xs), need(xs, 1)
    pads, strides = set(node.integers("pads", (0,))), set(node.integers("strides", (1,)))
    if len(weight.shape) != len(x.shape) or set(weight.shape[2:]) != {1} or pads != {0} or strides != {1}:
        raise InvalidGraphError("it convolves a constant, which must be pointwise; fold constants when exporting")
    return (x.shape[0], weight.shape[0], *x.shape[2:]), lambda: None


WEIGHTS: dict[str, Callable[[OnnxNode, list[Constant | None]], Computed | list[Computed]]] = {
    "Split": _split,
    "MatMul": _matmul,
    "BatchNormalization": _standardised,
    "Conv": _conv,
    "GatherND": _gather_nd,
}
