"""Handler of ONNX Resize: find the interpolation of a graph that samples every pixel at the same position.

All positions are compared in float32, as they are computed, so that similar interpolations are never confused. A Resize
that matches no interpolation of a graph becomes an "other" node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.builder import Value
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler
from gennape.search_spaces.importing.onnx_nodes.dimensions import axis_of, whole_numbers
from gennape.search_spaces.importing.onnx_nodes.number_types import RANGES
from gennape.search_spaces.importing.onnx_nodes.windows import image_of
from gennape.search_spaces.importing.tracing.traced_value import TracedValue, grouped, sizes

Places = Float32[np.ndarray, "_"]
#: Longest side whose positions are compared.
_MAX_SIDE = 2**16
_F = np.float32


@dataclass(frozen=True, slots=True)
class _ResizeAxis:
    """A side of the map before and after, and the operator's scale factor."""

    size: int
    out: int
    scale: float

    @property
    def kept(self) -> bool:
        """Whether this side does not change."""
        return self.size == self.out and self.scale == 1


def _steps(axis: _ResizeAxis) -> Places:
    return np.arange(axis.out, dtype=_F)


def _half(axis: _ResizeAxis) -> Places:
    return (_steps(axis) + _F(0.5)) / _F(axis.scale) - _F(0.5)


def _corners(axis: _ResizeAxis) -> Places | None:
    """First and last pixels are aligned; None if the size was rounded, where implementations differ."""
    if axis.out == 1:
        return np.zeros(1, _F)
    exact = axis.size * axis.scale == axis.out or axis.scale == _F(axis.out) / _F(axis.size)
    return _steps(axis) * _F(axis.size - 1) / _F(axis.out - 1) if exact else None


def _symmetric(axis: _ResizeAxis) -> Places:
    """Half pixels around the centre, which shifts if the size was rounded."""
    whole = _F(axis.scale) * _F(axis.size)
    moved = _F(axis.size) / _F(2) * (_F(1) - _F(axis.out) / whole)
    return _half(axis) + moved


#: Positions of the result's pixels in the map, by ONNX's name.
_PLACES: dict[str, Callable[[_ResizeAxis], Places | None]] = {
    "half_pixel": _half,
    "pytorch_half_pixel": lambda axis: _half(axis) if axis.out > 1 else np.zeros(1, _F),
    "half_pixel_symmetric": _symmetric,
    "tf_half_pixel_for_nn": lambda axis: (_steps(axis) + _F(0.5)) / _F(axis.scale),
    "align_corners": _corners,
    "asymmetric": lambda axis: _steps(axis) / _F(axis.scale),
}
#: Rounding of positions between two pixels.
_ROUNDED: dict[str, Callable[[Places], Places]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - _F(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + _F(0.5)),
}


def _ratio(axis: _ResizeAxis) -> Any:
    return _F(axis.size) / _F(axis.out)


#: The same for the interpolations of a graph, as PyTorch computes them.
_NEAREST: dict[str, Callable[[_ResizeAxis], Places]] = {
    "nearest": lambda axis: np.floor(_steps(axis) * _ratio(axis)),
    "nearest-exact": lambda axis: np.floor((_steps(axis) + _F(0.5)) * _ratio(axis)),
}
_SMOOTH: dict[str, Callable[[_ResizeAxis], Places]] = {
    "": lambda axis: (_steps(axis) + _F(0.5)) * _ratio(axis) - _F(0.5),
    "-aligned": lambda axis: _steps(axis) * (_F(axis.size - 1) / _F(max(axis.out - 1, 1))),
}


def _resize(call: Call) -> TracedValue:
    """The interpolation or slice with the operator's positions, else an "other" node."""
    x, groups = image_of(call, each=True)
    rank = len(x.shape)
    all_axes = _axes(call, x.shape)
    out = tuple(axis.out for axis in all_axes)
    if min(out) < 1 or not (all_axes[0].kept and all_axes[1].kept):
        raise InvalidGraphError(f"it resizes {list(x.shape)} to {list(out)}, must change only height and width")
    sides = (all_axes[2], all_axes[3] if rank == 4 else _ResizeAxis(1, 1, 1.0))
    if sides[0].kept and sides[1].kept:
        return x
    made = _found(call, x.value, sides) if max(max(a.size, a.out) for a in sides) <= _MAX_SIDE else None
    if made is None:
        call.others.add("interpolate")
        made = call.b.other("interpolate", sizes(out, groups), x.value)
    return grouped(made, out, groups)


def _found(call: Call, x: Value, sides: tuple[_ResizeAxis, _ResizeAxis]) -> Value | None:
    mode = call.node.text("mode", "nearest")
    placed = _PLACES.get(call.node.text("coordinate_transformation_mode", "half_pixel"))
    shrinks = any(axis.scale < 1 for axis in sides)
    places = [p for axis in sides if placed and (p := placed(axis)) is not None]
    if len(places) < 2 or (call.node.integer("antialias", 0) and shrinks):
        return None
    if mode == "nearest":
        return _nearest(call, x, sides, places)
    cubic = mode == "cubic"
    plain = math.isclose(call.node.real("cubic_coeff_a", -0.75), -0.75) and not call.node.integer("exclude_outside", 0)
    if call.type() in RANGES or mode not in ("linear", "cubic") or (cubic and not plain):
        return None
    return _smooth(call, x, sides, places, cubic)


