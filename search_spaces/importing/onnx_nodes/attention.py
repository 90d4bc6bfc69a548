"""Handlers of ONNX attention and rotary embeddings (opset 23 and later), as products, sums and slices."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx_nodes.arithmetic import product, sum_of, times
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler, Input, Result
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.matrices import contract, softmax_along
from gennape.search_spaces.importing.tracing import traced_value as tv
from gennape.search_spaces.importing.tracing.alignment import causal_softmax
from gennape.search_spaces.importing.tracing.joins import joined
from gennape.search_spaces.importing.tracing.traced_value import REPEATED, Atom, Range, TracedValue

Shape = tuple[int, ...]
#: Inputs of a key-value cache and attributes of windows, which are not supported.
_OF_CACHES = {4: "past_key", 5: "past_value", 6: "nonpad_kv_seqlen"}
_WINDOWS = ("left_window_size", "right_window_size")


def _attention(call: Call) -> list[Result]:
    """softmax(q · kᵀ · scale + mask) · v for each head; several heads of q may share one of k and v."""
    cached = [name for i, name in _OF_CACHES.items() if i < len(call.xs) and call.xs[i] is not None]
    cached += [name for name in _WINDOWS if call.node.integer(name, -1) != -1]
    if cached:
        raise InvalidGraphError(f"it has {', '.join(cached)}, which is not supported")
    q, k, v = (_heads(call, i, "q_num_heads" if i == 0 else "kv_num_heads") for i in range(3))
    if k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3] or q.shape[1] % k.shape[1]:
        raise InvalidGraphError(f"its heads {list(q.shape)}, {list(k.shape)} and {list(v.shape)} do not match")
    present: list[Result] = [k, v]
    k, v = (_shared(call, x, q.shape[1]) for x in (k, v))
    scores = contract(call, q, k, ("bhxd", "bhyd", "bhxy"))
    scores = times(call, scores, call.node.real("scale", q.shape[3] ** -0.5), scores.shape)
    cap = call.node.real("softcap", 0.0)
    if cap:
        small = tv.settle(call.b, times(call, scores, 1 / cap, scores.shape))
        scores = times(call, TracedValue(call.b.elementwise(Op.TANH, small.value), small.dims), cap, scores.shape)
    masked = _masked(call, scores)
    causal = bool(call.node.integer("is_causal", 0))
    weights = causal_softmax(call.b, masked) if causal else softmax_along(call, masked, 3)
    mixed = contract(call, weights, v, ("bhxy", "bhyd", "bhxd"))
    if len(call.traced().shape) == 3:
        mixed = tv.reshaped(call.b, tv.moved(mixed, (0, 2, 1, 3)), (*call.traced().shape[:2], q.shape[1] * v.shape[3]))
    kept = {0: scores, 1: masked, 3: weights}.get(call.node.integer("qk_matmul_output_mode", 0), masked)
    if len(call.node.outputs) > 3 and call.node.outputs[3] and (cap or causal):
        raise InvalidGraphError("its fourth output is not supported with a softcap or causal mask")
    return [mixed, *present, kept]


def _heads(call: Call, i: int, heads: str) -> TracedValue:
    """An input as [batch, heads, positions, width]."""
    x = call.traced(i)
    if len(x.shape) == 4:
        return x
    count = call.node.integer(heads, 0)
    if len(x.shape) != 3 or count < 1 or x.shape[2] % count:
        raise InvalidGraphError(f"its input {i} of shape {list(x.shape)} cannot have {count} heads ({heads})")
    split = tv.reshaped(call.b, x, (*x.shape[:2], count, x.shape[2] // count))
    return tv.moved(split, (0, 2, 1, 3))


def _shared(call: Call, x: TracedValue, heads: int) -> TracedValue:
    """Keys or values with each head repeated for all query heads that share it."""
    times_each = heads // x.shape[1]
    if times_each == 1:
        return x
    dims = (x.dims[0], (*x.dims[1], Atom(REPEATED, times_each, 1)), *x.dims[2:])
    every: tv.Groups = ((0, 1), (2,), (3,))
    return tv.arrange(call.b, TracedValue(x.value, dims), every)


def _masked(call: Call, scores: TracedValue) -> TracedValue:
    mask: Input = call.xs[3] if len(call.xs) > 3 else None
    if mask is None:
        return scores
    if isinstance(mask, Constant):
        mask = _fixed(mask, scores.shape)
    elif mask.shape[-1:] != scores.shape[-1:]:
        raise InvalidGraphError(f"its mask {list(mask.shape)} is no constant and smaller than {list(scores.shape)}")
    return sum_of(call, scores, mask, scores.shape)


def _fixed(mask: Constant, shape: Shape) -> Constant:
    """A mask that only hides or shows is not learnt; a bias of many values may be."""
    try:
        if mask.shape[-1] < shape[-1]:
            return Constant((*mask.shape[:-1], shape[-1]))  # missing positions are hidden
        if np.broadcast_shapes(mask.shape, shape) != shape:
            raise InvalidGraphError(f"its mask {list(mask.shape)} is larger than its scores {list(shape)}")
    except (ValueError, IndexError) as error:
        raise InvalidGraphError(f"its mask {list(mask.shape)} does not fit its scores {list(shape)}") from error
    hides = mask.values is not None and (mask.values.dtype.kind != "f" or len(np.unique(mask.values)) < 3)
    return Constant(mask.shape) if hides else replace(mask, values=None) if prod(mask.shape) > 1 else mask


def _rotary(call: Call) -> TracedValue:
    """Rotate pairs of elements by angles that depend on their position."""
    x, interleaved = call.traced(), bool(call.node.integer("interleaved", 0))
    rank = len(x.shape)
    if rank == 3:
        count = call.node.integer("num_heads", 0)
        if count < 1 or x.shape[2] % count:
            raise InvalidGraphError(f"its input of shape {list(x.shape)} cannot have {count} heads (num_heads)")
        x = tv.moved(tv.reshaped(call.b, x, (*x.shape[:2], count, x.shape[2] // count)), (0, 2, 1, 3))
    if len(x.shape) != 4:
        raise InvalidGraphError(f"its input has shape {list(x.shape)}, must be [batch, heads, positions, width]")
    places, width = x.shape[2:]
    turned = call.node.integer("rotary_embedding_dim", 0) or width
    if turned % 2 or not 0 < turned <= width:
        raise InvalidGraphError(f"its rotary_embedding_dim is {turned}, must be even and at most {width}")
    if not all(_are_angles(call, i, places, turned // 2) for i in (1, 2)):
        return call.other("rotary_embedding", call.traced().shape, call.traced())
    cosine = sine = Constant((places, turned // 2))  # they are computed, not learnt
    ranges = (
        (Range(0, turned // 2, 2), Range(1, turned // 2, 2))
        if interleaved
        else (Range(0, turned // 2), Range(turned // 2, turned // 2))
    )
    first, second = (tv.sliced(call.b, x, {3: cut}) for cut in ranges)
    half = first.shape
    real = sum_of(call, product(call, first, cosine, half), product(call, second, sine, half), half, -1.0)
    imaginary = sum_of(call, product(call, first, sine, half), product(call, second, cosine, half), half)
    if interleaved:
        pairs = [TracedValue(part.value, (*part.dims, ())) for part in (real, imaginary)]
        made = tv.reshaped(call.b, joined(call.b, pairs, 4, (*half, 2)), (*half[:3], turned))
    else:
        made = joined(call.b, [real, imaginary], 3, (*half[:3], turned))
    if turned < width:
        rest = tv.sliced(call.b, x, {3: Range(turned, width - turned)})
        made = joined(call.b, [made, rest], 3, x.shape)
    return made if rank == 4 else tv.reshaped(call.b, tv.moved(made, (0, 2, 1, 3)), call.traced().shape)


def _are_angles(call: Call, i: int, places: int, half: int) -> bool:
    """Whether an input holds the sines or cosines of each position, or a table indexed by positions."""
    table = call.weight(i)
    if call.constant(3) is None:
        return table.shape == (1, places, half)
    return len(table.shape) == 2 and table.shape[1] == half and call.weight(3).shape == (1, places)


def _swish(call: Call) -> TracedValue:
    """x · sigmoid(alpha · x)."""
    alpha = call.node.real("alpha", 1.0)
    if alpha == 1:
        return call.map(lambda value: call.b.elementwise(Op.SWISH, value))
    x = call.settled()
    gate = tv.settle(call.b, times(call, x, alpha, x.shape))
    return product(call, x, TracedValue(call.b.elementwise(Op.SIGMOID, gate.value), gate.dims), x.shape)


ATTENTION: dict[str, Handler] = {"Attention": _attention, "RotaryEmbedding": _rotary, "Swish": _swish}
