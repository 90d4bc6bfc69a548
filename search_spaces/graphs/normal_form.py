"""The normal form that predictors read: networks that compute the same function have the same form.

Exporters fold normalisations into convolutions, append a softmax to a network or prepend a scaling. That changes the
graph, and rightly its hash and parameters, but not the function, so it must not change a prediction either. The passes
below bring all variants to one form. Graphs of the search spaces here already have it, except that a convolution with
both a bias and a normalisation loses its bias.

A folded convolution cannot be distinguished from one that always had a bias. So a bias on a map counts as a
normalisation, and a normalisation of a vector (1 x 1) counts as a bias, as squeeze-and-excitation and classifiers use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int32, Int64

from gennape.search_spaces.graphs.columns import Column
from gennape.search_spaces.graphs.graph import PackedGraphs
from gennape.search_spaces.graphs.operations import node, other_kind
from gennape.search_spaces.graphs.ops import WEIGHTED, Op
from gennape.search_spaces.graphs.rewriting import Links, resolved, shared_out, with_nodes, without_nodes

_BLANK = node(Op.BATCHNORM, (1, 1, 1), (1, 1, 1)).nodes[0]
_SIZES_IN, _SIZES_OUT = slice(Column.C_IN, Column.W_IN + 1), slice(Column.C_OUT, Column.W_OUT + 1)


def _table(*ops: Op) -> Bool[np.ndarray, " o"]:
    """By number of an operation whether it is one of these: far faster to look up than to search."""
    return np.isin(np.arange(max(Op) + 1), ops)


_LEARNT = _table(Op.SCALE, Op.SHIFT)
_WEIGHTED = _table(*WEIGHTED)
_ON_MAPS = _table(*(op for op in WEIGHTED if op != Op.LINEAR))
_BEGINNING = _table(Op.CONV, Op.DEPTHWISE, Op.SLICE)
_PADDED = _table(Op.CONV, Op.DEPTHWISE)
_RECTIFIERS = _table(Op.RELU, Op.RELU6)
_NOT_BELOW_ZERO = _table(Op.RELU, Op.RELU6, Op.SIGMOID, Op.HARDSIGMOID, Op.SOFTMAX)
_ACTIVATIONS = _table(Op.RELU, Op.RELU6, Op.SWISH, Op.GELU, Op.TANH, Op.LEAKYRELU)
_FRONTS = _table(Op.SCALE, Op.SHIFT, Op.BATCHNORM, Op.OTHER)
#: Operations that, at the end of a network, only change how a classifier's result is read.
_HEADS = _table(Op.SOFTMAX, Op.SIGMOID, Op.IDENTITY, Op.RESHAPE, Op.PERMUTE)
_OTHER_HEADS = tuple(other_kind(name) for name in ("log_softmax", "LogSoftmax", "logsigmoid", "log"))
#: Arithmetic with constants, as used to normalise the image.
_OTHER_SCALINGS = tuple(other_kind(name) for name in ("div", "sub", "mul", "add"))
#: Channels up to which importers see whether the bias of a file is zero.
_SEEN_BIAS = 256
#: Padding value of a maximum pool, below any value of a map.
_LOWEST = -1e30


def normal_form(graphs: PackedGraphs) -> PackedGraphs:
    """The graphs in normal form; the same object if all have that form already.

    The result for a graph does not depend on the other graphs of the set. Compute costs on the original graphs.
    """
    for rewrite in PASSES:
        graphs = rewrite(graphs)
    return graphs


def without_identities(graphs: PackedGraphs) -> PackedGraphs:
    """Remove operations without effect: identities, times one, plus zero."""
    op = graphs.nodes[:, Column.OP]
    gone, learnt = op == Op.IDENTITY, np.flatnonzero(_LEARNT[op])
    neutral = np.where(op[learnt] == Op.SCALE, 1.0, 0.0)
    gone[learnt] = (graphs.nodes[learnt, Column.KIND] == 0) & (graphs.scalars[learnt] == neutral)
    return without_nodes(graphs, gone)


def without_input_scaling(graphs: PackedGraphs) -> PackedGraphs:
    """Remove the normalisation of the image before the first layer, which only depends on the units of pixels."""
    op = graphs.nodes[:, Column.OP]
    source, target = graphs.edges.T
    if not (_FRONTS[op[target]] & (op[source] == Op.INPUT)).any():
        return graphs
    named = (op == Op.OTHER) & np.isin(graphs.nodes[:, Column.KIND], _OTHER_SCALINGS)
    scaling = _LEARNT[op] | (op == Op.BATCHNORM) | named
    links, gone = Links(graphs), np.zeros(len(op), bool)
    scaling &= (links.fan_in == 1) & (graphs.nodes[:, _SIZES_IN] == graphs.nodes[:, _SIZES_OUT]).all(1)
    front = np.flatnonzero(op == Op.INPUT)
    while len(front):
        front = links.after[front[links.fan_out[front] == 1]]
        front = front[scaling[front]]
        gone[front] = True
    return without_nodes(graphs, gone)


def without_head_activation(graphs: PackedGraphs) -> PackedGraphs:
    """Remove a softmax or a reshaping at the end, which does not change the order of the classes."""
    op = graphs.nodes[:, Column.OP]
    named = op == Op.OTHER
    named[named] = np.isin(graphs.nodes[named, Column.KIND], _OTHER_HEADS)
    activation = _HEADS[op] | named
    if not activation.any():
        return graphs
    links, gone = Links(graphs), np.zeros(len(op), bool)
    activation &= (links.fan_in == 1) & (links.fan_out == 1)
    outputs = front = np.flatnonzero(op == Op.OUTPUT)
    while len(front):
        front = links.before[front]
        front = front[activation[front]]
        gone[front] = True
    if not gone.any():
        return graphs
    last = resolved(links.before, gone)
    nodes = graphs.nodes.copy()
    made = nodes[last[links.before[outputs]], _SIZES_OUT]
    nodes[outputs, _SIZES_IN] = nodes[outputs, _SIZES_OUT] = made
    rewritten = replace(graphs, nodes=nodes)
    return without_nodes(rewritten, gone)


def with_one_rectifier(graphs: PackedGraphs) -> PackedGraphs:
    """Merge a bound of 6 next to a ReLU into a ReLU6, and remove repeated rectifiers."""
    graphs = _with_upper_bounds(graphs)
    op = graphs.nodes[:, Column.OP]
    source, target = graphs.edges.T
    if not (_RECTIFIERS[op[source]] & _RECTIFIERS[op[target]]).any():
        return graphs
    links = Links(graphs)
    first, second = op[links.before], op[links.after]
    again = (op == Op.RELU) & _RECTIFIERS[first] | (op == Op.RELU6) & (first == Op.RELU6)
    bounded_next = (op == Op.RELU) & (links.fan_out == 1) & (second == Op.RELU6)
    gone = again & (links.before != np.arange(len(op))) | bounded_next
    return with_one_rectifier(without_nodes(graphs, gone)) if gone.any() else graphs


def _with_upper_bounds(graphs: PackedGraphs) -> PackedGraphs:
    """Replace min(x, 6) = 6 - relu(6 - x) right before or after a ReLU, together with that ReLU, by a ReLU6."""
    op, plain = graphs.nodes[:, Column.OP], graphs.nodes[:, Column.KIND] == 0
    negated = (op == Op.SCALE) & plain & (graphs.scalars == -1)
    if not negated.any():
        return graphs
    links = Links(graphs)
    raised = (op == Op.SHIFT) & plain & (graphs.scalars == 6)
    chain = [np.flatnonzero(negated & (links.fan_out == 1))]
    for kind in (raised, op == Op.RELU, negated, raised):
        chain.append(links.after[chain[-1]])
        going_on = kind[chain[-1]] & ((links.fan_out[chain[-1]] == 1) | (len(chain) == 5))
        chain = [part[going_on] for part in chain]
    before, behind = links.before[chain[0]], links.after[chain[-1]]
    is_before = (op[before] == Op.RELU) & (links.fan_out[before] == 1)
    is_behind = (op[behind] == Op.RELU) & (links.fan_out[chain[-1]] == 1)
    found = is_before | is_behind
    if not found.any():
        return graphs
    nodes, gone = graphs.nodes.copy(), np.zeros(len(op), bool)
    nodes[np.where(is_before, before, behind)[found], Column.OP] = Op.RELU6
    for part in chain:
        gone[part[found]] = True
    return without_nodes(replace(graphs, nodes=nodes), gone)


def with_padding_in_layers(graphs: PackedGraphs) -> PackedGraphs:
    """Move explicit padding of a map into the layer or pool that follows, as optimisers do.

    The padding must be zeros for a convolution or a mean that counts padding, and :data:`_LOWEST` or below any value
    for a maximum. Layers pad both ends equally, so the excess of one end stays an operation of its own.
    """
    op = graphs.nodes[:, Column.OP]
    pads = (op == Op.PAD) & (graphs.nodes[:, Column.KIND] == 0)
    if not pads.any():
        return graphs
    links = Links(graphs)
    pads &= (links.fan_out == 1) & _taken_as_padding(graphs, links)
    pads &= graphs.nodes[:, Column.C_IN] == graphs.nodes[:, Column.C_OUT]
    nodes, at = graphs.nodes.copy(), np.flatnonzero(pads)
    taker, gone = links.after[at], pads.copy()
    for axis in (1, 2):
        made, taken, offset = (nodes[:, first + axis] for first in (Column.C_OUT, Column.C_IN, Column.OFFSET_C))
        own = nodes[:, Column.PAD_H + axis - 1]
        before = offset[at] + own[taker]
        after = made[at] - taken[at] - offset[at] + own[taker]
        both = np.minimum(before, after)
        own[taker], offset[at] = both, before - both
        made[at] = taken[taker] = taken[at] + before + after - 2 * both
        gone[at] &= before == after
    mean = taker[op[taker] == Op.AVGPOOL]
    nodes[mean, Column.COUNT_PAD] = (nodes[mean, Column.PAD_H] > 0) | (nodes[mean, Column.PAD_W] > 0)
    if np.array_equal(nodes, graphs.nodes):
        return graphs
    moved = replace(graphs, nodes=nodes)
    return with_padding_in_layers(without_nodes(moved, gone))  # the operation before the padding may be padding, too


def _taken_as_padding(graphs: PackedGraphs, links: Links) -> Bool[np.ndarray, " n"]:
    """Whether the only consumer of a node pads with the node's value."""
    taker, kind = graphs.nodes[links.after], links.op[links.after]
    unpadded = (taker[:, Column.PAD_H] == 0) & (taker[:, Column.PAD_W] == 0)
    mean = (kind == Op.AVGPOOL) & (unpadded | (taker[:, Column.COUNT_PAD] == 1)) & (taker[:, Column.CEIL_MODE] == 0)
    largest = (kind == Op.MAXPOOL) & (taker[:, Column.CEIL_MODE] == 0)
    zeros = (_PADDED[kind] | mean | largest & _NOT_BELOW_ZERO[links.op[links.before]]) & (graphs.scalars == 0)
    return zeros | largest & (graphs.scalars <= _LOWEST)


