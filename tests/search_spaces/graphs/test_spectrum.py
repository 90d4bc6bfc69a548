from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import InvalidGraphError
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import N_COLUMNS, ComputationGraph, pack
from gennape.search_spaces.graphs.spectrum import laplacian_spectra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gennape.search_spaces.families.space import SearchSpace


def graph_of(n: int, edges: Sequence[Sequence[int]]) -> ComputationGraph:
    """A graph whose nodes do nothing: only edges matter to a spectrum."""
    return ComputationGraph(np.zeros((n, N_COLUMNS), np.int32), np.zeros(n), np.array(edges, np.int32).reshape(-1, 2))


def spectrum(n: int, edges: Sequence[Sequence[int]], k: int) -> list[float]:
    """Of one graph."""
    values: list[float] = laplacian_spectra(pack([graph_of(n, edges)]), k)[0].tolist()
    return values


def dense(graph: ComputationGraph) -> np.ndarray:
    """All eigenvalues by the definition."""
    adjacency = np.zeros((graph.n_nodes, graph.n_nodes))
    for source, target in graph.edges.tolist():
        if source != target:
            adjacency[source, target] = adjacency[target, source] = 1
    degree = adjacency.sum(1)
    scale = np.diag(1 / np.sqrt(np.where(degree > 0, degree, 1)))
    return np.linalg.eigvalsh(np.diag((degree > 0).astype(float)) - scale @ adjacency @ scale)


@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_path_has_cosines(n: int) -> None:
    """Chung, Spectral Graph Theory, example 1.4: 1 - cos(pi j / (n - 1))."""
    expected = 1 - np.cos(np.pi * np.arange(n) / (n - 1))
    np.testing.assert_allclose(spectrum(n, [(i, i + 1) for i in range(n - 1)], n), expected, atol=1e-12)


def test_known_graphs() -> None:
    star = [(0, i) for i in range(1, 5)]  # example 1.2: 0, 1 (n - 2 times), 2
    np.testing.assert_allclose(spectrum(5, star, 5), [0, 1, 1, 1, 2], atol=1e-12)
    complete = [(i, j) for j in range(4) for i in range(j)]  # example 1.1: 0, n / (n - 1) (n - 1 times)
    np.testing.assert_allclose(spectrum(4, complete, 4), [0, 4 / 3, 4 / 3, 4 / 3], atol=1e-12)
    apart = [(0, 1), (2, 3)]  # one 0 for each part, the lone node 4 being one
    np.testing.assert_allclose(spectrum(5, apart, 5), [0, 0, 0, 2, 2], atol=1e-12)


def test_direction_repetition_and_loops_do_not_count() -> None:
    plain = spectrum(4, [(0, 1), (1, 2), (2, 3)], 4)
    assert spectrum(4, [(1, 0), (0, 1), (0, 1), (1, 2), (2, 2), (3, 2)], 4) == plain


def test_few_nodes_are_filled_up_with_two() -> None:
    assert spectrum(1, [], 3) == [0, 2, 2]
    assert spectrum(0, [], 2) == [2, 2]
    assert laplacian_spectra(pack([]), 4).shape == (0, 4)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 30), seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_any_graph_equals_the_dense_definition(n: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    edges = np.argwhere(rng.random((n, n)) < share)
    graph = graph_of(n, edges.tolist())
    expected = dense(graph)[:21]
    (found,) = laplacian_spectra(pack([graph]), 21)
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-12)


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_families(space: SearchSpace) -> None:
    """Against the definition, whatever stands beside a graph and however its nodes are numbered."""
    rng = np.random.default_rng(0)
    genomes = space.sample(rng, 6)
    graphs = space.graphs(genomes[[0, 1, 2, 3, 4, 5, 0]])
    advanced: list[int] = []
    found = laplacian_spectra(graphs, 21, advanced.append)
    assert sum(advanced) == 7
    for index in range(3):
        graph = graphs[index]
        np.testing.assert_allclose(found[index], dense(graph)[:21], atol=1e-12)
        assert np.array_equal(laplacian_spectra(pack([graph]), 21)[0], found[index])
        relabelled = graph.relabel(rng.permutation(graph.n_nodes))
        np.testing.assert_allclose(laplacian_spectra(pack([relabelled]), 21)[0], found[index], atol=1e-12)
    assert np.array_equal(found[0], found[6])


def test_thousands_of_nodes_take_little_memory_and_time() -> None:
    """A dense matrix of 3,000 nodes would be 72 MB and ten seconds."""
    space = family("nb101")
    long = space.graph(space.sample(np.random.default_rng(0), 1)[0])
    copies, edges = 3000 // long.n_nodes, [long.edges]
    for copy in range(1, copies):
        edges += [long.edges + copy * long.n_nodes, np.array([[copy * long.n_nodes - 1, copy * long.n_nodes]])]
    graph = graph_of(copies * long.n_nodes, np.concatenate(edges).tolist())
    (values,) = laplacian_spectra(pack([graph]), 21)
    assert 0 <= values[0] < 1e-10 < values[1]
    assert (np.diff(values) >= 0).all()


def test_a_hub_is_refused_before_its_matrix_is_made() -> None:
    n = 5000
    b = GraphBuilder()
    x = b.input(1, 1, 1)
    b.output(b.concat(*(b.relu(x) for _ in range(n))))
    with pytest.raises(InvalidGraphError, match=f"{n + 3} nodes has a hub"):
        laplacian_spectra(pack([b.build()]), 21)
