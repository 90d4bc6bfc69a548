"""The paths through small networks, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.predictors.few_shot.paths import PATH_FEATURES
from gennape.predictors.few_shot.structure import STRUCTURE, structure
from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.graph import ComputationGraph, pack


def _of(graph: ComputationGraph) -> dict[str, float]:
    """The path features, not as logarithms."""
    row = np.expm1(structure(pack([graph]))[0, STRUCTURE.index(PATH_FEATURES[0]) :])
    return dict(zip(PATH_FEATURES, row, strict=True))


def _around() -> ComputationGraph:
    """A stem, then a skip beside a 1x1 and a grouped 5x5 one after another, summed; then two pools, concatenated."""
    b = GraphBuilder()
    x = b.conv(b.input(3, 8, 8), 4, 3)
    x = b.add(x, b.conv(b.conv(x, 4, 1), 4, 5, groups=4))
    pools = [pool(x, 3, stride=1, padding=1) for pool in (b.maxpool, b.avgpool)]
    b.output(b.concat(*pools))
    return b.build()


def test_every_column_of_a_small_network() -> None:
    found = _of(_around())
    # Each pool is met by half of the walks, the two layers beside the skip too.
    expected_counts = {"1x1": 0.5, "3x3": 1, "grouped 5x5": 0.5, "maximum pools": 0.5, "average pools": 0.5, "sums": 1}
    expected = dict.fromkeys(PATH_FEATURES, 0.0) | {f"{kind} on a path": x for kind, x in expected_counts.items()}
    expected |= {"concatenations on a path": 1}
    for which, (layers, spatial) in (("shortest", (1, 1)), ("longest", (3, 2))):
        expected |= {f"{which} path in layers": layers, f"{which} path in spatial layers": spatial}
        expected |= {f"{which} path in pools": 1}
    assert found == pytest.approx(expected, abs=1e-12)


def test_shortest_and_longest_are_of_each_count_apart() -> None:
    """One path has a single 3x3, the other two 1x1: the first is shortest in layers, the second in spatial layers."""
    b = GraphBuilder()
    x = b.input(4, 8, 8)
    b.output(b.add(b.conv(x, 4, 3), b.conv(b.conv(x, 4, 1), 4, 1)))
    found = _of(b.build())
    assert (found["shortest path in layers"], found["longest path in layers"]) == pytest.approx((1, 2))
    assert (found["shortest path in spatial layers"], found["longest path in spatial layers"]) == pytest.approx((0, 1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 1, 3, 5]), min_size=1, max_size=3), min_size=1, max_size=4))
def test_blocks_in_a_row_add_up(blocks: list[list[int]]) -> None:
    """Each block sums a few paths, each a layer of some size or, for 0, nothing."""

    def path(b: GraphBuilder, x: Value, size: int) -> Value:
        return b.conv(x, 4, size) if size else x

    b = GraphBuilder()
    x = b.input(4, 8, 8)
    for sizes in blocks:
        y = [path(b, x, size) for size in sizes]
        x = y[0]
        for term in y[1:]:
            x = b.add(x, term)
    b.output(x)
    found = _of(b.build())
    for what, least in (("layers", 1), ("spatial layers", 2)):
        counts = [[size >= least for size in sizes] for sizes in blocks]
        assert found[f"shortest path in {what}"] == pytest.approx(sum(map(min, counts)), abs=1e-9)
        assert found[f"longest path in {what}"] == pytest.approx(sum(map(max, counts)), abs=1e-9)


def test_a_network_without_an_output_has_no_path() -> None:
    graph = _around()
    cut = ComputationGraph(graph.nodes[:-1], graph.scalars[:-1], graph.edges[(graph.edges < graph.n_nodes - 1).all(1)])
    assert set(_of(cut).values()) == {0.0}