def with_one_normalisation(graphs: PackedGraphs) -> PackedGraphs:
    """Replace all that scales and shifts a layer's channels by one normalisation (maps) or a bias (vectors)."""
    nodes = graphs.nodes
    op, bias = nodes[:, Column.OP], nodes[:, Column.BIAS] > 0
    weighted = _WEIGHTED[op]
    is_map = (nodes[:, Column.H_OUT] > 1) | (nodes[:, Column.W_OUT] > 1)
    on_map = _ON_MAPS[op] & is_map
    if _is_plain(graphs, op, on_map, is_map):
        biased = bias & on_map
        if not biased.any():
            return graphs
        if _normalised_at_once(graphs, op, biased):
            return _without_biases(graphs, biased)
    links = Links(graphs)
    root = _absorbing(graphs, links, weighted)
    absorbed = np.flatnonzero(root >= 0)
    norms = absorbed[(op[absorbed] == Op.BATCHNORM) & on_map[root[absorbed]]]
    normalised, first = np.unique(root[norms], return_index=True)
    gone = root >= 0
    gone[norms[first]] = False
    has_norm, follows = np.zeros((2, len(op)), bool)
    has_norm[normalised] = True
    follows[root[absorbed]] = True
    feeds_norm = np.zeros(len(op), bool)
    feeds_norm[links.source[op[links.target] == Op.BATCHNORM]] = True
    lost = _lost_biases(graphs, links, on_map & ~bias & ~follows, on_map & (feeds_norm | (bias & _tells(nodes))))
    added = on_map & ~has_norm & (bias | follows | lost)
    new_bias = np.where(on_map, False, bias | (weighted & follows))
    if not (gone.any() or added.any() or (new_bias & weighted != bias & weighted).any()):
        return graphs
    nodes = nodes.copy()
    nodes[weighted, Column.BIAS] = new_bias[weighted]
    rewritten = replace(graphs, nodes=nodes)
    position = np.cumsum(~gone) - 1
    return _with_norms(without_nodes(rewritten, gone), position[added])


