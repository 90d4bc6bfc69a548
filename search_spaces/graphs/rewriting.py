"""Building blocks of passes over graphs: neighbours, and removing, copying and inserting nodes of a whole set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from gennape.search_spaces.graphs.columns import Column
from gennape.search_spaces.graphs.graph import PackedGraphs, offsets_of


class Links:
    """Inputs and consumers of all nodes of a set."""

    def __init__(self, graphs: PackedGraphs) -> None:
        self.op = graphs.nodes[:, Column.OP]
        self.source, self.target = graphs.edges.T
        n = len(self.op)
        self.fan_in = np.bincount(self.target, minlength=n)
        self.fan_out = np.bincount(self.source, minlength=n)
        #: For each node one of its inputs and one of its consumers, or itself if there is none.
        self.before, self.after = np.arange(n), np.arange(n)
        self.before[self.target], self.after[self.source] = self.source, self.target


def resolved(before: Int64[np.ndarray, " n"], gone: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """For each node itself, or its nearest ancestor that is not removed."""
    stand_in = np.where(gone, before, np.arange(len(gone)))
    while not np.array_equal(stand_in, further := stand_in[stand_in]):
        stand_in = further
    return stand_in


def without_nodes(graphs: PackedGraphs, gone: Bool[np.ndarray, " n"]) -> PackedGraphs:
    """The graphs without some nodes of one input; their consumers get that input."""
    if not gone.any():
        return graphs
    source, target = graphs.edges.T
    before = np.arange(len(gone))
    before[target[gone[target]]] = source[gone[target]]
    stand_in, kept = resolved(before, gone), ~gone
    position = np.cumsum(kept) - 1
    alive = kept[target]
    edges = np.stack([position[stand_in[source[alive]]], position[target[alive]]], axis=1)
    edge_owner = np.repeat(np.arange(len(graphs)), np.diff(graphs.edge_offsets))
    return PackedGraphs(
        graphs.nodes[kept],
        graphs.scalars[kept],
        edges,
        offsets_of(np.bincount(graphs.graph_index[kept], minlength=len(graphs))),
        offsets_of(np.bincount(edge_owner[alive], minlength=len(graphs))),
    )


def shared_out(
    graphs: PackedGraphs, edge_rows: Int64[np.ndarray, " k"], taker: Int64[np.ndarray, " k"]
) -> PackedGraphs:
    """The graphs with copies of the sources of some edges, one per ``taker`` of a source.

    Other edges keep the original node; if there are none, those of its first taker do.
    """
    if not len(edge_rows):
        return graphs
    source, target = graphs.edges.T
    most = int(taker.max()) + 1
    keys, group = np.unique(source[edge_rows] * most + taker, return_inverse=True)
    origin = keys // most
    first, shared = np.ones(len(keys), bool), np.zeros(len(graphs.nodes), bool)
    first[1:] = origin[1:] != origin[:-1]
    others = np.ones(len(source), bool)
    others[edge_rows] = False
    shared[source[others]] = True
    copied = shared[origin] | ~first
    if not copied.any():
        return graphs
    new = len(graphs.nodes) + np.cumsum(copied) - 1
    moved = edge_rows[copied[group]]
    edges, before = graphs.edges.copy(), np.arange(len(graphs.nodes))
    before[target] = source
    edges[moved, 0] = new[group[copied[group]]]
    of = origin[copied]
    draft = replace(graphs, edges=edges)
    added = np.stack([before[of], new[copied]], axis=1)
    return with_nodes(draft, of, graphs.nodes[of], graphs.scalars[of], added)


def with_nodes(
    graphs: PackedGraphs,
    behind: Int64[np.ndarray, " k"],
    rows: Int32[np.ndarray, "k a"],
    scalars: Float64[np.ndarray, " k"],
    added: Int64[np.ndarray, "f 2"],
) -> PackedGraphs:
    """The graphs with new nodes, each stored right after an existing one, and with the edges ``added``.

    Edges refer to new nodes by indices after those of all existing nodes, and belong to the graph of their target.
    """
    n, owner = len(graphs.nodes), graphs.graph_index
    order = np.argsort(np.concatenate([np.arange(n), behind]), kind="stable")
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    owners = np.concatenate([owner, owner[behind]])
    edges = np.concatenate([graphs.edges, added])
    edge_owner = owners[edges[:, 1]]
    return PackedGraphs(
        np.concatenate([graphs.nodes, rows])[order],
        np.concatenate([graphs.scalars, scalars])[order],
        position[edges][np.argsort(edge_owner, kind="stable")],
        offsets_of(np.bincount(owners, minlength=len(graphs))),
        offsets_of(np.bincount(edge_owner, minlength=len(graphs))),
    )
