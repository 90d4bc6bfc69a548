"""Fuse operators that an exporter decomposed: swish, GELU, normalisations, a matrix and its bias.

A pattern matches only if all its nodes and constants do, and no other node uses its intermediate values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.decimals import shortest
from gennape.search_spaces.importing.onnx_nodes.dimensions import whole_numbers
from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.links import OnnxLinks, close, is_whole, other
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode

#: Domain of fused operators, which files cannot use.
FUSED = "fused"


#: The nodes of a pattern, the last of which makes its result, and the fused node.
_Found = tuple[list[OnnxNode], OnnxNode]


def fuse(nodes: list[OnnxNode], constants: dict[str, Constant], output: str) -> list[OnnxNode]:
    """The nodes with every pattern replaced by one node, in order of execution."""
    links = OnnxLinks(nodes, constants, output)
    gone: set[int] = set()
    made: dict[int, OnnxNode] = {}
    for node in nodes:
        for pattern in _PATTERNS.get(node.op, ()) if is_whole(node) else ():
            found = None if id(node) in gone else pattern(links, node)
            if found and not gone.intersection(map(id, found[0])):
                gone.update(map(id, found[0]))
                made[id(found[0][-1])] = found[1]
    return [made.get(id(node), node) for node in nodes if id(node) not in gone or id(node) in made]


def _swish(links: OnnxLinks, sigmoid: OnnxNode) -> _Found | None:
    product = links.next(sigmoid)
    if product is None or product.op != "Mul" or other(product, sigmoid.outputs[0]) != sigmoid.inputs[0]:
        return None
    return [sigmoid, product], OnnxNode("Swish", product.name, sigmoid.inputs, product.outputs, domain=FUSED)


def _half_product(links: OnnxLinks, gate: OnnxNode, x: str) -> list[OnnxNode] | None:
    """The products that compute gate · x / 2, in any order."""
    parts, node, has_x, has_half = [], gate, False, False
    while not (has_x and has_half):
        product = links.next(node)
        if product is None or product.op not in ("Mul", "Div"):
            return None
        operand = other(product, node.outputs[0]) or ""
        factor = links.scalar(operand)
        if factor is not None and not has_half and close(factor, 0.5 if product.op == "Mul" else 2.0):
            has_half = _after_if_divided(product, node)
        elif operand == x and not has_x and product.op == "Mul":
            has_x = True
        elif not has_x and not has_half and product.op == "Mul" and (half := links.maker(operand, "Mul", "Div")):
            if half.op == "Div" and half.inputs[0] != x:
                return None
            scaled = links.with_scalar(half)
            if scaled is None or scaled[0] != x or not close(scaled[1], 0.5 if half.op == "Mul" else 2.0):
                return None
            parts.append(half)
            has_x = has_half = True
        else:
            return None
        parts.append(product)
        node = product
    return parts if has_half else None


def _after_if_divided(product: OnnxNode, node: OnnxNode) -> bool:
    return product.op == "Mul" or product.inputs[0] == node.outputs[0]


def _gelu(links: OnnxLinks, erf: OnnxNode) -> _Found | None:
    """x · (1 + erf(x / √2)) / 2."""
    scaled = links.maker(erf.inputs[0], "Mul", "Div")
    argument = links.with_scalar(scaled) if scaled else None
    if scaled is None or argument is None:
        return None
    if not close(argument[1], math.sqrt(0.5) if scaled.op == "Mul" else math.sqrt(2)):
        return None
    return _gelu_of(links, erf, argument[0], [scaled, erf], 0)


def _gelu_of(links: OnnxLinks, curve: OnnxNode, x: str, parts: list[OnnxNode], tanh: int) -> _Found | None:
    one = links.next(curve)
    if one is None or one.op != "Add" or not close(links.scalar(other(one, curve.outputs[0]) or ""), 1.0):
        return None
    products = _half_product(links, one, x)
    if products is None:
        return None
    last = products[-1]
    whole = OnnxNode("Gelu", last.name, (x,), last.outputs, {"approximate": "tanh" if tanh else "none"})
    return [*parts, one, *products], whole


def _gelu_tanh(links: OnnxLinks, tanh: OnnxNode) -> _Found | None:
    """x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2."""
    outer = links.maker(tanh.inputs[0], "Mul")
    scaled = links.with_scalar(outer) if outer else None
    if outer is None or scaled is None or not close(scaled[1], math.sqrt(2 / math.pi)):
        return None
    total = links.maker(scaled[0], "Add")
    for x, term in (total.inputs, total.inputs[::-1]) if total and len(total.inputs) == 2 else ():
        product = links.maker(term, "Mul")
        cubic = links.with_scalar(product) if product else None
        if total is None or product is None or cubic is None or not close(cubic[1], 0.044715):
            continue
        cube = _cube(links, cubic[0], x)
        if cube:
            return _gelu_of(links, tanh, x, [*cube, product, total, outer, tanh], 1)
    return None


def _cube(links: OnnxLinks, name: str, x: str) -> list[OnnxNode] | None:
    """The nodes that compute x³."""
    power = links.maker(name, "Pow")
    if power:
        return [power] if power.inputs[0] == x and close(links.scalar(power.inputs[1]), 3.0) else None
    product = links.maker(name, "Mul")
    square = links.maker(other(product, x) or "", "Mul") if product else None
    return [square, product] if square and product and square.inputs == (x, x) else None


def _deviation(
    links: OnnxLinks, root: OnnxNode
) -> tuple[OnnxNode | None, tuple[str, float] | None, OnnxNode | None, OnnxNode | None, OnnxNode | None]:
    """The nodes under sqrt(mean((x - m)²) + ε): the sum and its operands, the mean, the square, the difference."""
    total = links.maker(root.inputs[0], "Add")
    shifted = links.with_scalar(total) if total else None
    variance = links.maker(shifted[0], "ReduceMean") if shifted else None
    square = links.maker(variance.inputs[0], "Pow", "Mul") if variance else None
    centred = links.maker(square.inputs[0], "Sub", only=False) if square else None
    return total, shifted, variance, square, centred


def _layernorm(links: OnnxLinks, root: OnnxNode) -> _Found | None:
    """(x - mean) / sqrt(mean((x - mean)²) + ε), with an optional learnt scale and shift."""
    total, shifted, variance, square, centred = _deviation(links, root)
    mean = links.maker(centred.inputs[1], "ReduceMean") if centred and len(centred.inputs) == 2 else None
    if not (total and shifted and variance and square and centred and mean):
        return None
    ratio = links.next(root)
    value = centred.outputs[0]
    squares = square.inputs == (value, value) if square.op == "Mul" else close(links.scalar(square.inputs[1]), 2.0)
    if ratio is None or ratio.op != "Div" or ratio.inputs != (value, root.outputs[0]) or not squares:
        return None
    used = links.takers(value)
    if mean.inputs[0] != centred.inputs[0] or any(node not in (square, ratio) for node in used) or not used:
        return None
    axes = {_last_axes(links, mean), _last_axes(links, variance)}
    if len(axes) != 1 or None in axes:
        return None
    normalised = axes.pop() or ()
    extra, learnt = _affine(links, ratio, lambda shape: len(shape) <= len(normalised))
    parts = [mean, centred, square, variance, total, root, ratio, *extra]
    attributes = {"axis": min(normalised), "epsilon": shortest(shifted[1])}
    whole = OnnxNode("LayerNormalization", parts[-1].name, (mean.inputs[0], *learnt), parts[-1].outputs, attributes)
    return parts, whole


def _layernorm_by_reciprocal(links: OnnxLinks, root: OnnxNode) -> _Found | None:
    """TensorFlow's form: d · g / sqrt(mean(d²) + ε), or x · f + (b - mean · f) with f = g / sqrt(...)."""
    total, shifted, variance, square, centred = _deviation(links, root)
    mean = links.maker(centred.inputs[1], "ReduceMean", only=False) if centred else None
    inverse = links.next(root)
    if not (total and shifted and variance and square and centred and mean and inverse) or inverse.op != "Reciprocal":
        return None
    d, x = centred.outputs[0], centred.inputs[0]
    squares = square.inputs == (d, d) if square.op == "Mul" else close(links.scalar(square.inputs[1]), 2.0)
    axes = {_axes(links, mean), _axes(links, variance)}
    if not squares or mean.inputs[0] != x or len(axes) != 1 or None in axes:
        return None
    parts, names, factor = [mean, centred, square, variance, total, root, inverse], ["", ""], inverse
    following = links.next(factor)
    gain = other(following, factor.outputs[0]) if following and following.op == "Mul" else None
    if following and gain and links.constant(gain) is not None:
        parts, names[0], factor = [*parts, following], gain, following
    rest = _centred_product(links, factor, d) or _shifted_product(links, factor, x, mean.outputs[0])
    if rest is None:
        return None
    parts, names[1] = [*parts, *rest[0]], rest[1]
    inner = {id(node) for node in parts}
    if any(id(node) not in inner for part in parts[:-1] for node in links.takers(part.outputs[0])):
        return None
    last, attributes = parts[-1], {"axes": axes.pop(), "epsilon": shortest(shifted[1])}
    return parts, OnnxNode("Normalised", last.name, (x, *names), last.outputs, attributes, FUSED)


