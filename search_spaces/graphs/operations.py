"""Functions that make one node each: its attribute row and output shape. Cached, since nodes recur."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.graph import Column
from gennape.search_spaces.graphs.ops import Op

Shape = tuple[int, int, int]
Pair = int | tuple[int, int]

#: Variants of an operation, by the ``kind`` that its row holds.
PAD_MODES = ("constant", "reflect", "replicate", "circular")
RESIZE_MODES = ("nearest", "nearest-exact", "bilinear", "bilinear-aligned", "bicubic", "bicubic-aligned", "area")
_WINDOW = (0, 0, 1, 1, 0, 0, 1, 1)


class Value(NamedTuple):
    """The output of a node: its index and its channels, height and width."""

    node: int
    c: int
    h: int
    w: int

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        return self[1:]


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """Rows of a sub-network. Edge sources below 0 are its inputs: ``-1`` the first, ``-2`` the second, ..."""

    nodes: Int32[np.ndarray, "n a"]
    scalars: Float64[np.ndarray, " n"]
    edges: Int32[np.ndarray, "e 2"]
    output: Value  # node may be an input (below 0) when the fragment is the identity


@lru_cache(maxsize=65536)
def node(
    op: Op,
    shape: Shape,
    out: Shape,
    window: tuple[int, ...] = _WINDOW,
    groups: int = 1,
    flags: tuple[int, int, int] = (0, 0, 0),
    offset: Shape = (0, 0, 0),
    scalar: float = 0.0,
    inputs: int = 1,
    axis: int = 0,
    params: int = 0,
    kind: int = 0,
) -> Fragment:
    """One node; ``window`` is kernel, stride, padding, dilation (each h, w), ``flags`` bias, ceil mode, count pad.

    Raises :class:`InvalidGraphError` for a size that is not positive.
    """
    if min(out) < 1:
        raise InvalidGraphError(f"{op.name.lower()} of {shape} would make an empty output {out}")
    values = [[op, *shape, *out, *window, groups, *flags, *offset, axis, params, kind, 0]]
    if max(values[0]) > np.iinfo(np.int32).max:
        raise InvalidGraphError(f"{op.name.lower()} of {shape} has an attribute beyond 32 bits: {values[0]}")
    ports = 0 if op is Op.INPUT else inputs
    edges = np.array([[-1 - i, 0] for i in range(ports)], np.int32).reshape(ports, 2)
    return Fragment(np.array(values, np.int32), np.array([scalar]), edges, Value(0, *out))


def pair(value: Pair) -> tuple[int, int]:
    """Height and width from a size that may be one number for both."""
    return (value, value) if isinstance(value, int) else value


def window_count(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil_mode: bool = False) -> int:
    """The number of windows along an axis by PyTorch's rules; below 1 if none fits."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (-(-span // stride) if ceil_mode else span // stride) + 1
    # A window that would start in the right-hand padding is dropped (PyTorch's rule).
    return out - 1 if ceil_mode and (out - 1) * stride >= size + padding else out


