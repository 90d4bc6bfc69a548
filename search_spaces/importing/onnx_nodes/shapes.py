"""Handlers of ONNX views, slices, joins and padding.

The rules are those of :mod:`tracing.shapes`, so that a network becomes the same graph from PyTorch and from ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from math import prod

import numpy as np
from onnx import TensorProto

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx_nodes import dimensions as fixed
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler, Result, Sequence
from gennape.search_spaces.importing.onnx_nodes.constants import evaluate
from gennape.search_spaces.importing.onnx_nodes.dimensions import whole_numbers
from gennape.search_spaces.importing.onnx_nodes.file import MAX_NUMBERS, MAX_RANK, Constant
from gennape.search_spaces.importing.onnx_nodes.links import scalar
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode
from gennape.search_spaces.importing.onnx_nodes.number_types import RANGES, keeps_numbers
from gennape.search_spaces.importing.onnx_nodes.reductions import axes
from gennape.search_spaces.importing.tracing import traced_value as tv
from gennape.search_spaces.importing.tracing.joins import Held, joined
from gennape.search_spaces.importing.tracing.traced_value import Atom, Range, TracedValue, grouped

Shape = tuple[int, ...]


def _dropout(call: Call) -> list[Result]:
    """The identity at inference; the mask, if it is used, keeps everything."""
    x, training, ratio = call.traced(), call.constant(2), call.constant(1)
    drops = ratio is None or ratio.values is None or bool(np.any(ratio.values != 0))
    if training is not None and (training.values is None or training.values.any()) and drops:
        raise InvalidGraphError("it drops values at random; export the model for inference")
    return [x, Constant(x.shape, np.ones(x.shape, bool) if prod(x.shape) <= MAX_NUMBERS else None)]


def _cast(call: Call) -> TracedValue:
    """The identity, except for casts to integers or to few bits, which round."""
    x, target = call.traced(), call.node.integer("to")
    if keeps_numbers(call.type(), target):
        return x
    if target not in RANGES:
        return call.other("round_to_few_bits", x.shape, x)
    name = "ne" if target == TensorProto.BOOL else "trunc" if call.type() not in RANGES else "wrap"
    return call.other(name, x.shape, x)


def _cast_like(_call: Call) -> Result:
    """A cast to an unknown dtype; others were replaced by Cast."""
    raise InvalidGraphError("the dtype that it casts to is unknown; use Cast")


def _view(shape_of: Callable[[Call, Shape], Shape]) -> Handler:
    """The handler of a view."""
    return lambda call: tv.reshaped(call.b, call.traced(), _positive(shape_of(call, call.traced().shape)))


def _positive(shape: Shape) -> Shape:
    if min(shape, default=1) < 1 or len(shape) > MAX_RANK:
        raise InvalidGraphError(f"its result of shape {list(shape)[:20]} is empty or has over {MAX_RANK} dimensions")
    return shape


def _reshape(call: Call, shape: Shape) -> Shape:
    target = whole_numbers(call.constant(1), "shape")
    return fixed.reshaped(shape, target, bool(call.node.integer("allowzero", 0)))


def _transpose(call: Call) -> TracedValue:
    x = call.traced()
    return tv.moved(x, fixed.permutation(call.node, len(x.dims)))


def _regrouped(call: Call) -> TracedValue:
    """Reshape, Transpose and Reshape: space-to-depth or depth-to-space if they match, else a rearrangement."""
    x, perm = call.traced(), call.node.integers("perm")
    split = fixed.reshaped(x.shape, whole_numbers(call.constant(1), "shape"))
    out = _positive(
        fixed.reshaped(tuple(split[i] for i in _perm(perm, split)), whole_numbers(call.constant(2), "shape"))
    )
    if len(x.shape) == len(out) == 4 and x.shape[0] == 1:
        (_, c, h, w), groups = x.shape, ((1,), (2,), (3,))
        for block in {split[2], split[3]}:
            down = (
                (1, c, h // block, block, w // block, block),
                (0, 1, 3, 5, 2, 4),
                (1, c * block**2, h // block, w // block),
            )
            if (split, perm, out) == down:
                return grouped(call.b.space_to_depth(call.arranged(0, groups).value, block), out, groups)
            up = (1, c // block**2, block, block, h, w), (0, 1, 4, 2, 5, 3), (1, c // block**2, h * block, w * block)
            if (split, perm, out) == up:
                return grouped(call.b.depth_to_space(call.arranged(0, groups).value, block), out, groups)
    return tv.reshaped(call.b, tv.moved(tv.reshaped(call.b, x, split), perm), out)


def _perm(perm: Shape, shape: Shape) -> Shape:
    if sorted(perm) != list(range(len(shape))):
        raise InvalidGraphError(f"its perm {list(perm)} is no permutation of the dimensions of {list(shape)}")
    return perm


def _turned(call: Call) -> TracedValue:
    """The last two dimensions transposed."""
    x = call.traced()
    if len(x.dims) < 2:
        raise InvalidGraphError(f"its input has shape {list(x.shape)}, must be matrices")
    return tv.moved(x, (*range(len(x.dims) - 2), len(x.dims) - 1, len(x.dims) - 2))


def _expand(call: Call) -> TracedValue:
    """Repeat dimensions of size 1, without a node: sums and products broadcast by themselves."""
    x = call.traced()
    try:
        shape = np.broadcast_shapes(x.shape, whole_numbers(call.constant(1), "shape"))
    except ValueError as error:
        raise InvalidGraphError(f"it cannot expand {list(x.shape)} ({error})") from error
    return _repeated(x, _positive(shape))


def _tile(call: Call) -> TracedValue:
    """Repeat dimensions; nodes are added only if an operator needs them."""
    x, repeats = call.traced(), whole_numbers(call.constant(1), "repeats")
    if len(repeats) != len(x.dims):
        raise InvalidGraphError(f"its repeats {list(repeats)[:20]} do not match {list(x.shape)}")
    shape = _positive(tuple(n * times for n, times in zip(x.shape, repeats, strict=True)))
    return _repeated(x, shape)


def _repeated(x: TracedValue, shape: Shape) -> TracedValue:
    dims = [()] * (len(shape) - len(x.dims)) + list(x.dims)
    for dim, size in enumerate(shape):
        times = size // TracedValue(x.value, (dims[dim],)).shape[0]
        if times > 1:
            dims[dim] = (Atom(tv.REPEATED, times, dim + 1), *dims[dim])
    return TracedValue(x.value, tuple(dims))


def _shape(call: Call) -> Constant:
    shape = call.traced().shape
    start, end = call.node.integer("start", 0), call.node.integer("end", len(shape))
    kept = shape[start:end]
    return Constant((len(kept),), np.array(kept, np.int64))


def _size(call: Call) -> Constant:
    return Constant((), np.array(prod(call.traced().shape), np.int64))


# Parts -------------------------------------------------------------------------------------------------------------


def _slice(call: Call) -> TracedValue:
    x = call.traced()
    ranges, turned = {}, []
    for dim, cut in enumerate(fixed.slices(call.node, call.constants, x.shape)):
        count = len(range(cut.start, cut.stop, cut.step))
        if count < 1:
            raise InvalidGraphError(f"it keeps nothing of dimension {dim} of {list(x.shape)}")
        if cut.step < 0 and count > 1:
            turned.append(dim)
        ranges[dim] = Range(cut.start, count, max(1, cut.step))
    if turned:
        if any(cut.length != n for cut, n in zip(ranges.values(), x.shape, strict=True)):
            raise InvalidGraphError("it flips a dimension and cuts at once; do one after the other")
        if len(turned) == 1 and x.shape[turned[0]] <= _MAX_RUNS:
            (dim,) = turned
            return _picked(call, x, dim, tuple(range(x.shape[dim]))[::-1])
        return call.other("flip", x.shape, x)
    return tv.sliced(call.b, x, ranges)


def _split(call: Call) -> list[Result]:
    x = call.traced()
    dim = fixed.axis_of(call.node.integer("axis", 0), len(x.shape))
    sizes = fixed.parts(call.node, call.constants, x.shape[dim])
    starts = np.cumsum((0, *sizes))[:-1].tolist()
    cuts = zip(call.node.outputs, starts, sizes, strict=False)
    return [tv.sliced(call.b, x, {dim: Range(start, size)}) if name else Constant(()) for name, start, size in cuts]


def _gather(call: Call) -> TracedValue:
    """Equally spaced indices are a slice, a few runs are joined slices; anything else is an "other"."""
    x, index = call.traced(), call.weight(1)
    dim = fixed.axis_of(call.node.integer("axis", 0), len(x.shape))
    shape = _positive(x.shape[:dim] + index.shape + x.shape[dim + 1 :])
    if index.values is None or index.values.dtype.kind not in "iu":
        return call.other("index", shape, x)
    places = [int(i) % x.shape[dim] for i in index.values.reshape(-1) if -x.shape[dim] <= i < x.shape[dim]]
    if len(places) != index.values.size:
        raise InvalidGraphError(f"its indices exceed dimension {dim} of {list(x.shape)}")
    steps = set(np.diff(places).tolist()) or {1}
    if len(steps) > 1 or min(steps) < 1:
        if len(_runs(places)) > _MAX_RUNS:
            return call.other("index", shape, x)
        picked = _picked(call, x, dim, tuple(places))
        return picked if len(index.shape) == 1 else tv.reshaped(call.b, picked, shape)
    cut = tv.sliced(call.b, x, {dim: Range(places[0], len(places), steps.pop())})
    return cut if len(index.shape) == 1 else tv.reshaped(call.b, cut, shape)


#: Most slices that a selection of indices is joined from.
_MAX_RUNS = 64


def _runs(places: Sequence_[int]) -> list[Range]:
    """Split indices into runs of consecutive ones."""
    runs: list[Range] = []
    for place in places:
        if runs and place == runs[-1].first + runs[-1].length:
            runs[-1] = Range(runs[-1].first, runs[-1].length + 1)
        else:
            runs.append(Range(place, 1))
    return runs


def _picked(call: Call, x: TracedValue, dim: int, places: tuple[int, ...]) -> TracedValue:
    """Select indices of a dimension in any order by joining slices, for example RGB to BGR."""
    parts = [tv.sliced(call.b, x, {dim: run}) for run in _runs(places)]
    return joined(call.b, parts, dim, (*x.shape[:dim], len(places), *x.shape[dim + 1 :]))


def _split_to_sequence(call: Call) -> Sequence:
    x, given = call.xs[0] if call.xs else None, call.constant(1)
    if x is None:
        raise InvalidGraphError("its input 0 is missing")
    dim = fixed.axis_of(call.node.integer("axis", 0), len(x.shape))
    if given is None or len(given.shape) > 1:
        raise InvalidGraphError("the sizes of its parts (split) must be given")
    listed = whole_numbers(given, "split")
    if given.shape == () and listed[0] > 0:
        listed = tuple(min(listed[0], x.shape[dim] - start) for start in range(0, x.shape[dim], listed[0]))
    if sum(listed) != x.shape[dim] or min(listed, default=0) < 1:
        raise InvalidGraphError(f"its parts {list(listed)[:20]} do not add up to {x.shape[dim]}")
    if isinstance(x, Constant):
        cut = OnnxNode("Split", call.node.name, call.node.inputs, ("",) * len(listed), {"axis": dim})
        return Sequence(tuple(evaluate(cut, [x, Constant((len(listed),), np.array(listed))], call.opset)))
    starts = np.cumsum((0, *listed))[:-1].tolist()
    return Sequence(
        tuple(tv.sliced(call.b, x, {dim: Range(start, size)}) for start, size in zip(starts, listed, strict=True))
    )


def _sequence_at(call: Call) -> TracedValue | Constant:
    sequence, places = call.sequence, whole_numbers(call.weight(1), "place")
    if sequence is None or len(places) != 1 or not -len(sequence.parts) <= places[0] < len(sequence.parts):
        raise InvalidGraphError(f"its input must be a sequence with an element {list(places)[:5]}")
    return sequence.parts[places[0]]


# Joins and padding -------------------------------------------------------------------------------------------------


def _concat(call: Call) -> TracedValue:
    inputs = [x for x in call.xs if x is not None and 0 not in x.shape]
    traced = [x for x in inputs if isinstance(x, TracedValue)]
    if not traced:
        raise InvalidGraphError("none of its inputs depends on the image")
    first = traced[0].shape
    dim = fixed.axis_of(call.node.integer("axis"), len(first))
    if any((*x.shape[:dim], *x.shape[dim + 1 :]) != (*first[:dim], *first[dim + 1 :]) for x in inputs):
        raise InvalidGraphError(f"its inputs {[list(x.shape) for x in inputs][:20]} do not match along axis {dim}")
    if len(inputs) == 1:
        return traced[0]
    shape = (*first[:dim], sum(x.shape[dim] for x in inputs), *first[dim + 1 :])
    return joined(call.b, [x if isinstance(x, TracedValue) else _held(x, dim) for x in inputs], dim, shape)


def _held(x: Constant, dim: int) -> Held:
    """A tensor of the file as an operand of a join; one that is not learnt may be filled with one number."""
    known = x.params == 0 and x.values is not None and x.values.dtype.kind == "f" and len(np.unique(x.values)) == 1
    fill = float(x.numbers.reshape(-1)[0]) if known else None
    whole = x.params == prod(x.shape)
    return Held(x.shape[dim], None if whole else x.params, fill if fill is None or np.isfinite(fill) else None)


#: The largest float32.
_LARGEST = float(np.finfo(np.float32).max)
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(call: Call) -> TracedValue:
    x, mode, fill = call.traced(), call.node.text("mode", "constant"), scalar(call.constant(2))
    rank = len(x.shape)
    pads, axes = whole_numbers(call.weight(1), "pads"), tuple(range(rank))
    if call.constant(3) is not None:
        axes = tuple(fixed.axis_of(axis, rank) for axis in whole_numbers(call.constant(3), "axes"))
    if len(pads) != 2 * len(axes) or mode not in _PAD_MODES or (fill is None and call.constant(2) is not None):
        raise InvalidGraphError(f"its pads {list(pads)[:20]}, mode {mode[:20]!r} or value do not match {list(x.shape)}")
    widths = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    cuts = {
        dim: Range(max(0, -before), x.shape[dim] + min(0, before) + min(0, after))
        for dim, (before, after) in widths.items()
    }
    if any(cut.length < 1 for cut in cuts.values()):
        raise InvalidGraphError(f"its pads {list(pads)[:20]} leave nothing of {list(x.shape)}")
    x = tv.settle(call.b, tv.sliced(call.b, x, cuts))
    padded = {dim: tv.axis_of(x, dim) for dim, (before, after) in widths.items() if before > 0 or after > 0}
    if not padded:
        return x
    shape = tuple(n + sum(max(0, p) for p in widths.get(dim, ())) for dim, n in enumerate(x.shape))
    if None in padded.values():
        return call.other("pad", shape, x)
    before, after = [0, 0, 0], [0, 0, 0]
    for dim, axis in padded.items():
        before[axis or 0], after[axis or 0] = max(0, widths[dim][0]), max(0, widths[dim][1])
    # A graph holds finite numbers; before a max pool the lowest one acts like minus infinity.
    constant = max(-_LARGEST, min(_LARGEST, fill or 0.0)) if mode == "constant" else 0.0
    made = call.b.pad(
        x.value, (before[0], before[1], before[2]), (after[0], after[1], after[2]), _PAD_MODES[mode], constant
    )
    return grouped(made, shape, tv.groups_of(x))


SHAPES: dict[str, Handler] = {
    "Identity": lambda call: call.traced(),
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Reshape": _view(_reshape),
    "Flatten": _view(lambda call, shape: fixed.flattened(shape, call.node.integer("axis", 1))),
    "Squeeze": _view(lambda call, shape: fixed.squeezed(shape, axes(call, None))),
    "Unsqueeze": _view(lambda call, shape: fixed.unsqueezed(shape, axes(call, ()) or ())),
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "SplitToSequence": _split_to_sequence,
    "SequenceAt": _sequence_at,
    "Gather": _gather,
    "Concat": _concat,
    "Pad": _pad,
}
#: Fused operators of :mod:`patterns` and :mod:`runtime`.
FUSED_SHAPES: dict[str, Handler] = {"Regroup": _regrouped, "Turned": _turned}