def _centred_product(links: OnnxLinks, factor: OnnxNode, d: str) -> tuple[list[OnnxNode], str] | None:
    """d · f, plus an optional constant."""
    product = links.next(factor)
    if product is None or product.op != "Mul" or other(product, factor.outputs[0]) != d:
        return None
    total = links.next(product)
    bias = other(total, product.outputs[0]) if total and total.op == "Add" else None
    if total and bias and links.constant(bias) is not None:
        return [product, total], bias
    return [product], ""


def _shifted_product(links: OnnxLinks, factor: OnnxNode, x: str, mean: str) -> tuple[list[OnnxNode], str] | None:
    """x · f + (b - mean · f), or x · f - mean · f."""
    f, takers = factor.outputs[0], links.takers(factor.outputs[0])
    scaled = next((node for node in takers if node.op == "Mul" and other(node, f) == x), None)
    moved = next((node for node in takers if node.op == "Mul" and other(node, f) == mean), None)
    if scaled is None or moved is None or len(takers) != 2:
        return None
    last = links.next(scaled)
    if last and last.op == "Sub" and last.inputs == (scaled.outputs[0], moved.outputs[0]):
        return [scaled, moved, last], ""
    shift = links.next(moved)
    bias = shift.inputs[0] if shift and shift.op == "Sub" and shift.inputs[1] == moved.outputs[0] else ""
    whole = last and last.op == "Add" and shift and other(last, scaled.outputs[0]) == shift.outputs[0]
    if not (last and shift and whole and links.constant(bias) is not None):
        return None
    return [scaled, moved, shift, last], bias


