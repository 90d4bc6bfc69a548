"""Passes that both importers apply, so that a network becomes the same graph however it was written.

Each pass changes rows and edges but keeps the order of nodes; nodes that are no longer used are removed at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Int32, Int64

from gennape.search_spaces.graphs.columns import Column
from gennape.search_spaces.graphs.graph import ComputationGraph
from gennape.search_spaces.graphs.operations import other_kind
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.imported import without_dead_ends

#: Elementwise operations, which work in any layout.
_ANY_LAYOUT = (
    *(Op.RELU, Op.RELU6, Op.SIGMOID, Op.TANH, Op.SWISH, Op.GELU, Op.HARDSIGMOID, Op.LEAKYRELU),
    *(Op.IDENTITY, Op.SCALE, Op.SHIFT, Op.PAD, Op.OTHER),
)
_CHANNELS_FIRST = (2, 0, 1)  # axes of [height, width, channels] in the order channels, height, width
_PERMUTED = 9 * 2 + 3 * 0 + 1
_MAX_COLOURS = 4
_REARRANGED = other_kind("rearrange")
_TRIPLES = (Column.C_IN, Column.C_OUT, Column.OFFSET_C)
_OUT = slice(Column.C_OUT, Column.W_OUT + 1)
_IN = slice(Column.C_IN, Column.W_IN + 1)


def tidied(graph: ComputationGraph) -> tuple[ComputationGraph, Int64[np.ndarray, " k"]]:
    """Apply all passes; the last node is the output. Returns the graph and the indices of kept nodes."""
    for one_pass in PASSES:
        graph = one_pass(graph)
    return without_dead_ends(graph)


def with_channels_first(graph: ComputationGraph) -> ComputationGraph:
    """Turn an image with channels last, which the network permutes before its first layer, into channels first.

    The layout of the image is not part of the network. A permutation of height and width is, and so is one that turns
    columns into channels of an image whose sizes say channels first. Channels are few: at most four, fewer than pixels
    in a row, or the one size that differs.
    """
    (image,) = np.flatnonzero(graph.nodes[:, Column.OP] == Op.INPUT).tolist()
    first, second, last = graph.nodes[image, _OUT].tolist()
    is_last = last <= _MAX_COLOURS or last < min(first, second) or first == second != last
    if not is_last or first <= _MAX_COLOURS < last:
        return graph
    found = _before_the_turn(graph, image)
    if found is None:
        return graph
    moved, turns = found
    nodes, edges = graph.nodes.copy(), graph.edges.copy()
    for node in moved:
        if nodes[node, Column.OP] in (Op.SCALE, Op.SHIFT):
            kind = int(nodes[node, Column.KIND])
            nodes[node, Column.KIND] = sum((kind >> axis & 1) << place for place, axis in enumerate(_CHANNELS_FIRST))
        for triple in _TRIPLES:
            nodes[node, triple : triple + 3] = nodes[node, [triple + axis for axis in _CHANNELS_FIRST]]
    for turn in turns:
        (source,) = edges[edges[:, 1] == turn, 0]
        edges[edges[:, 0] == turn, 0] = source
    return replace(graph, nodes=nodes, edges=edges)


def _before_the_turn(graph: ComputationGraph, image: int) -> tuple[list[int], list[int]] | None:
    """The image with the nodes that work in any layout, and the permutations that follow; None if others follow."""
    consumers: list[list[int]] = [[] for _ in graph.nodes]
    inputs = np.bincount(graph.edges[:, 1], minlength=graph.n_nodes)
    for source, target in graph.edges.tolist():
        consumers[source].append(target)
    moved, turns, waiting = [image], set[int](), [image]
    while waiting:
        for node in consumers[waiting.pop()]:
            row = graph.nodes[node]
            if _is_turn(row):
                turns.add(node)
            elif row[Column.OP] in _ANY_LAYOUT and inputs[node] == 1 and _keeps_axes(row):
                moved.append(node)
                waiting.append(node)
            else:
                return None
    return (moved, sorted(turns)) if turns else None


def _is_turn(row: Int32[np.ndarray, " a"]) -> bool:
    """Whether a node moves the last axis to the front; for a single channel, a reshape does so."""
    taken, made = row[_IN].tolist(), row[_OUT].tolist()
    if row[Column.OP] == Op.RESHAPE:
        return bool(taken[2] == 1 and made == [taken[axis] for axis in _CHANNELS_FIRST])
    return bool(row[Column.OP] == Op.PERMUTE and row[Column.KIND] == _PERMUTED)


def _keeps_axes(row: Int32[np.ndarray, " a"]) -> bool:
    """Whether a node with one input treats all axes alike."""
    if row[Column.OP] == Op.PAD:
        return bool(row[Column.KIND] == 0)
    return bool((row[_IN] == row[_OUT]).all())


def with_result_as_made(graph: ComputationGraph) -> ComputationGraph:
    """Drop permutations, views, squeezes and flattening after the last operation."""
    nodes, edges = graph.nodes.copy(), graph.edges.copy()
    output = graph.n_nodes - 1
    (into,) = np.flatnonzero(edges[:, 1] == output)
    while True:
        last = edges[into, 0]
        named = nodes[last, Column.OP] == Op.OTHER and nodes[last, Column.KIND] == _REARRANGED
        if not named and nodes[last, Column.OP] not in (Op.PERMUTE, Op.RESHAPE, Op.IDENTITY):
            break
        edges[into, 0] = edges[edges[:, 1] == last, 0][0]
    nodes[output, _IN] = nodes[output, _OUT] = nodes[edges[into, 0], _OUT]
    return replace(graph, nodes=nodes, edges=edges)


def with_whole_slices(graph: ComputationGraph) -> ComputationGraph:
    """Merge slices of slices into one; exporters write one per axis."""
    nodes, edges = graph.nodes.copy(), graph.edges.copy()
    slices = np.flatnonzero(nodes[:, Column.OP] == Op.SLICE)
    into = {int(edges[edge, 1]): int(edge) for edge in np.flatnonzero(np.isin(edges[:, 1], slices))}
    for node in slices.tolist():  # in order of execution, so that its input is merged already
        first = int(edges[into[node], 0])
        if first not in into:
            continue
        steps = np.array([1, *nodes[first, [Column.STRIDE_H, Column.STRIDE_W]]])
        nodes[node, Column.OFFSET_C : Column.OFFSET_W + 1] *= steps.astype(np.int32)
        nodes[node, Column.OFFSET_C : Column.OFFSET_W + 1] += nodes[first, Column.OFFSET_C : Column.OFFSET_W + 1]
        nodes[node, [Column.STRIDE_H, Column.STRIDE_W]] *= steps[1:].astype(np.int32)
        nodes[node, _IN] = nodes[first, _IN]
        edges[into[node], 0] = edges[into[first], 0]
    return replace(graph, nodes=nodes, edges=edges)


#: All passes, in order.
PASSES: tuple[Callable[[ComputationGraph], ComputationGraph], ...] = (
    with_channels_first,
    with_whole_slices,
    with_result_as_made,
)
