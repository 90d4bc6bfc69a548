"""Canonical hashes of what has no nodes, and of its neighbours."""

from __future__ import annotations

import numpy as np

from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import ComputationGraph, pack


def _small(channels: int) -> ComputationGraph:
    b = GraphBuilder()
    b.output(b.relu(b.conv(b.input(3, 8, 8), channels, 3)))
    return b.build()


def test_a_graph_without_nodes_has_a_hash_of_its_own_and_leaves_others_theirs() -> None:
    one, other = _small(4), _small(8)
    empty = ComputationGraph(one.nodes[:0], np.zeros(0), np.zeros((0, 2), np.int32))
    first, nothing, second, again = canonical_hashes(pack([one, empty, other, empty]))
    assert [first, second] == canonical_hashes(pack([one, other]))
    assert nothing == again
    assert len({first, second, nothing}) == 3