def _nearest(call: Call, x: Value, sides: tuple[_ResizeAxis, _ResizeAxis], places: list[Places]) -> Value | None:
    """Nearest pixels; None for symmetric positions of a rounded size, which may round to either side of a half."""
    rounded = _ROUNDED.get(call.node.text("nearest_mode", "round_prefer_floor"))
    if rounded is None:
        return None
    symmetric = call.node.text("coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric"
    if symmetric and any(_F(axis.scale) * _F(axis.size) != axis.out for axis in sides):
        return None
    return _picked(call, x, sides, [_inside(rounded(p), axis) for p, axis in zip(places, sides, strict=True)])


def _inside(places: Places, axis: _ResizeAxis) -> Places:
    return np.clip(places, 0, axis.size - 1)


def _picked(call: Call, x: Value, sides: tuple[_ResizeAxis, _ResizeAxis], places: list[Places]) -> Value | None:
    """Pixels that are repeated or skipped, as nearest interpolation or as a slice."""
    for name, rule in _NEAREST.items():
        if all(np.array_equal(_inside(rule(axis), axis), p) for axis, p in zip(sides, places, strict=True)):
            return call.b.resize(x, sides[0].out, sides[1].out, name)
    steps = [set(np.diff(p).astype(int).tolist()) or {1} for p in places]
    if any(len(step) > 1 or min(step) < 1 for step in steps):
        return None
    row, column = int(places[0][0]), int(places[1][0])
    step = (steps[0].pop(), steps[1].pop())
    return call.b.slice(x, x.c, row, column, h=sides[0].out, w=sides[1].out, step=step)


def _smooth(
    call: Call, x: Value, sides: tuple[_ResizeAxis, _ResizeAxis], places: list[Places], cubic: bool
) -> Value | None:
    """Linear or cubic interpolation; a side that becomes one exact row or column is sliced first."""
    if not cubic:
        places = [_inside(p, axis) for p, axis in zip(places, sides, strict=True)]
    cut = [
        axis.out == 1 < axis.size and float(p[0]).is_integer() and p[0] >= 0
        for axis, p in zip(sides, places, strict=True)
    ]
    if any(cut):
        first = [int(p[0]) if c else 0 for p, c in zip(places, cut, strict=True)]
        left = [1 if c else axis.size for axis, c in zip(sides, cut, strict=True)]
        x = call.b.slice(x, x.c, first[0], first[1], h=left[0], w=left[1])
        sides = (_ResizeAxis(left[0], sides[0].out, sides[0].scale), _ResizeAxis(left[1], sides[1].out, sides[1].scale))
        places = [np.zeros(1, _F) if c else p for p, c in zip(places, cut, strict=True)]
    for name, rule in _SMOOTH.items():
        made = [rule(axis) if cubic else _inside(rule(axis), axis) for axis in sides]
        if all(np.allclose(a, b, rtol=1e-6, atol=1e-5) for a, b in zip(made, places, strict=True)):
            return call.b.resize(x, sides[0].out, sides[1].out, ("bicubic" if cubic else "bilinear") + name)
    return None


def _axes(call: Call, shape: tuple[int, ...]) -> list[_ResizeAxis]:
    """The size before and after, and the scale factor, of each dimension."""
    rank = len(shape)
    named = tuple(axis_of(axis, rank) for axis in call.node.integers("axes", tuple(range(rank))))
    scales, given = call.constant(2), call.constant(3)
    if given is not None:
        wanted = whole_numbers(given, "sizes")
    elif scales is not None and scales.values is not None and scales.values.dtype.kind == "f":
        wanted = tuple(scales.values.reshape(-1).tolist())
    else:
        raise InvalidGraphError("its scales or sizes must be known; fold constants when exporting")
    if len(wanted) != len(named) or any(not 0 < n < 2**31 for n in wanted):
        raise InvalidGraphError(f"its scales or sizes {list(wanted)[:20]} do not match {list(shape)}")
    if given is None:
        made = [(math.floor(_F(shape[axis]) * _F(n)), float(n)) for axis, n in zip(named, wanted, strict=True)]
    else:
        made = _sized(call, [shape[axis] for axis in named], wanted)
    axes = [_ResizeAxis(n, n, 1.0) for n in shape]
    for axis, (out, scale) in zip(named, made, strict=True):
        axes[axis] = _ResizeAxis(shape[axis], out, scale)
    return axes


def _sized(call: Call, before: list[int], wanted: tuple[Any, ...]) -> list[tuple[int, float]]:
    """Sizes and factors for given sizes; one factor for all if the aspect ratio is kept."""
    policy = call.node.text("keep_aspect_ratio_policy", "stretch")
    ratios = [float(_F(n) / _F(size)) for n, size in zip(wanted, before, strict=True)]
    if policy == "stretch":
        return [(int(n), ratio) for n, ratio in zip(wanted, ratios, strict=True)]
    if policy not in ("not_larger", "not_smaller"):
        raise InvalidGraphError(f"its keep_aspect_ratio_policy {policy[:20]!r} is unknown")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [(math.floor(scale * size + 0.5), scale) for size in before]


RESIZING: dict[str, Handler] = {"Resize": _resize}
