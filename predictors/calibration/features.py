"""Features of architectures that a calibration is a quadratic form of: which choice was made where."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64, Int64

from gennape.search_spaces.families import nb201, nb301, ofa_resnet
from gennape.search_spaces.families.ofa_units import DEPTHS, ELASTIC, RESOLUTIONS

Features = Callable[[Int64[np.ndarray, "g k"]], Float64[np.ndarray, "g d"]]

_KERNELS = 3  # a layer's gene is 3 x its expansion + its kernel
_MIDDLE, _SPREAD = 192, 32  # of resolutions, so that a resolution counts like any other choice


def features(space: str, genomes: Int64[np.ndarray, "g k"]) -> Float64[np.ndarray, "g d"]:
    """One row per canonical genome of a search space of :data:`FEATURES`."""
    return FEATURES[space](genomes)


def one_hot(values: Int64[np.ndarray, " g"], n: int) -> Float64[np.ndarray, "g n"]:
    """A column per value."""
    return (values[:, None] == np.arange(n)).astype(np.float64)


def _resolution(genes: Int64[np.ndarray, " g"]) -> Float64[np.ndarray, "g 2"]:
    """A number and its square rather than a column per resolution, so that labels of some tell of all."""
    side = (np.array(RESOLUTIONS)[genes] - _MIDDLE) / _SPREAD
    return np.stack([side, side**2 - 0.5], axis=1)


def _units(genomes: Int64[np.ndarray, "g k"]) -> Float64[np.ndarray, "g d"]:
    """Resolution, depths, and for each place of a layer its expansion and its kernel; an absent layer has neither."""
    columns = [_resolution(genomes[:, 0])]
    columns += [one_hot(genomes[:, 1 + u], len(DEPTHS)) for u in range(ELASTIC)]
    for place in range(genomes.shape[1] - 1 - ELASTIC):
        unit, i = divmod(place, 4)
        there = np.ones(len(genomes), bool) if unit >= ELASTIC else i < DEPTHS[0] + genomes[:, 1 + unit]
        gene = genomes[:, 1 + ELASTIC + place]
        columns += [one_hot(part, 3) * there[:, None] for part in (gene // _KERNELS, gene % _KERNELS)]
    return np.concatenate(columns, axis=1)


def _bottlenecks(genomes: Int64[np.ndarray, "g k"]) -> Float64[np.ndarray, "g d"]:
    """Resolution, stem, depths, widths, and the expansion at each place of a block, if there is one."""
    columns = [_resolution(genomes[:, 0]), one_hot(genomes[:, 1], 2)]
    columns += [one_hot(genomes[:, gene], 3) for gene in range(2, 12)]
    for unit, (slots, start, base) in enumerate(
        zip(ofa_resnet.SLOTS, ofa_resnet.STARTS, ofa_resnet.BASE_DEPTHS, strict=True)
    ):
        for i in range(slots):
            there = i < base + genomes[:, 2 + unit]
            columns.append(one_hot(genomes[:, 12 + start + i], 3) * there[:, None])
    return np.concatenate(columns, axis=1)


def _edges_of_cell(genomes: Int64[np.ndarray, "g k"]) -> Float64[np.ndarray, "g d"]:
    """The operations of all edges and of all pairs of edges that lie on a path without ``none``."""
    edges, n = live_edges(genomes), len(nb201.OPERATIONS)
    columns = [one_hot(edge, n) for edge in edges.T]
    columns += [one_hot(edges[:, i] * n + edges[:, j], n * n) for i in range(len(nb201.EDGES)) for j in range(i)]
    return np.concatenate(columns, axis=1)


def live_edges(genomes: Int64[np.ndarray, "g 6"]) -> Int64[np.ndarray, "g 6"]:
    """Genomes of NAS-Bench-201 with ``none`` on every edge that no path from input to output takes."""
    edges = genomes.copy()
    for _ in nb201.EDGES:  # what is dead may leave further edges dead
        for node in (1, 2):
            into = [i for i, (_, target) in enumerate(nb201.EDGES) if target == node]
            out = [i for i, (source, _) in enumerate(nb201.EDGES) if source == node]
            for some, others in ((into, out), (out, into)):
                dead = (edges[:, some] == 0).all(1)
                for edge in others:
                    edges[dead, edge] = 0
    return edges


def _edges_of_cells(genomes: Int64[np.ndarray, "g k"]) -> Float64[np.ndarray, "g d"]:
    """How often each operation connects a source with a node, in both cells of DARTS."""
    rows, columns = np.arange(len(genomes)), []
    for start in range(0, genomes.shape[1], 3):
        node = start // 3 % nb301.NODES
        pairs = np.array(nb301.SOURCES[node])[genomes[:, start]]
        counts = np.zeros((len(genomes), node + 2, len(nb301.OPERATIONS)))
        for side in (0, 1):
            np.add.at(counts, (rows, pairs[:, side], genomes[:, start + 1 + side]), 1)
        columns.append(counts.reshape(len(genomes), -1))
    return np.concatenate(columns, axis=1)


FEATURES: Mapping[str, Features] = {
    "nb201": _edges_of_cell,
    "nb301": _edges_of_cells,
    "ofa_mbv3": _units,
    "ofa_resnet": _bottlenecks,
    "proxylessnas": _units,
}
