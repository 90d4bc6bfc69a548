"""Handlers of ONNX reductions, with the rules of :mod:`tracing.shapes`."""

from __future__ import annotations

from gennape.search_spaces.importing.onnx_nodes import dimensions as fixed
from gennape.search_spaces.importing.onnx_nodes.call import Call, Handler
from gennape.search_spaces.importing.onnx_nodes.number_types import RANGES
from gennape.search_spaces.importing.tracing.alignment import mean_over, root_of_squares, squared, sum_over
from gennape.search_spaces.importing.tracing.traced_value import TracedValue

Shape = tuple[int, ...]


def axes(call: Call, default: Shape | None) -> Shape | None:
    """The axes of an operator, an attribute or an input."""
    return fixed.axes_of(call.node, call.constants, default)


def _gone(call: Call) -> tuple[set[int], bool]:
    """The reduced dimensions, and whether they stay with size 1."""
    rank, listed = len(call.traced().shape), axes(call, None)
    if not listed:
        listed = () if call.node.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return {fixed.axis_of(axis, rank) for axis in listed}, bool(call.node.integer("keepdims", 1))


def _mean(call: Call) -> TracedValue:
    if call.type() in RANGES:  # integer division rounds towards zero
        return call.other("floor_mean", _reduced(call.traced().shape, *_gone(call)), call.traced())
    return mean_over(call.b, call.traced(), *_gone(call))


def _sum(call: Call) -> TracedValue:
    return sum_over(call.b, call.traced(), *_gone(call))


def _reduced(shape: Shape, gone: set[int], keep: bool) -> Shape:
    return tuple(1 if d in gone else n for d, n in enumerate(shape) if keep or d not in gone)


def _reduce(name: str) -> Handler:
    return lambda call: call.other(name, _reduced(call.traced().shape, *_gone(call)), call.traced())


def _arg(name: str) -> Handler:
    def handler(call: Call) -> TracedValue:
        shape = call.traced().shape
        gone = {fixed.axis_of(call.node.integer("axis", 0), len(shape))}
        return call.other(name, _reduced(shape, gone, bool(call.node.integer("keepdims", 1))), call.traced())

    return handler


REDUCTIONS: dict[str, Handler] = {
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "ReduceMax": _reduce("amax"),
    "ReduceMin": _reduce("amin"),
    "ReduceProd": _reduce("prod"),
    "ReduceL1": _reduce("norm"),
    "ReduceL2": lambda call: root_of_squares(call.b, call.traced(), *_gone(call)),
    "ReduceSumSquare": lambda call: sum_over(call.b, squared(call.b, call.traced()), *_gone(call)),
    "ReduceLogSumExp": _reduce("logsumexp"),
    "ReduceLogSum": _reduce("log_sum"),
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
}
