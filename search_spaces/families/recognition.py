"""Recognise networks of a search space by their graphs: which architecture a graph is, whoever built it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families import ofa_mbv3, ofa_resnet, proxylessnas
from gennape.search_spaces.families.nb301_reading import read_cells
from gennape.search_spaces.families.ofa_units import LAYERS
from gennape.search_spaces.families.space import Architecture, SearchSpace
from gennape.search_spaces.graphs.blocks import make_divisible
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import Column, PackedGraphs, topological_levels
from gennape.search_spaces.graphs.normal_form import normal_form
from gennape.search_spaces.graphs.ops import Op

#: Reads an architecture off one graph, given its convolutions on maps from the input on. The result need not be right,
#: since it is checked; raises one of :data:`_UNREADABLE` where it finds none.
Reader = Callable[[PackedGraphs, Int64[np.ndarray, "k a"]], Architecture]

_UNREADABLE = (InvalidArchitectureError, ValueError, IndexError, KeyError)
_ENDS = (Op.INPUT, Op.LINEAR)


def recognise(space: SearchSpace, graphs: PackedGraphs) -> tuple[Int64[np.ndarray, "g k"], Bool[np.ndarray, " g"]]:
    """The genomes of the graphs [g] that are networks of ``space``, and which are.

    ``graphs`` are in their normal form. An architecture is read off each graph and built anew: only a graph that is the
    same network, by its canonical hash, is recognised. Genomes of the others are 0. No graph is recognised of a space
    without a reader.
    """
    genomes, found = np.zeros((len(graphs), len(space.genes)), np.int64), np.zeros(len(graphs), bool)
    read = READERS.get(space.name)
    rows = np.flatnonzero(alike(space, graphs)) if read is not None else np.arange(0)
    if read is None or not len(rows):
        return genomes, found
    chosen = graphs.take(rows)
    for row, one, layers in zip(rows.tolist(), range(len(rows)), _convolutions(chosen), strict=True):
        try:
            genomes[row] = space.decode(read(chosen.take(np.array([one])), layers))
        except _UNREADABLE:
            continue
        found[row] = True
    rows = np.flatnonzero(found)
    if len(rows):
        found[rows] = same_networks(graphs.take(rows), normal_form(space.graphs(genomes[rows])))
    genomes[~found] = 0
    return genomes, found


def same_networks(one: PackedGraphs, other: PackedGraphs) -> Bool[np.ndarray, " g"]:
    """Which graphs of two sets of equal length are the same network: those of equal arrays, or of equal hashes."""
    same = np.diff(one.node_offsets) == np.diff(other.node_offsets)
    parts = ((one.nodes, other.nodes), (one.scalars, other.scalars), (one.edges, other.edges))
    if same.all() and all(np.array_equal(a, b) for a, b in parts):
        return same
    rows = np.flatnonzero(same)
    if len(rows):
        pairs = zip(canonical_hashes(one.take(rows)), canonical_hashes(other.take(rows)), strict=True)
        same[rows] = [a == b for a, b in pairs]
    return same


def alike(space: SearchSpace, graphs: PackedGraphs) -> Bool[np.ndarray, " g"]:
    """Graphs that have one input and one classifier, as wide as those of ``space``: a quick test."""
    wanted = _ends(normal_form(space.graphs(np.zeros((1, len(space.genes)), np.int64))))[0]
    return np.asarray((_ends(graphs) == wanted).all(1))


def _ends(graphs: PackedGraphs) -> Int64[np.ndarray, "g 4"]:
    """Inputs and their channels, classifiers and theirs, of each graph."""
    owner, columns = graphs.graph_index, []
    for end in _ENDS:
        there = graphs.nodes[:, Column.OP] == end
        columns += [np.bincount(owner, what * there, len(graphs)) for what in (1, graphs.nodes[:, Column.C_OUT])]
    return np.stack(columns, axis=1).astype(np.int64)


def _convolutions(graphs: PackedGraphs) -> list[Int64[np.ndarray, "k a"]]:
    """The rows of each graph's convolutions on maps, those nearest to the input first."""
    depth = np.zeros(len(graphs.nodes), np.int64)
    for i, level in enumerate(topological_levels(graphs)):
        depth[level] = i
    nodes = graphs.nodes
    rows = np.flatnonzero(np.isin(nodes[:, Column.OP], (Op.CONV, Op.DEPTHWISE)) & (nodes[:, Column.H_OUT] > 1))
    rows = rows[np.lexsort((depth[rows], graphs.graph_index[rows]))]
    bounds = np.searchsorted(graphs.graph_index[rows], np.arange(1, len(graphs)))
    return [nodes[part].astype(np.int64) for part in np.split(rows, bounds)]


