"""Handlers of pools and resizing."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gennape.search_spaces.graphs.operations import RESIZE_MODES, Value
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.tracing.recorder import Recorder
from gennape.search_spaces.importing.tracing.tables import Handler, called, table
from gennape.search_spaces.importing.tracing.tensors import Untraceable
from gennape.search_spaces.importing.tracing.traced_value import (
    Groups,
    grouped,
)


def _map_groups(x: Tensor) -> Groups:
    """The axes of [batch, c, h, w]; a batch of several maps (windows) becomes channels."""
    if x.dim() not in (3, 4):
        raise Untraceable(f"its input has shape {tuple(x.shape)}, must be a map")
    first = x.dim() - 3
    return (tuple(range(first + 1)), (first + 1,), (first + 2,))


def _line_groups(x: Tensor) -> Groups:
    """The axes of [batch, c, n]; a batch of several becomes channels."""
    if x.dim() != 3:
        raise Untraceable(f"its input has shape {tuple(x.shape)}, must be [batch, channels, length]")
    return ((0, 1), (2,), ())


def _two(value: Any, line: bool, rest: int = 1) -> tuple[Any, Any]:
    """Height and width of a size; in one dimension the width is ``rest``."""
    values = (value,) if isinstance(value, int | float) else tuple(value)
    return (values[0], rest) if line else (values[0], values[-1])


def _max_pool(line: bool) -> Handler:
    def handler(
        r: Recorder,
        out: Any,
        tensor: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> None:
        if return_indices:
            raise Untraceable("its indices have no node; call it with return_indices=False")
        groups = _line_groups(tensor) if line else _map_groups(tensor)
        x = r.arranged(tensor, groups)
        if _two(dilation, line) != (1, 1):
            r.other("dilated_max_pool", out, x, groups=groups)
            return
        strides = _two(stride if stride not in (None, []) else kernel_size, line)
        value = r.b.maxpool(x.value, _two(kernel_size, line), strides, _two(padding, line, 0), ceil_mode)
        r.bind(out, grouped(value, tuple(out.shape), groups))

    return handler


def _avg_pool(line: bool) -> Handler:
    def handler(
        r: Recorder,
        out: Tensor,
        tensor: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        groups = _line_groups(tensor) if line else _map_groups(tensor)
        x = r.arranged(tensor, groups)
        if divisor_override is not None:
            r.other("sum_pool", out, x, groups=groups)
            return
        strides = _two(stride if stride not in (None, []) else kernel_size, line)
        pads = _two(padding, line, 0)
        value = r.b.avgpool(x.value, _two(kernel_size, line), strides, pads, ceil_mode, count_include_pad)
        r.bind(out, grouped(value, tuple(out.shape), groups))

    return handler


def _adaptive_pool(op: Op, line: bool) -> Handler:
    def handler(
        r: Recorder,
        out: Any,
        tensor: Tensor,
        output_size: Any,  # noqa: ARG001 - seen in the result
        return_indices: bool = False,
    ) -> None:
        if return_indices:
            raise Untraceable("its indices have no node; call it with return_indices=False")
        groups = _line_groups(tensor) if line else _map_groups(tensor)
        x = r.arranged(tensor, groups)
        after = (out.shape[-1], 1) if line else (out.shape[-2], out.shape[-1])
        value = _pooled_to(r, x.value, op, (after[0], after[1]))
        if value is None:
            r.other(f"adaptive_{op.name.lower()}", out, x, groups=groups)
            return
        r.bind(out, grouped(value, tuple(out.shape), groups))

    return handler


def _pooled_to(r: Recorder, value: Value, op: Op, out: tuple[int, int]) -> Value | None:
    """The map pooled to another size; None if its windows would differ in size."""
    before = (value.h, value.w)
    if out == (1, 1) and op is Op.AVGPOOL:
        return r.b.mean(value)
    if before == out:
        return value
    if before[0] % out[0] or before[1] % out[1]:
        return None
    window = (before[0] // out[0], before[1] // out[1])
    return r.b.maxpool(value, window, window) if op is Op.MAXPOOL else r.b.avgpool(value, window, window)


def _interpolate(
    r: Recorder,
    out: Tensor,
    tensor: Tensor,
    size: Any = None,  # noqa: ARG001 - seen in the result
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> None:
    groups = _map_groups(tensor)
    x = r.arranged(tensor, groups)
    before, after = tuple(tensor.shape[-2:]), tuple(out.shape[-2:])
    name = f"{mode}-aligned" if align_corners else mode
    # A factor that is not the ratio of the sizes changes the sampling positions.
    factors = _two(scale_factor, False) if scale_factor is not None and not recompute_scale_factor else None
    skewed = (
        factors is not None
        and not align_corners
        and any(f * b != a for f, b, a in zip(factors, before, after, strict=True))
    )
    if before == after and not skewed:
        r.bind(out, x)
    elif name not in RESIZE_MODES or antialias or (skewed and mode != "area"):
        r.other("interpolate", out, x, groups=groups)
    else:
        r.bind(out, grouped(r.b.resize(x.value, after[0], after[1], name), tuple(out.shape), groups))


def _blocks(op: Op) -> Handler:
    def handler(r: Recorder, out: Tensor, tensor: Tensor, factor: int) -> None:
        groups = _map_groups(tensor)
        x = r.arranged(tensor, groups).value
        value = r.b.depth_to_space(x, factor) if op is Op.DEPTHTOSPACE else r.b.space_to_depth(x, factor)
        r.bind(out, grouped(value, tuple(out.shape), groups))

    return handler


HANDLERS: dict[Any, Handler] = table(
    (called("max_pool1d"), _max_pool(line=True)),
    (called("max_pool2d"), _max_pool(line=False)),
    (called("avg_pool1d"), _avg_pool(line=True)),
    (called("avg_pool2d"), _avg_pool(line=False)),
    (called("adaptive_avg_pool1d"), _adaptive_pool(Op.AVGPOOL, line=True)),
    (called("adaptive_avg_pool2d"), _adaptive_pool(Op.AVGPOOL, line=False)),
    (called("adaptive_max_pool1d"), _adaptive_pool(Op.MAXPOOL, line=True)),
    (called("adaptive_max_pool2d"), _adaptive_pool(Op.MAXPOOL, line=False)),
    (called("interpolate"), _interpolate),
    (called("pixel_shuffle"), _blocks(Op.DEPTHTOSPACE)),
    (called("pixel_unshuffle"), _blocks(Op.SPACETODEPTH)),
)