def _axes(links: OnnxLinks, node: OnnxNode) -> tuple[int, ...] | None:
    """The axes of a mean that keeps its dimensions."""
    try:
        axes = node.integers("axes", ())
        if not axes and len(node.inputs) == 2:
            axes = whole_numbers(links.constant(node.inputs[1]), "axes")
        return tuple(sorted(axes)) if node.integer("keepdims", 1) and axes else None
    except InvalidGraphError:
        return None  # not this pattern; the operator's handler reports the error


def _last_axes(links: OnnxLinks, node: OnnxNode) -> tuple[int, ...] | None:
    """The axes of a mean that keeps its dimensions, if they are the last ones, counted from the back."""
    try:
        axes = node.integers("axes", ())
        if not axes and len(node.inputs) == 2:
            axes = whole_numbers(links.constant(node.inputs[1]), "axes")
        kept = node.integer("keepdims", 1)
    except InvalidGraphError:
        return None  # not this pattern; the operator's handler reports the error
    return axes if kept and sorted(axes) == list(range(-len(axes), 0)) and axes else None


def _affine(
    links: OnnxLinks, node: OnnxNode, fits: Callable[[tuple[int, ...]], bool]
) -> tuple[list[OnnxNode], list[str]]:
    """The learnt scale and shift that may follow a normalisation: their nodes, and the names of the tensors.

    ``fits`` checks the shape of a tensor without leading ones.
    """
    parts: list[OnnxNode] = []
    names: list[str] = []
    for op in ("Mul", "Add"):
        following = links.next(parts[-1] if parts else node)
        name = other(following, (parts[-1] if parts else node).outputs[0]) if following else None
        learnt = links.constant(name) if name else None
        if following is None or following.op != op or name is None or learnt is None or math.prod(learnt.shape) < 2:
            break
        significant = next(i for i, n in enumerate(learnt.shape) if n != 1)
        if not fits(learnt.shape[significant:]):
            break
        parts.append(following)
        names.append(name)
    return parts, names


