"""Handlers of ONNX convolutions and global pools."""

from __future__ import annotations

from math import prod

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.builder import Value
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.tracing.traced_value import Groups, TracedValue, grouped


def image_of(call: Call, each: bool = False) -> tuple[TracedValue, Groups]:
    """The input as a map of channels, height and width; a signal [batch, c, n] is a map of width 1.

    With ``each``, for operators on single channels, the channels of several maps become those of one.
    """
    shape = call.traced().shape
    if len(shape) not in (3, 4) or (shape[0] != 1 and not each):
        raise InvalidGraphError(f"its input has shape {list(shape)}, must be one map [1, c, h, w] or signal [1, c, n]")
    groups: Groups = ((1,) if shape[0] == 1 else (0, 1), (2,), (3,) if len(shape) == 4 else ())
    return call.arranged(0, groups), groups


def both(values: tuple[int, ...], what: str, groups: Groups, fill: int = 1) -> tuple[int, int]:
    """An attribute for height and width; for a signal, for its length alone."""
    if len(values) != 1 + len(groups[2]):
        raise InvalidGraphError(f"its {what} {list(values)} must be {1 + len(groups[2])} numbers")
    return (values[0], values[1] if groups[2] else fill)


def window_of(call: Call, kernel: tuple[int, ...], groups: Groups) -> tuple[tuple[int, int], ...]:
    """Kernel, stride and dilation."""
    dims = 1 + len(groups[2])
    strides, dilations = (call.node.integers(name, (1,) * dims) for name in ("strides", "dilations"))
    sizes = both(kernel, "kernel", groups), both(strides, "strides", groups), both(dilations, "dilations", groups)
    if any(n < 1 for pair in sizes for n in pair):
        raise InvalidGraphError(f"its kernel, strides and dilations must be positive, got {sizes}")
    return sizes


