"""The structure of small networks, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import InvalidGraphError
from gennape.predictors.few_shot.structure import STRUCTURE, structure
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import ComputationGraph, PackedGraphs, pack


def _two_paths() -> ComputationGraph:
    """An image of 8x8 through a 3x3 convolution, or a pool and a 1x1 convolution; the sum of both is the output."""
    b = GraphBuilder()
    x = b.input(2, 8, 8)
    b.output(b.add(b.conv(x, 4, 3), b.conv(b.maxpool(x, 3, stride=1, padding=1), 4, 1)))
    return b.build()


def test_every_column_of_a_small_network() -> None:
    found = dict(zip(STRUCTURE, structure(pack([_two_paths()]))[0], strict=True))
    # Both convolutions count as normalised, as those of which an exporter folded a normalisation with a bias of zero.
    macs, parameters = [64 * 4 * 2 * 9, 64 * 4 * 2], [4 * 2 * 9, 4 * 2, 2 * 4, 2 * 4]
    norms = [1.5 * np.log1p((np.array(values) ** (2 / 3)).sum()) for values in (macs, parameters)]
    assert found["size"] == pytest.approx((sum(norms) + 2 * np.log(8)) / 4)
    # From the sum both paths are as probable: half a 3x3, half a 1x1 and half a pool are met.
    assert found["pools on a path"] == pytest.approx(0.5 / (1 + 1.5))
    assert found["pools"] == pytest.approx(1 / 3)
    assert found["layers on a path"] == pytest.approx(np.log(2))
    assert found["spatial layers on a path"] == pytest.approx(np.log(1.5))
    assert found["fan-in on a path"] == pytest.approx(np.log(1 + (np.log(18) + np.log(2)) / 2))
    assert found["joins on a path"] == pytest.approx(np.log(2))
    assert found["FLOPs"] == pytest.approx(np.log1p(sum(macs)))
    assert found["activations"] == pytest.approx(np.log1p(2 * 4 * 64))
    assert found["channels"] == pytest.approx(np.log(9))
    assert found["image"] == pytest.approx(np.log(8))
    assert found["layers, stage 0"] == pytest.approx(np.log(3))
    assert found["layers, stage 1"] == 0


def test_stages_are_halvings_of_the_image() -> None:
    b = GraphBuilder()
    b.output(b.conv(b.conv(b.input(3, 32, 32), 8, 3, stride=2), 8, 3, stride=2))
    found = dict(zip(STRUCTURE, structure(pack([b.build()]))[0], strict=True))
    assert [found[f"layers, stage {stage}"] for stage in range(4)] == pytest.approx([0, np.log(2), np.log(2), 0])


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_neither_numbering_nor_company_matters(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graphs = space.graphs(space.sample(rng, 3))
    relabelled = pack([graphs[i].relabel(rng.permutation(graphs[i].n_nodes)) for i in range(3)])
    whole = structure(graphs)
    assert np.isfinite(whole).all()
    np.testing.assert_allclose(structure(relabelled), whole, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(structure(graphs.take(np.array([2])))[0], whole[2])


def test_a_cycle_is_refused() -> None:
    graph = _two_paths()
    back = np.array([[graph.n_nodes - 2, 1]], np.int32)
    looped = ComputationGraph(graph.nodes, graph.scalars, np.concatenate([graph.edges, back]))
    with pytest.raises(InvalidGraphError, match="cycle"):
        structure(pack([looped]))


def test_no_graphs_no_rows() -> None:
    assert structure(pack([])).shape == (0, len(STRUCTURE))


def test_how_terms_are_added_does_not_matter(terms_in_both_orders: tuple[PackedGraphs, PackedGraphs]) -> None:
    first, second = terms_in_both_orders
    np.testing.assert_allclose(structure(first)[:, 1:15], structure(second)[:, 1:15], rtol=1e-12)


@pytest.fixture
def terms_in_both_orders() -> tuple[PackedGraphs, PackedGraphs]:
    def sums(left: bool) -> PackedGraphs:
        b = GraphBuilder()
        x = b.input(4, 8, 8)
        one, two, three = b.conv(x, 4, 3), b.conv(x, 4, 1), b.maxpool(x, 3, stride=1, padding=1)
        b.output(b.add(b.add(one, two), three) if left else b.add(one, b.add(two, three)))
        return pack([b.build()])

    return sums(True), sums(False)
