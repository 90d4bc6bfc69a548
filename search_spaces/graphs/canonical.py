"""Canonical hashes: equal for the same network however its nodes are numbered."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from gennape.search_spaces.graphs.graph import Column, PackedGraphs, offsets_of, topological_levels
from gennape.search_spaces.graphs.ops import ORDERED
from gennape.search_spaces.graphs.weight_sharing import groups_of

# Two independent 64-bit lanes make 128 bits: among 10^9 graphs that refinement distinguishes, the probability of a
# collision is about 10^-21.
_LANES = np.array([0x9E3779B97F4A7C15, 0xD1B54A32D192ED03], np.uint64)


def canonical_hashes(graphs: PackedGraphs) -> list[str]:
    """One hash of 32 hexadecimal digits per graph, invariant to node order and to the order of commuting inputs.

    Colour refinement (Weisfeiler and Leman, 1968): every node is hashed with all its ancestors, then with all its
    descendants; the hash of the graph is that of the multiset of node hashes. Graphs that refinement cannot
    distinguish have the same hash, such as two rings of equal layers and one ring of twice the length; this does not
    occur in the families here. If nodes share weights, the multiset of each group's nodes is added, independent of
    group numbers. Nodes of the same depth are hashed together over all graphs, so hash many graphs in one call.
    """
    if len(graphs) == 0:
        return []
    return [f"{a:016x}{b:016x}" for a, b in _hashes(graphs, _EdgeOrder(graphs)).tolist()]


class _EdgeOrder:
    """Edges sorted by the depth of their target, and by the depth of their source, with the runs of each depth."""

    def __init__(self, graphs: PackedGraphs) -> None:
        levels = topological_levels(graphs)
        rank = np.empty(len(graphs.nodes), np.int64)  # position of each node when sorted by depth
        nodes_by_depth = np.concatenate(levels)
        rank[nodes_by_depth] = np.arange(len(rank))
        self.rank = rank
        self.levels = offsets_of(np.array([len(level) for level in levels]))
        source, target = rank[graphs.edges].T
        port = _ports(graphs)
        forward = np.argsort(target, kind="stable")
        self.incoming = _runs(target[forward], source[forward], port[forward], len(rank))
        backward = np.argsort(source, kind="stable")
        self.outgoing = _runs(source[backward], target[backward], port[backward], len(rank))


def _runs(
    at: Int64[np.ndarray, " e"], other: Int64[np.ndarray, " e"], port: UInt64[np.ndarray, " e"], n: int
) -> tuple[Int64[np.ndarray, " e"], UInt64[np.ndarray, " e"], Int64[np.ndarray, " n1"]]:
    return other, port, offsets_of(np.bincount(at, minlength=n))


def _ports(graphs: PackedGraphs) -> UInt64[np.ndarray, " e"]:
    """Position of each edge among its target's inputs if their order matters, else 0."""
    target = graphs.edges[:, 1]
    order = np.argsort(target, kind="stable")
    starts = offsets_of(np.bincount(target, minlength=len(graphs.nodes)))
    port = np.empty(len(target), np.int64)
    port[order] = np.arange(len(target)) - starts[target[order]]
    ordered = np.isin(graphs.nodes[target, Column.OP], ORDERED)
    return np.where(ordered, port + 1, 0).astype(np.uint64)


def _hashes(graphs: PackedGraphs, edges: _EdgeOrder) -> UInt64[np.ndarray, "g 2"]:
    own = np.empty((len(graphs.nodes), 2), np.uint64)
    own[edges.rank] = _attributes(graphs)
    forward = _sweep(own, edges.incoming, edges.levels, reverse=False)
    both = _sweep(_mix(forward + _LANES), edges.outgoing, edges.levels, reverse=True)
    sizes = np.diff(graphs.node_offsets)
    totals = np.zeros((len(graphs), 2), np.uint64)  # of a graph without nodes
    of_nodes = both[edges.rank]
    totals[sizes > 0] = np.add.reduceat(of_nodes, graphs.node_offsets[:-1][sizes > 0], axis=0)
    tied = graphs.nodes[:, Column.TIED]
    if tied.any():
        _add_shared(totals, of_nodes, tied, graphs.graph_index)
    return _mix(totals + sizes.astype(np.uint64)[:, None] * _LANES)


def _add_shared(
    totals: UInt64[np.ndarray, "g 2"],
    of_nodes: UInt64[np.ndarray, "n 2"],
    tied: Int32[np.ndarray, " n"],
    owner: Int64[np.ndarray, " n"],
) -> None:
    """Add the groups of nodes that share weights to a graph's hash. Groups of one node are ignored."""
    members, group = groups_of(tied, owner)
    count = np.bincount(group)
    sums = np.zeros((len(count), 2), np.uint64)
    np.add.at(sums, group, _mix(of_nodes[members] + np.uint64(1)))
    first = members[np.unique(group, return_index=True)[1]]
    np.add.at(totals, owner[first[count > 1]], _mix(sums[count > 1]))


def _attributes(graphs: PackedGraphs) -> UInt64[np.ndarray, "n 2"]:
    """Hash of a node's own attributes, without the arbitrary number of its weight group."""
    columns = _mix(np.arange(1, Column.TIED + 1, dtype=np.uint64)[:, None] * _LANES)
    words = graphs.nodes[:, : Column.TIED].astype(np.int64).view(np.uint64)
    scalars = np.ascontiguousarray(graphs.scalars).view(np.uint64)[:, None]
    return _mix((words @ columns) ^ _mix(scalars + _LANES))


def _sweep(
    own: UInt64[np.ndarray, "n 2"],
    runs: tuple[Int64[np.ndarray, " e"], UInt64[np.ndarray, " e"], Int64[np.ndarray, " n1"]],
    levels: Int64[np.ndarray, " l1"],
    reverse: bool,
) -> UInt64[np.ndarray, "n 2"]:
    """Hash each node with the hashes of its neighbours on one side, depth by depth; both lanes at once."""
    other, port, starts = runs
    salt = port[:, None] * _LANES
    out = _mix(own)
    spans = list(zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True))
    bounds = starts[levels].tolist()
    counts = np.diff(starts)
    for i in range(len(spans) - 1, -1, -1) if reverse else range(len(spans)):
        (first, last), edge_first, edge_last = spans[i], bounds[i], bounds[i + 1]
        if edge_first == edge_last:
            continue
        messages = _mix(out[other[edge_first:edge_last]] + salt[edge_first:edge_last])
        fed = first + np.flatnonzero(counts[first:last])
        sums = np.add.reduceat(messages, starts[fed] - edge_first, axis=0)
        out[fed] = _mix(own[fed] + sums)
    return out


def _mix(x: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """The finaliser of splitmix64: every input bit changes every output bit with probability about one half."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
