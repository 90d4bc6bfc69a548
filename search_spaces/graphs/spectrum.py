"""Laplacian spectra of computation graphs, the similarity measure of contrastive pretraining."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int32, Int64
from scipy.linalg import eig_banded
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import reverse_cuthill_mckee

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.graph import PackedGraphs

_MAX_NUMBERS = 2**24  # of a banded matrix: 128 MB, and about a minute


def laplacian_spectra(
    graphs: PackedGraphs, k: int, progress: Callable[[int], None] | None = None
) -> Float64[np.ndarray, "g k"]:
    """The ``k`` smallest eigenvalues, ascending, of each graph's normalised Laplacian.

    I - D^(-1/2) A D^(-1/2) of the undirected simple graph; eigenvalues lie in [0, 2]. Graphs with fewer than ``k``
    nodes are padded with 2, the largest possible value. ``progress`` is called with the number of finished graphs. The
    values of a graph do not depend on the other graphs. Raises :class:`InvalidGraphError` for a graph whose bandwidth
    is too large, such as one with a sum of thousands of values.
    Source: GENNAPE, section "Contrastive learning" (q = 21 there).
    """
    # Networks that differ only in operations and sizes, such as kernels, have the same edges and are computed once.
    alike: dict[tuple[int, bytes], list[int]] = {}
    for index in range(len(graphs)):
        graph = graphs[index]
        alike.setdefault((graph.n_nodes, graph.edges.tobytes()), []).append(index)
    out = np.full((len(graphs), k), 2.0)
    for indices in alike.values():
        graph = graphs[indices[0]]
        values = _spectrum(graph.n_nodes, graph.edges)[:k]
        out[indices, : len(values)] = values
        if progress is not None:
            progress(len(indices))
    return out


def _spectrum(n: int, edges: Int32[np.ndarray, "e 2"]) -> Float64[np.ndarray, " n"]:
    """All eigenvalues of one graph, ascending.

    Networks are long and narrow: in reverse Cuthill-McKee order, a hundred nodes need some five diagonals, and LAPACK's
    band solver takes half the time of the dense one, or a tenth for thousands of nodes.
    """
    if n == 0:
        return np.zeros(0)
    a, b = _joined(n, edges)
    degree = np.bincount(np.concatenate([a, b]), minlength=n)
    order = _narrow_order(n, a, b, degree)
    position = np.empty(n, np.int64)
    position[order] = np.arange(n)
    first, last = np.minimum(position[a], position[b]), np.maximum(position[a], position[b])
    scale = 1 / np.sqrt(np.maximum(degree, 1))
    width = int((last - first).max(initial=0)) + 1
    if width * n > _MAX_NUMBERS:
        raise InvalidGraphError(f"a graph of {n} nodes has a hub: its spectrum would take a matrix of {width} x {n}")
    band = np.zeros((width, n))  # row d holds the d-th diagonal below the main one
    band[0] = degree[order] > 0  # a node without neighbours has eigenvalue 0
    band[last - first, first] = -scale[a] * scale[b]
    return np.clip(eig_banded(band, lower=True, eigvals_only=True, overwrite_a_band=True, check_finite=False), 0.0, 2.0)


def _joined(n: int, edges: Int32[np.ndarray, "e 2"]) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]:
    """The distinct undirected edges, without loops."""
    source, target = edges.T.astype(np.int64)
    pairs = np.unique(np.minimum(source, target) * n + np.maximum(source, target))
    a, b = np.divmod(pairs, n)
    return a[a != b], b[a != b]


def _narrow_order(
    n: int, a: Int64[np.ndarray, " p"], b: Int64[np.ndarray, " p"], degree: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """An order of the nodes with small bandwidth."""
    rows, columns = np.concatenate([a, b]), np.concatenate([b, a])
    starts = np.concatenate([np.zeros(1, np.int32), np.cumsum(degree, dtype=np.int32)])
    neighbours = columns[np.argsort(rows, kind="stable")].astype(np.int32)
    matrix = csr_matrix((np.ones(len(rows), np.int8), neighbours, starts), shape=(n, n))
    return reverse_cuthill_mckee(matrix, symmetric_mode=True).astype(np.int64)