def pads_of(
    call: Call, x: Value, groups: Groups, window: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding (rows, columns) before and after the map."""
    kernel, stride, dilation = window
    dims, automatic = 1 + len(groups[2]), call.node.text("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "VALID"):
        given = call.node.integers("pads", (0,) * (2 * dims)) if automatic == "NOTSET" else (0,) * (2 * dims)
        if len(given) != 2 * dims or min(given) < 0:
            raise InvalidGraphError(f"its pads {list(given)} must be {2 * dims} non-negative numbers")
        return both(given[:dims], "pads", groups, 0), both(given[dims:], "pads", groups, 0)
    if automatic not in ("SAME_UPPER", "SAME_LOWER"):
        raise InvalidGraphError(f"its auto_pad is {automatic!r}, must be NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    sizes = (x.h, x.w)
    missing = [
        (-(-n // s) - 1) * s + (k - 1) * d + 1 - n for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    if min(missing) < -1:
        raise InvalidGraphError(
            f"its auto_pad is {automatic}, but windows {kernel} at strides {stride} skip pixels, at positions "
            "that differ between runtimes; give its pads"
        )
    total = [max(0, n) for n in missing]
    small, large = (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)
    return (small, large) if automatic == "SAME_UPPER" else (large, small)


def _kernel(call: Call, weight: Constant, x: TracedValue) -> tuple[int, ...]:
    """The kernel size of a weight; an attribute ``kernel_shape`` must agree."""
    if len(weight.shape) != len(x.dims):
        raise InvalidGraphError(f"its weight {list(weight.shape)} does not match {list(x.shape)}")
    kernel = weight.shape[2:]
    if call.node.integers("kernel_shape", kernel) != kernel:
        raise InvalidGraphError(f"its kernel_shape does not match its weight {list(weight.shape)}")
    return kernel


def vector(call: Call, i: int, size: int, what: str) -> Constant | None:
    """A constant input with one element per channel."""
    x = call.constant(i)
    if x is not None and x.shape != (size,):
        raise InvalidGraphError(f"its {what} has the shape {list(x.shape)}, must be [{size}]")
    return x


def has_bias(call: Call, i: int, size: int) -> bool:
    """Whether a constant input is a bias; exporters may write zeros if there is none."""
    x = vector(call, i, size, "bias")
    return x is not None and (x.params >= size or x.values is None or bool(x.values.any()))


def _conv(call: Call) -> TracedValue:
    weight, (x, groups) = call.weight(1), image_of(call)
    window = window_of(call, _kernel(call, weight, x), groups)
    before, after = pads_of(call, x.value, groups, window)
    parts, value = call.node.integer("group", 1), x.value
    if weight.shape[1] * parts != value.c:
        raise InvalidGraphError(f"its weight {list(weight.shape)} in {parts} groups does not match {value.c} channels")
    bias = has_bias(call, 2, weight.shape[0])
    if before != after:
        value, before = call.b.pad(value, (0, *before), (0, *after)), (0, 0)
    made = call.b.conv(value, weight.shape[0], window[0], window[1], before, window[2], parts, bias)
    result = grouped(made, (1, *made.shape[: len(x.dims) - 1]), groups)
    return _fixed(call, "fixed_conv", x, made.shape, result) if weight.fixed else result


def _fixed(call: Call, name: str, x: TracedValue, applied: tuple[int, ...], result: TracedValue) -> TracedValue:
    """Replace a layer whose filter is not learnt by an operation with its cost; ``applied`` is the shape of positions.

    The layer itself is then unused, and removed.
    """
    bias = call.constant(2)
    macs = prod(applied) * prod(call.weight(1).shape[1:])
    return call.other(name, result.shape, x, macs=macs, params=0 if bias is None else bias.params)


def _conv_transpose(call: Call) -> TracedValue:
    weight, (x, groups) = call.weight(1), image_of(call)
    window = window_of(call, _kernel(call, weight, x), groups)
    parts = call.node.integer("group", 1)
    c_out = weight.shape[1] * parts
    if weight.shape[0] != x.value.c:
        raise InvalidGraphError(f"its weight {list(weight.shape)} does not match {x.value.c} channels")
    dims = 1 + len(groups[2])
    extra = both(call.node.integers("output_padding", (0,) * dims), "output_padding", groups, 0)
    before, after = _transposed_pads(call, x.value, groups, window, extra)
    # Less padding at the end is output padding, up to PyTorch's limit; any excess is cut off.
    most = [max(pair) - 1 for pair in zip(window[1], window[2], strict=True)]
    fits = [e + b - a <= m for e, b, a, m in zip(extra, before, after, most, strict=True)]
    pads = (before[0] if fits[0] else after[0], before[1] if fits[1] else after[1])
    more = (extra[0] + pads[0] - after[0], extra[1] + pads[1] - after[1])
    if any(m > limit for m, limit in zip(more, most, strict=True)):
        raise InvalidGraphError(f"its output padding is {more}, at most {most} is supported")
    added, cut = (max(0, more[0]), max(0, more[1])), (before[0] - pads[0], before[1] - pads[1])
    bias = has_bias(call, 2, c_out)
    made = call.b.conv_transpose(x.value, c_out, window[0], window[1], pads, added, window[2], parts, bias)
    if min(more) < 0 or max(cut) > 0:
        h, w = (n - c + min(0, m) for n, c, m in zip(made.shape[1:], cut, more, strict=True))
        made = call.b.slice(made, c_out, *cut, h=h, w=w)
    result = grouped(made, (1, *made.shape[: 1 + dims]), groups)
    return _fixed(call, "fixed_conv_transpose", x, x.value.shape, result) if weight.fixed else result


def _transposed_pads(
    call: Call, x: Value, groups: Groups, window: tuple[tuple[int, int], ...], extra: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding (rows, columns) of a transposed convolution before and after its map.

    It may be given by the size of the result, or follow from a result that is larger by the stride.
    """
    dims, automatic = 1 + len(groups[2]), call.node.text("auto_pad", "NOTSET")
    given = call.node.integers("output_shape", ())
    if not given and automatic in ("NOTSET", "VALID"):
        return pads_of(call, x, groups, window)
    kernel, stride, dilation = window
    sizes = (x.h, x.w)
    wanted = both(given[-dims:], "output_shape", groups) if given else (x.h * stride[0], x.w * stride[1])
    whole = [
        (n - 1) * s + (k - 1) * d + 1 + e for n, k, s, d, e in zip(sizes, kernel, stride, dilation, extra, strict=True)
    ]
    total = [n - m for n, m in zip(whole, wanted, strict=True)]
    small = (max(0, total[0]) // 2, max(0, total[1]) // 2)
    large = (total[0] - small[0], total[1] - small[1])  # below 0 if the result is larger than the windows reach
    if automatic == "SAME_UPPER" or min(total) < 0:
        return small, large
    return large, small


def _global_max(call: Call) -> TracedValue:
    x, groups = image_of(call, each=True)
    made = call.b.maxpool(x.value, x.value.shape[1:], x.value.shape[1:])
    return grouped(made, (*x.shape[:2], *made.shape[1 : len(x.dims) - 1]), groups)


def _global_mean(call: Call) -> TracedValue:
    x, groups = image_of(call, each=True)
    made = call.b.mean(x.value)
    return grouped(made, (*x.shape[:2], *made.shape[1 : len(x.dims) - 1]), groups)


WINDOWS: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": _global_max,
}