def with_own_rectifiers(graphs: PackedGraphs) -> PackedGraphs:
    """Give each operation that begins with a rectifier its own one, since exporters merge equal rectifiers of a value.

    Such operations are depthwise convolutions, and convolutions after a concatenation or without a following rectifier.
    Both halves of a reduction by two shifted convolutions share one rectifier and, if there are several, have a slice
    each.
    """
    op = graphs.nodes[:, Column.OP]
    source, target = graphs.edges.T
    several = np.bincount(source, minlength=len(op)) > 1
    slices = np.flatnonzero(several[source] & (op[source] == Op.SLICE) & (op[target] == Op.CONV))
    graphs = shared_out(graphs, slices, slices)
    return shared_out(graphs, *_rectified_together(graphs))


def _rectified_together(graphs: PackedGraphs) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Edges from rectifiers to operations that begin with one, and for each the number of that operation."""
    op = graphs.nodes[:, Column.OP]
    source, target = graphs.edges.T
    several = (op == Op.RELU) & (np.bincount(source, minlength=len(op)) > 1)
    rows = np.flatnonzero(several[source])
    from_, to = source[rows], target[rows]
    if not (_BEGINNING[op[to]]).any():
        return rows[:0], rows[:0]
    links = Links(graphs)
    before, after, alone = links.before, links.after, links.fan_out == 1
    half = np.where(op[to] == Op.SLICE, after[to], to)
    joint = after[half]
    reduction = (op[half] == Op.CONV) & alone[half] & (op[joint] == Op.CONCAT)
    reduction &= np.bincount(joint[reduction], minlength=len(op))[joint] > 1
    # A layer's activation follows its normalisation.
    last = np.where(alone[to] & (op[after[to]] == Op.BATCHNORM), after[to], to)
    then = after[last]
    deep = np.zeros(len(op), bool)
    deep[source[op[target] == Op.DEPTHWISE]] = True
    rectified = alone[to] & alone[last] & _ACTIVATIONS[op[then]] & ~(deep[then] & (op[then] == Op.RELU))
    begins = (op[to] == Op.DEPTHWISE) | ((op[to] == Op.CONV) & ((op[before[from_]] == Op.CONCAT) | ~rectified))
    # A rectifier with another consumer belongs to the operation before it.
    ends = np.zeros(len(op), bool)
    ends[from_[~(reduction | begins)]] = True
    begins = ~ends[from_]
    return rows[begins], np.where(reduction, joint, to)[begins]


#: In this order; each returns its argument itself if there is nothing to change.
PASSES: tuple[Callable[[PackedGraphs], PackedGraphs], ...] = (
    without_identities,
    without_input_scaling,
    without_head_activation,
    with_one_rectifier,
    with_padding_in_layers,
    with_own_rectifiers,
    with_one_normalisation,
)


def _is_plain(
    graphs: PackedGraphs, op: Int32[np.ndarray, " n"], on_map: Bool[np.ndarray, " n"], is_map: Bool[np.ndarray, " n"]
) -> bool:
    """A quick test: each graph has normalised layers, none is normalised twice, and none where a bias suffices."""
    norm = op == Op.BATCHNORM
    if (norm & ~is_map).any() or _LEARNT[op].any():
        return False
    source, target = graphs.edges.T
    into_norm = source[norm[target]]
    before = np.concatenate([[0], np.cumsum(np.bincount(into_norm[on_map[into_norm]], minlength=len(op)))])
    has_layer = np.diff(before[graphs.node_offsets]) > 0
    return bool(has_layer.all()) and not (norm[into_norm] | (op[into_norm] == Op.LINEAR)).any()


def _normalised_at_once(graphs: PackedGraphs, op: Int32[np.ndarray, " n"], layers: Bool[np.ndarray, " n"]) -> bool:
    """Whether the only consumer of each of these layers is one normalisation."""
    source, target = graphs.edges.T
    from_layers = layers[source]
    alone = np.bincount(source[from_layers], minlength=len(op))[layers] == 1
    return bool(alone.all()) and bool((op[target[from_layers]] == Op.BATCHNORM).all())


def _without_biases(graphs: PackedGraphs, layers: Bool[np.ndarray, " n"]) -> PackedGraphs:
    nodes = graphs.nodes.copy()
    nodes[layers, Column.BIAS] = 0
    return replace(graphs, nodes=nodes)


def _absorbing(graphs: PackedGraphs, links: Links, weighted: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """For each node that scales or shifts the channels of exactly one layer, that layer; else -1."""
    op = links.op
    by_channel = _LEARNT[op] & (graphs.nodes[:, Column.KIND] == 1)
    affine = ((op == Op.BATCHNORM) | by_channel) & (links.fan_out[links.before] == 1)
    root = np.where(affine & weighted[links.before], links.before, -1)
    while True:
        further = affine & (root < 0) & (root[links.before] >= 0)
        if not further.any():
            return root
        root[further] = root[links.before][further]


def _tells(nodes: Int32[np.ndarray, "n a"]) -> Bool[np.ndarray, " n"]:
    """Layers whose bias, if any, is known to be non-zero."""
    return np.asarray(nodes[:, Column.C_OUT] <= _SEEN_BIAS)


def _lost_biases(
    graphs: PackedGraphs, links: Links, bare: Bool[np.ndarray, " n"], known: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Layers whose folded normalisation left no bias: exporters omit a bias of zeros, as before training.

    Only in graphs without any normalisation or bias; otherwise those show what was folded. The first half of a
    separable convolution has no normalisation, nor has a layer whose output is concatenated before normalisation.
    """
    if not bare.any():
        return bare
    owner = graphs.graph_index
    stripped = np.bincount(owner[known], minlength=len(graphs)) == 0
    lost = bare & stripped[owner]
    if not lost.any():
        return lost
    after, alone = links.after, links.fan_out == 1
    op = links.op
    pair = alone & ((op == Op.DEPTHWISE) != (op[after] == Op.DEPTHWISE)) & np.isin(op[after], (Op.CONV, Op.DEPTHWISE))
    joined = alone & (op[after] == Op.CONCAT) & (op[after[after]] == Op.BATCHNORM)
    return lost & ~pair & ~joined


def _with_norms(graphs: PackedGraphs, at: Int64[np.ndarray, " k"]) -> PackedGraphs:
    """Insert a batch normalisation right after each of these nodes."""
    if not len(at):
        return graphs
    n = len(graphs.nodes)
    rows = np.repeat(_BLANK[None], len(at), axis=0)
    rows[:, _SIZES_IN] = rows[:, _SIZES_OUT] = graphs.nodes[at, _SIZES_OUT]
    made = np.arange(n)
    made[at] = n + np.arange(len(at))
    edges = np.stack([made[graphs.edges[:, 0]], graphs.edges[:, 1]], axis=1)
    moved = replace(graphs, edges=edges)
    return with_nodes(moved, at, rows, np.full(len(at), 1e-5), np.stack([at, made[at]], axis=1))
