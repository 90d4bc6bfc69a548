"""Find the tensors of the file that a constant was computed from, which may be learnt."""

from __future__ import annotations

import math

from gennape.search_spaces.importing.onnx_nodes.dimensions import Shape, axis_of, need, parts, slices
from gennape.search_spaces.importing.onnx_nodes.file import Constant, Sources, is_written_down, unlearnt
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode

#: Operators with only their first inputs learnable; the others are sizes, positions or bounds. Weight standardisation
#: computes its mean and variance from the weight.
_OF_FIRST = {"Resize": 1, "Pad": 1, "Clip": 1, "Range": 0, "OneHot": 0, "BatchNormalization": 3}
#: Operators that use the shape of their input, not its values.
OF_SHAPES = ("Shape", "Size")
#: Most sources of a constant that are kept apart.
_MAX_SOURCES = 256


def sources_of(node: OnnxNode, xs: list[Constant | None], i: int, shape: Shape) -> Sources:
    """The tensors of the file that result ``i`` of an operator, of ``shape``, was computed from, and their sizes."""
    if node.op in (*OF_SHAPES, "ConstantOfShape"):  # filled tensors are not learnt
        return frozenset()
    taken = xs[: _OF_FIRST.get(node.op, len(xs))]
    present = [x for x in (*taken, node.attributes.get("value")) if isinstance(x, Constant)]
    sources = frozenset[tuple[str, int]]().union(*(x.sources for x in present))
    if node.op == "Constant" and is_written_down(node.outputs[0]):
        return unlearnt(sources)
    if len(sources) > _MAX_SOURCES:
        return frozenset([(f"what {node} is computed of", sum(size for _, size in sources))])
    part = len(sources) == 1 and all(math.prod(shape) < size for _, size in sources)
    place = _place(node, xs, i) if part else None
    return sources if place is None else frozenset([(f"{place} of {node.inputs[0]}", math.prod(shape))])


def _place(node: OnnxNode, xs: list[Constant | None], i: int) -> str | None:
    """A key for the position of a part in its input; None if it is no part. Lookups in a table use it as a whole."""
    shape = need(xs).shape if xs else ()
    if node.op == "Slice":
        return str([(cut.start, cut.stop, cut.step) for cut in slices(node, xs, shape)])
    if node.op == "Split":
        axis = axis_of(node.integer("axis", 0), len(shape))
        return f"part {i} of {parts(node, xs, shape[axis])} along {axis}"
    index = xs[1] if node.op == "Gather" and len(xs) > 1 else None
    if index is None or index.values is None or index.shape != ():
        return None
    return f"{index.values} along {axis_of(node.integer('axis', 0), len(shape))}"
