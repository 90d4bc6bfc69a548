"""Laplacian spectra of computation graphs: what contrastive pretraining measures similarity by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64, Int64

from gennape.search_spaces.graph import PackedGraphs

_ELEMENTS_AT_ONCE = 4_000_000  # of dense matrices: 32 MB


def laplacian_spectra(
    graphs: PackedGraphs, k: int, progress: Callable[[int], None] | None = None
) -> Float64[np.ndarray, "g k"]:
    """The ``k`` smallest eigenvalues, ascending, of each graph's normalised Laplacian.

    I - D^(-1/2) A D^(-1/2) of the undirected simple graph; eigenvalues lie in [0, 2]. A graph of fewer than ``k``
    nodes is filled up with 2, the largest value possible. ``progress`` is called with the number of graphs done.
    Source: GENNAPE, section "Contrastive learning" (q = 21 there).
    """
    sizes = np.diff(graphs.node_offsets)
    out = np.full((len(graphs), k), 2.0)
    order = np.argsort(sizes, kind="stable")
    start = 0
    while start < len(order):
        # Graphs sorted by size: take as many as fit when all are padded to the largest among them.
        largest = np.maximum(sizes[order[start:]], 1).astype(np.int64) ** 2
        fits = largest * np.arange(1, len(largest) + 1) <= _ELEMENTS_AT_ONCE
        chosen = order[start : start + max(1, int(fits.sum()))]
        out[chosen] = _dense_spectra(graphs.take(chosen), int(sizes[chosen].max()), k)
        start += len(chosen)
        if progress is not None:
            progress(len(chosen))
    return out


def _dense_spectra(graphs: PackedGraphs, n: int, k: int) -> Float64[np.ndarray, "g k"]:
    owner = graphs.graph_index
    local = np.arange(len(graphs.nodes)) - graphs.node_offsets[owner]
    adjacency = np.zeros((len(graphs), n, n))
    source, target = graphs.edges.T
    joined = source != target
    source, target = source[joined], target[joined]
    adjacency[owner[source], local[source], local[target]] = 1
    adjacency[owner[source], local[target], local[source]] = 1
    scale = 1 / np.sqrt(np.maximum(adjacency.sum(2), 1))
    laplacian = -adjacency * scale[:, :, None] * scale[:, None, :]
    diagonal = np.arange(n)
    real: Int64[np.ndarray, "g n"] = (diagonal < np.diff(graphs.node_offsets)[:, None]).astype(np.int64)
    # A lone node has no neighbours and eigenvalue 0; rows of padding get 2 and so come last.
    laplacian[:, diagonal, diagonal] = np.where(real == 1, adjacency.any(2), 2.0)
    values = torch.linalg.eigvalsh(torch.from_numpy(laplacian)).numpy()[:, :k]
    width = values.shape[1]
    return np.pad(np.clip(values, 0.0, 2.0), ((0, 0), (0, k - width)), constant_values=2.0)
