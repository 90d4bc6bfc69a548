"""The ONNX operators of operations that move, cut or interpolate pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from gennape.search_spaces.exporting.onnx_nodes.emitter import Emitter
from gennape.search_spaces.graphs.graph import Column
from gennape.search_spaces.graphs.operations import PAD_MODES, RESIZE_MODES
from gennape.search_spaces.graphs.plan import PlanStep


def cut(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    """A window of channels and pixels."""
    row = step.row
    starts, steps = row[Column.OFFSET_C : Column.OFFSET_W + 1], (1, *step.pair(Column.STRIDE_H))
    sizes = row[Column.C_OUT : Column.W_OUT + 1]
    ends = [start + (size - 1) * jump + 1 for start, size, jump in zip(starts, sizes, steps, strict=True)]
    bounds = [e.whole(f"{step.name}_{key}", values) for key, values in (("starts", starts), ("ends", ends))]
    jumps = [e.whole(f"{step.name}_steps", steps)] if max(steps) > 1 else []
    return e.emit("Slice", [*xs, *bounds, e.whole("map_axes", [1, 2, 3]), *jumps], step.name)


def pad(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    """Padding of channels, rows and columns."""
    row, mode = step.row, PAD_MODES[step.row[Column.KIND]]
    before = row[Column.OFFSET_C : Column.OFFSET_W + 1]
    after = [row[Column.C_OUT + i] - row[Column.C_IN + i] - before[i] for i in range(3)]
    pads = e.whole(f"{step.name}_pads", [0, *before, 0, *after])
    if mode == "constant":
        return e.emit("Pad", [*xs, pads, e.constant(f"{step.name}_value", step.scalar)], step.name)
    if mode == "circular":
        return _wrapped(e, step, xs[0], before, after)
    return e.emit("Pad", [*xs, pads], step.name, mode="edge" if mode == "replicate" else mode)


def _wrapped(e: Emitter, step: PlanStep, x: str, before: tuple[int, ...], after: list[int]) -> str:
    """Circular padding by concatenating slices of the map: the mode exists only from opset 19 on."""
    for axis in (0, 1, 2) if before[0] or after[0] else (1, 2):
        size, name = step.row[Column.C_IN + axis], f"{step.name}_axis{axis}"
        pieces = [(size - before[axis], size), (0, size), (0, after[axis])]
        parts = []
        for i, (start, end) in enumerate(pieces):
            bounds = [e.whole(f"{name}_{key}{i}", [v]) for key, v in (("from", start), ("to", end), ("at", axis + 1))]
            parts += [e.emit("Slice", [x, *bounds], f"{name}_piece{i}")] if end > start else []
        x = e.emit("Concat", parts, step.name if axis == 2 else name, axis=axis + 1)
    return x


#: Attributes of Resize for PyTorch's interpolations.
_RESIZE: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "nearest-exact": {
        "mode": "nearest",
        "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_ceil",
    },
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    "bilinear-aligned": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    "bicubic": {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75},
    "bicubic-aligned": {"mode": "cubic", "coordinate_transformation_mode": "align_corners", "cubic_coeff_a": -0.75},
}


def resize(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    """Interpolation by PyTorch's rules."""
    mode, size = RESIZE_MODES[step.row[Column.KIND]], step.pair(Column.H_OUT)
    if mode == "area":
        return _area(e, step, xs[0])
    pixels = e.whole(f"{step.name}_pixels", size)
    if e.opset >= 18:
        return e.emit("Resize", [*xs, "", "", pixels], step.name, **_RESIZE[mode], axes=[2, 3])
    whole = e.emit("Shape", xs, f"{step.name}_whole")
    kept = e.emit("Slice", [whole, e.whole("from0", [0]), e.whole("to2", [2])], f"{step.name}_kept")
    sizes = e.emit("Concat", [kept, pixels], f"{step.name}_sizes", axis=0)
    return e.emit("Resize", [*xs, "", "", sizes], step.name, **_RESIZE[mode])


def _area(e: Emitter, step: PlanStep, x: str) -> str:
    """Area interpolation as products with two constant matrices; ONNX has no operator for it."""
    rows, columns = (_shares(step.row[Column.H_IN + i], step.row[Column.H_OUT + i]) for i in range(2))
    half = e.emit("MatMul", [x, e.constant(f"{step.name}_columns", columns.T)], f"{step.name}_half")
    return e.emit("MatMul", [e.constant(f"{step.name}_rows", rows), half], step.name)


def _shares(size: int, out: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The weights of ``size`` pixels in each of ``out`` means."""
    shares = np.zeros((out, size))
    for i in range(out):
        first, last = i * size // out, -(-(i + 1) * size // out)
        shares[i, first:last] = 1 / (last - first)
    return shares


def reshape(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    """A reshape that keeps the batch."""
    shape = e.whole(f"{step.name}_shape", [0, *step.row[Column.C_OUT : Column.W_OUT + 1]])
    return e.emit("Reshape", [*xs, shape], step.name)


def space_to_depth(e: Emitter, step: PlanStep, xs: list[str]) -> str:
    """Space to depth; ONNX's operator puts blocks outermost in the channels, PyTorch and graphs innermost."""
    (c, h, w), block = step.row[Column.C_IN : Column.W_IN + 1], step.row[Column.KERNEL_H]
    split = e.whole(f"{step.name}_split", [0, c, h // block, block, w // block, block])
    blocks = e.emit("Reshape", [*xs, split], f"{step.name}_blocks")
    moved = e.emit("Transpose", [blocks], f"{step.name}_moved", perm=[0, 1, 3, 5, 2, 4])
    return reshape(e, step, [moved])