@lru_cache(maxsize=65536)
def conv(
    shape: Shape, c_out: int, kernel: Pair, stride: Pair, padding: Pair | None, dilation: Pair, groups: int, bias: bool
) -> Fragment:
    """Convolution; depthwise if every channel is a group of its own."""
    k, s, d = pair(kernel), pair(stride), pair(dilation)
    p = (d[0] * (k[0] // 2), d[1] * (k[1] // 2)) if padding is None else pair(padding)
    c, h, w = shape
    if min(*k, *s, *d, groups, c_out) < 1 or min(p) < 0 or c % groups or c_out % groups:
        raise InvalidGraphError(
            f"a convolution has positive sizes, and groups that divide both channel counts; got {groups} groups for "
            f"{c} -> {c_out}, kernel {k}, stride {s}, padding {p}, dilation {d}"
        )
    out = (c_out, *(window_count(n, k[i], s[i], p[i], d[i]) for i, n in enumerate((h, w))))
    if min(out) < 1:
        raise InvalidGraphError(f"a {k[0]}x{k[1]} convolution with padding {p} does not fit an input of {h}x{w}")
    op = Op.DEPTHWISE if groups == c == c_out and groups > 1 else Op.CONV
    return node(op, shape, (c_out, out[1], out[2]), (*k, *s, *p, *d), groups, (int(bias), 0, 0))


@lru_cache(maxsize=65536)
def conv_transpose(
    shape: Shape,
    c_out: int,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
    bias: bool,
) -> Fragment:
    """Transposed convolution; ``output_padding`` is implied by the output size."""
    k, s, p, o, d = pair(kernel), pair(stride), pair(padding), pair(output_padding), pair(dilation)
    c = shape[0]
    if min(*k, *s, *d, groups, c_out) < 1 or min(*p, *o) < 0 or c % groups or c_out % groups:
        raise InvalidGraphError(
            f"a transposed convolution has positive sizes, and groups that divide both channel counts; got {groups} "
            f"groups for {c} -> {c_out}, kernel {k}, stride {s}, padding {p}, dilation {d}"
        )
    h, w = ((n - 1) * s[i] - 2 * p[i] + d[i] * (k[i] - 1) + o[i] + 1 for i, n in enumerate(shape[1:]))
    return node(Op.CONVTRANSPOSE, shape, (c_out, h, w), (*k, *s, *p, *d), groups, (int(bias), 0, 0))


@lru_cache(maxsize=65536)
def pool(op: Op, shape: Shape, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool, count_pad: bool) -> Fragment:
    """Maximum or average pool. Flags of rounding and padding are set only if they change the result."""
    k, s, p = pair(kernel), pair(stride), pair(padding)
    if min(*k, *s) < 1 or min(p) < 0 or 2 * p[0] > k[0] or 2 * p[1] > k[1]:
        raise InvalidGraphError(
            f"a pool has positive sizes and a padding of at most half of them; got kernel {k}, stride {s}, padding {p}"
        )
    down, up = (
        tuple(window_count(n, k[i], s[i], p[i], 1, ceil) for i, n in enumerate(shape[1:])) for ceil in (False, True)
    )
    out = (shape[0], *(up if ceil_mode else down))
    if min(out) < 1:
        raise InvalidGraphError(f"a {k[0]}x{k[1]} pool with padding {p} does not fit an input of {shape}")
    flags = (0, int(ceil_mode and up != down), int(count_pad and p != (0, 0)))
    return node(op, shape, (out[0], out[1], out[2]), (*k, *s, *p, 1, 1), flags=flags)


@lru_cache(maxsize=65536)
def linear(shape: Shape, c_out: int, bias: bool) -> Fragment:
    """The same matrix for every pixel."""
    return node(Op.LINEAR, shape, (c_out, *shape[1:]), flags=(int(bias), 0, 0))


@lru_cache(maxsize=65536)
def cut(shape: Shape, offset: Shape, size: Shape, step: tuple[int, int]) -> Fragment:
    """A slice: ``size`` from ``offset``; ``step`` along height and width."""
    span = (size[0], (size[1] - 1) * step[0] + 1, (size[2] - 1) * step[1] + 1)
    if min(step) < 1 or any(n < 1 or o < 0 or o + n > whole for n, o, whole in zip(span, offset, shape, strict=True)):
        raise InvalidGraphError(f"a slice of {size} at {offset} with step {step} leaves its input {shape}")
    return node(Op.SLICE, shape, size, (0, 0, *step, 0, 0, 1, 1), offset=offset)


#: Lines of a map that a padding mode cannot repeat: a reflection does not repeat the outermost one.
_NOT_REPEATED = {"reflect": 1, "circular": 0}


@lru_cache(maxsize=65536)
def pad(shape: Shape, before: Shape, after: Shape, mode: str, value: float) -> Fragment:
    """Rows and columns (channels too) added around a map."""
    if min(*before, *after) < 0 or mode not in PAD_MODES:
        raise InvalidGraphError(f"padding is not negative and of {PAD_MODES}; got {before}, {after}, {mode!r}")
    spare = _NOT_REPEATED.get(mode)
    if spare is not None and any(max(b, a) > n - spare for n, b, a in zip(shape, before, after, strict=True)):
        raise InvalidGraphError(f"{mode} padding {before}, {after} is wider than what it repeats of {shape}")
    c, h, w = (n + b + a for n, b, a in zip(shape, before, after, strict=True))
    return node(Op.PAD, shape, (c, h, w), offset=before, scalar=value, kind=PAD_MODES.index(mode))


@lru_cache(maxsize=65536)
def merge(op: Op, shapes: tuple[Shape, ...], axis: int = 0) -> Fragment:
    """Sum, product or concatenation; the first input has the shape of a sum or product."""
    out = list(shapes[0])
    if op is Op.CONCAT:
        out[axis] = sum(shape[axis] for shape in shapes)
    return node(op, shapes[0], (out[0], out[1], out[2]), inputs=len(shapes), axis=axis)


@lru_cache(maxsize=65536)
def matmul(shape: Shape, other: Shape, transposed: bool) -> Fragment:
    """[c, n, k] times [c, k, m], or times the transpose of [c, m, k] (``kind`` 1)."""
    k, m = (other[2], other[1]) if transposed else (other[1], other[2])
    if shape[0] != other[0] or shape[2] != k:
        raise InvalidGraphError(f"a product of {shape} and {other} (transposed: {transposed}) does not fit")
    return node(Op.MATMUL, shape, (shape[0], shape[1], m), inputs=2, kind=int(transposed and other[1:] != (1, 1)))


@lru_cache(maxsize=65536)
def learnt(op: Op, shape: Shape, axes: tuple[int, ...], value: float, params: int | None = None) -> Fragment:
    """Scale or shift by a tensor that spans ``axes`` (``kind``, a bit for each), or by a constant.

    ``params`` None: all numbers of the tensor are learnt. Without axes it is how many a single number is computed of
    (``kind`` 8 where no axis of size 1 can stand for it), or None for a constant.
    """
    if not set(axes) <= {0, 1, 2}:
        raise InvalidGraphError(f"axes are 0, 1 and 2 (channels, height, width), got {axes}")
    # Axes of size 1 are dropped, except one if needed to distinguish a learnt number from a constant.
    held = bool(axes) or params is not None
    spanned = [axis for axis in sorted(set(axes)) if shape[axis] > 1] or [
        axis for axis in range(3) if shape[axis] == 1
    ][:1]
    kind = (sum(1 << axis for axis in spanned) or 8) if held else 0
    if params is None:
        params = int(np.prod([shape[axis] for axis in spanned])) if axes else 0
    return node(op, shape, shape, scalar=value, params=params, kind=kind)


@lru_cache(maxsize=65536)
def extended(shape: Shape, axis: int, size: int, before: bool, params: int | None) -> Fragment:
    """A tensor of ``size`` before or after the map along ``axis``; ``params`` None: all its numbers are learnt."""
    if axis not in (0, 1, 2) or size < 1:
        raise InvalidGraphError(f"a map is extended by 1 or more along axis 0, 1 or 2, got {size} along {axis}")
    out = tuple(n + size * (i == axis) for i, n in enumerate(shape))
    offset = tuple(size * (before and i == axis) for i in range(3))
    held = size * int(np.prod(shape)) // shape[axis]
    return node(
        Op.EXTEND,
        shape,
        (out[0], out[1], out[2]),
        offset=(offset[0], offset[1], offset[2]),
        axis=axis,
        params=held if params is None else params,
    )


@lru_cache(maxsize=65536)
def permute(shape: Shape, axes: Shape) -> Fragment:
    """Axis ``i`` of the result is axis ``axes[i]`` of the input; ``kind`` holds ``axes`` as digits of base 3."""
    if sorted(axes) != [0, 1, 2]:
        raise InvalidGraphError(f"a permutation holds 0, 1 and 2 once each, got {axes}")
    out = (shape[axes[0]], shape[axes[1]], shape[axes[2]])
    return node(Op.PERMUTE, shape, out, kind=9 * axes[0] + 3 * axes[1] + axes[2])


@lru_cache(maxsize=65536)
def blocks(op: Op, shape: Shape, block: int) -> Fragment:
    """Pixels of square blocks become channels (space to depth) or the reverse, channels outermost as in PyTorch."""
    c, h, w = shape
    area = block * block
    if op is Op.SPACETODEPTH:
        fits, out = h % block == w % block == 0, (c * area, h // block, w // block)
    else:
        fits, out = c % area == 0, (c // area, h * block, w * block)
    if block < 1 or not fits:
        raise InvalidGraphError(f"blocks of {block}x{block} do not divide {shape}")
    return node(op, shape, out, (block, block, *_WINDOW[2:]))


#: Names of operations outside the vocabulary that this process has seen, by checksum; graphs store only checksums.
_MET: dict[int, str] = {}
_MAX_MET = 10_000


def other_kind(name: str) -> int:
    """The checksum of the name of an operation outside the vocabulary."""
    kind = zlib.crc32(name.encode()) & 0x7FFFFFFF
    if len(_MET) < _MAX_MET:
        _MET[kind] = name
    return kind


def unknown_name(row: tuple[int, ...]) -> str:
    """The original name of an operation that cannot be executed, if this process has seen it."""
    op = Op(row[Column.OP])
    return _MET.get(row[Column.KIND], "an unknown operation") if op is Op.OTHER else op.name.lower()


def learnt_shape(row: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the tensor that an operation holds: a learnt scale or shift one with 1 along the axes that it does not
    span, an extension what it adds to its map."""
    if row[Column.OP] == Op.EXTEND:
        return tuple(row[Column.C_OUT + i] - row[Column.C_IN + i] * (i == row[Column.AXIS]) for i in range(3))
    return tuple(row[Column.C_OUT + axis] if row[Column.KIND] >> axis & 1 else 1 for axis in range(3))


def permutation(row: tuple[int, ...]) -> tuple[int, int, int]:
    """The axes of a permutation, from the digits that its row holds."""
    kind = row[Column.KIND]
    return kind // 9, kind // 3 % 3, kind % 3
