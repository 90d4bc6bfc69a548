"""Shapes after views, slices and splits, for constants and traced values alike."""

from __future__ import annotations

import math

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode

Shape = tuple[int, ...]


def whole_numbers(x: Constant | None, what: str) -> tuple[int, ...]:
    """The values of a constant input; raises :class:`InvalidGraphError` if they are unknown or not integers."""
    if x is None or x.values is None or x.values.dtype.kind not in "iu" or len(x.shape) > 1:
        raise InvalidGraphError(f"its {what} must be known integers; fold constants when exporting")
    return tuple(int(n) for n in x.values.reshape(-1))


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front; raises :class:`InvalidGraphError` if it is out of range."""
    if not -rank <= axis < rank:
        raise InvalidGraphError(f"its axis is {axis}, but its input has {rank} dimensions")
    return axis % rank


def axes_of(node: OnnxNode, xs: list[Constant | None], default: Shape | None, position: int = 1) -> Shape | None:
    """The axes of an operator: an attribute or, in later opsets, an input."""
    if "axes" in node.attributes:
        return node.integers("axes")
    listed = given(xs, position)
    return default if listed is None else whole_numbers(listed, "axes")


def reshaped(shape: Shape, target: Shape, keep_zero: bool = False) -> Shape:
    """The result shape of Reshape: 0 copies a size (unless ``keep_zero``), -1 is inferred."""
    sizes = [shape[i] if n == 0 and not keep_zero and i < len(shape) else n for i, n in enumerate(target)]
    rest = math.prod(n for n in sizes if n != -1)
    total = math.prod(shape)
    if sizes.count(-1) == 1 and rest > 0 and total % rest == 0:
        sizes[sizes.index(-1)] = total // rest
    if min(sizes, default=1) < 0 or math.prod(sizes) != total:
        raise InvalidGraphError(f"its shape {list(target)} does not match its input {list(shape)}")
    return tuple(sizes)


def unsqueezed(shape: Shape, axes: Shape) -> Shape:
    """The shape with dimensions of 1 inserted at ``axes`` of the result."""
    rank = len(shape) + len(axes)
    places = {axis_of(axis, rank) for axis in axes}
    if len(places) != len(axes):
        raise InvalidGraphError(f"its axes {list(axes)} must differ")
    rest = iter(shape)
    return tuple(1 if i in places else next(rest) for i in range(rank))


def squeezed(shape: Shape, axes: Shape | None) -> Shape:
    """The shape without the dimensions ``axes``, or without all that are 1."""
    gone = {i for i, n in enumerate(shape) if n == 1} if axes is None else {axis_of(a, len(shape)) for a in axes}
    if any(shape[i] != 1 for i in gone):
        raise InvalidGraphError(f"its axes {sorted(gone)} of {list(shape)} must all have size 1")
    return tuple(n for i, n in enumerate(shape) if i not in gone)


def flattened(shape: Shape, axis: int) -> Shape:
    """Two dimensions: those before ``axis`` and the others."""
    if not -len(shape) <= axis <= len(shape):
        raise InvalidGraphError(f"its axis is {axis}, but its input has {len(shape)} dimensions")
    cut = axis + len(shape) if axis < 0 else axis
    return math.prod(shape[:cut]), math.prod(shape[cut:])


def permutation(node: OnnxNode, rank: int) -> Shape:
    """The axes of a Transpose."""
    order = node.integers("perm", tuple(range(rank))[::-1])
    if sorted(order) != list(range(rank)):
        raise InvalidGraphError(f"its perm {list(order)} is no permutation of {rank} dimensions")
    return order


def slices(node: OnnxNode, xs: list[Constant | None], shape: Shape) -> list[slice]:
    """The slice of each dimension that a Slice keeps, counted from the front."""
    starts, ends = (whole_numbers(given(xs, i), what) for i, what in ((1, "starts"), (2, "ends")))
    axes = axes_of(node, xs, tuple(range(len(starts))), 3) or ()
    steps = whole_numbers(given(xs, 4), "steps") if given(xs, 4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise InvalidGraphError(f"its starts, ends, axes, steps do not match: {starts}, {ends}, {axes}, {steps}")
    kept = [slice(0, n, 1) for n in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = axis_of(axis, len(shape))
        kept[place] = slice(*slice(start, end, step).indices(shape[place]))
    return kept


def parts(node: OnnxNode, xs: list[Constant | None], size: int) -> Shape:
    """The sizes of the parts of a Split."""
    sizes, count = given(xs, 1), node.integer("num_outputs", len(node.outputs))
    if "split" in node.attributes:
        cut = node.integers("split")
    elif sizes is not None:
        cut = whole_numbers(sizes, "split")
    elif 1 <= count <= size:
        part = -(-size // count)
        cut = (*[part] * (count - 1), size - part * (count - 1))
    else:
        raise InvalidGraphError(f"it cannot split a dimension of {size} into {count} parts")
    if sum(cut) != size or min(cut, default=0) < 0:
        raise InvalidGraphError(f"its parts {list(cut)[:20]} do not add up to {size}")
    return cut


def given(xs: list[Constant | None], i: int) -> Constant | None:
    """An input, None if it is left out."""
    return xs[i] if i < len(xs) else None


def need(xs: list[Constant | None], i: int = 0) -> Constant:
    """An input that must be given."""
    if i >= len(xs) or (x := xs[i]) is None:
        raise InvalidGraphError(f"its input {i} is missing")
    return x