def _groupnorm(links: OnnxLinks, norm: OnnxNode) -> _Found | None:
    """Instance normalisation between a Reshape that groups channels and one that ungroups them."""
    before, after = links.maker(norm.inputs[0], "Reshape"), links.next(norm)
    groups = links.constant(norm.inputs[1]) if len(norm.inputs) == 3 else None
    if before is None or after is None or after.op != "Reshape" or groups is None or len(groups.shape) != 1:
        return None
    if not _neutral(links, norm) or not _is_one_map(links, before):
        return None
    extra, learnt = _affine(links, after, lambda shape: set(shape[1:]) <= {1})
    if len(learnt) == 1:  # group normalisation learns both scale and shift, or neither
        extra, learnt = [], []
    parts = [before, norm, after, *extra]
    names = (before.inputs[0], before.inputs[1], after.inputs[1], *learnt)
    attributes = {"num_groups": groups.shape[0], "epsilon": norm.real("epsilon", 1e-5)}
    return parts, OnnxNode("GroupNorm", parts[-1].name, names, parts[-1].outputs, attributes, FUSED)


def _is_one_map(links: OnnxLinks, reshape: OnnxNode) -> bool:
    """Whether a Reshape keeps a batch of one, or its shape is unknown; several maps are normalised separately."""
    shape = links.constant(reshape.inputs[1])
    return shape is None or shape.values is None or not shape.values.size or int(shape.values.reshape(-1)[0]) in (0, 1)


def _neutral(links: OnnxLinks, norm: OnnxNode) -> bool:
    """Whether a normalisation's own scale is 1 and its shift 0."""
    scale, shift = (links.constant(name) for name in norm.inputs[1:])
    known = scale is not None and shift is not None and scale.values is not None and shift.values is not None
    return bool(known and (scale.values == 1).all() and (shift.values == 0).all())  # type: ignore[union-attr]


def _linear(links: OnnxLinks, product: OnnxNode) -> _Found | None:
    """A product with a constant matrix plus a vector as long as its result."""
    matrix, total = links.constant(product.inputs[1]) if len(product.inputs) == 2 else None, links.next(product)
    if matrix is None or len(matrix.shape) != 2 or total is None or total.op != "Add":
        return None
    name = other(total, product.outputs[0]) or ""
    bias = links.constant(name)
    if bias is None or math.prod(bias.shape) != matrix.shape[1] or bias.shape[-1:] != matrix.shape[1:]:
        return None
    whole = OnnxNode("Linear", total.name, (*product.inputs, name), total.outputs, domain=FUSED)
    return [product, total], whole


def _regroup(links: OnnxLinks, transpose: OnnxNode) -> _Found | None:
    """Reshape, Transpose of six dimensions, Reshape: exporters write space-to-depth and depth-to-space that way."""
    before, after = links.maker(transpose.inputs[0], "Reshape"), links.next(transpose)
    perm = transpose.attributes.get("perm")
    if before is None or after is None or after.op != "Reshape" or not isinstance(perm, tuple) or len(perm) != 6:
        return None
    if any(node.attributes.get("allowzero") or len(node.inputs) != 2 for node in (before, after)):
        return None
    names = (*before.inputs, after.inputs[1])
    whole = OnnxNode("Regroup", after.name, names, after.outputs, {"perm": perm}, FUSED)
    return [before, transpose, after], whole


_PATTERNS: dict[str, tuple[Callable[[OnnxLinks, OnnxNode], _Found | None], ...]] = {
    "Sigmoid": (_swish,),
    "Erf": (_gelu,),
    "Tanh": (_gelu_tanh,),
    "Sqrt": (_layernorm, _layernorm_by_reciprocal),
    "InstanceNormalization": (_groupnorm,),
    "MatMul": (_linear,),
    "Transpose": (_regroup,),
}