def _units(channels: tuple[int, ...]) -> Reader:
    """Reads inverted bottlenecks: after three convolutions come (expand, depthwise, project), and one is last.

    ``channels``: of the output of each unit, no two alike.
    """
    expansions = sorted({e for e, _ in LAYERS})

    def read(_: PackedGraphs, layers: Int64[np.ndarray, "k a"]) -> Architecture:
        blocks = layers[3:-1].reshape(-1, 3, layers.shape[1])
        hidden, kernel = blocks[:, 1, Column.C_OUT].tolist(), blocks[:, 1, Column.KERNEL_H].tolist()
        before = blocks[:, 0, Column.C_IN].tolist()
        units: list[list[list[int]]] = [[] for _ in channels]
        for c, h, k, out in zip(before, hidden, kernel, blocks[:, 2, Column.C_OUT].tolist(), strict=True):
            e = min(expansions, key=lambda e: abs(make_divisible(c * e) - h))
            units[channels.index(out)].append([e, k])
        return {"resolution": 2 * int(layers[0, Column.H_OUT]), "units": units}

    return read


def _bottlenecks(graph: PackedGraphs, layers: Int64[np.ndarray, "k a"]) -> Architecture:
    """Reads bottlenecks: each has one 3x3 convolution, which its projection follows; the stem has two or three."""
    spatial = np.flatnonzero(layers[:, Column.KERNEL_H] == 3)
    side = layers[spatial, Column.H_OUT]
    stem, blocks = spatial[side == side[0]], spatial[side < side[0]]
    middle, out = layers[stem[0], Column.C_OUT], layers[stem[-1], Column.C_OUT]
    sides = sorted(set(side[side < side[0]].tolist()), reverse=True)
    width = [_nearest(middle, [make_divisible(make_divisible(64 * m) // 2) for m in ofa_resnet.MULTIPLIERS])]
    width.append(_nearest(out, [make_divisible(64 * m) for m in ofa_resnet.MULTIPLIERS]))
    expand = []
    for unit, channels in zip(sides, ofa_resnet.CHANNELS, strict=True):
        rows = blocks[layers[blocks, Column.H_OUT] == unit]
        c_out = int(layers[rows[0] + 1, Column.C_OUT])
        width.append(_nearest(c_out, [make_divisible(channels * m) for m in ofa_resnet.MULTIPLIERS]))
        middles = [make_divisible(round(c_out * e)) for e in ofa_resnet.EXPANSIONS]
        expand.append([ofa_resnet.EXPANSIONS[_nearest(c, middles)] for c in layers[rows, Column.C_OUT].tolist()])
    resolution = int(graph.nodes[graph.nodes[:, Column.OP] == Op.INPUT, Column.H_OUT][0])
    return {"resolution": resolution, "stem_residual": len(stem) == 3, "width": width, "expand": expand}


def _nearest(value: float, values: list[int]) -> int:
    return int(np.argmin([abs(value - one) for one in values]))


READERS: Mapping[str, Reader] = {
    "ofa_mbv3": _units(tuple(c for c, *_ in ofa_mbv3.UNITS)),
    "proxylessnas": _units(tuple(c for c, _ in proxylessnas.UNITS)),
    "ofa_resnet": _bottlenecks,
    "nb301": lambda graph, _: read_cells(graph),
}
