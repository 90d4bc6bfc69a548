"""NAS-Bench-101: one cell of at most seven vertices and nine edges, repeated in three stacks (Ying et al., 2019)."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, shown
from gennape.search_spaces.graphs.blocks import conv_bn_relu, fragment
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
MAX_VERTICES = 7
MAX_EDGES = 9
PAIRS = tuple((x, y) for y in range(1, MAX_VERTICES) for x in range(y))  # edge x -> y, in genome order
N_EDGES = len(PAIRS)

Successors = tuple[tuple[int, ...], ...]


class NasBench101(SearchSpace):
    """Genome: 21 edge bits of a 7x7 upper triangle (column by column), then five inner operations.

    The canonical genome is the pruned cell: its vertices first, the output at the last of them, all else 0. A cell of
    fewer than seven vertices is recognised by its last vertex with an incoming edge.
    """

    name = "nb101"
    genes = (
        *(Gene(f"edge {x}->{y}", (0, 1)) for x, y in PAIRS),
        *(Gene(f"operation of vertex {v}", OPERATIONS) for v in range(1, MAX_VERTICES - 1)),
    )

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """Prune vertices that are not on a path from input to output; infeasible genomes are returned unchanged."""
        pruned, joined = _pruned(genomes)
        return np.where(joined[:, None], pruned, genomes)

    def feasible(self, genomes: Int64[np.ndarray, "n g"]) -> Bool[np.ndarray, " n"]:
        """Input and output are joined, and at most nine edges remain after pruning."""
        pruned, joined = _pruned(genomes)
        return joined & (pruned[:, :N_EDGES].sum(1) <= MAX_EDGES)

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """``{"matrix": [[0 or 1]], "ops": ["input", ..., "output"]}``, pruned."""
        matrix, ops = _unpack(genome)
        return {"matrix": matrix.tolist(), "ops": ["input", *(OPERATIONS[o] for o in ops), "output"]}

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads what ``encode`` writes, unpruned cells too; ``pruned_matrix`` and ``pruned_ops`` are ignored."""
        matrix, ops = _read(architecture)
        if not matrix[:, -1].any():
            raise InvalidArchitectureError("nb101: no edge leads to the output; add one")
        pruned, joined = _pruned(_genome(matrix, ops)[None])
        if not joined[0]:
            raise InvalidArchitectureError("nb101: no path joins the input to the output; add an edge")
        if (edges := int(pruned[0, :N_EDGES].sum())) > MAX_EDGES:
            raise InvalidArchitectureError(f"nb101: a cell has at most {MAX_EDGES} edges after pruning, got {edges}")
        genome: Int64[np.ndarray, " g"] = pruned[0]
        return genome

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Stem, three stacks of three cells with pools between, classifier."""
        matrix, ops = _unpack(genome)
        successors = tuple(tuple(np.flatnonzero(row).tolist()) for row in matrix)
        x = conv_bn_relu(b, b.input(3, 32, 32), 128, 3)
        for stack in range(3):
            if stack:
                x = b.maxpool(x, 2, 2)
            for _ in range(3):
                x = _cell(b, x, successors, ops, 128 << stack)
        return b.linear(b.mean(x), 10)


def _read(architecture: Architecture) -> tuple[Int64[np.ndarray, "v v"], tuple[int, ...]]:
    if not isinstance(architecture, dict) or not {"matrix", "ops"} <= set(architecture):
        raise InvalidArchitectureError(
            f'nb101: an architecture is {{"matrix": ..., "ops": ...}}, got {shown(architecture)}'
        )
    if unknown := set(architecture) - {"matrix", "ops", "pruned_matrix", "pruned_ops"}:
        raise InvalidArchitectureError(f"nb101: unknown keys {shown(unknown)}; known are matrix and ops")
    ops: Any = architecture["ops"]
    rows: Any = architecture["matrix"]
    v = len(ops) if isinstance(ops, list) else 0
    if not 2 <= v <= MAX_VERTICES or not _is_square(rows, v):
        raise InvalidArchitectureError(
            f"nb101: a cell has 2 to {MAX_VERTICES} vertices and a square matrix, got {v} ops and {shown(rows)}"
        )
    digits = [[x if type(x) in (int, bool) and x in (0, 1) else -1 for x in row] for row in rows]
    matrix: Int64[np.ndarray, "v v"] = np.array(digits, np.int64)
    if (matrix < 0).any() or np.tril(matrix).any():
        raise InvalidArchitectureError(f"nb101: the matrix must be strictly upper triangular 0/1, got {shown(rows)}")
    if ops[0] != "input" or ops[-1] != "output" or not all(op in OPERATIONS for op in ops[1:-1]):
        raise InvalidArchitectureError(f"nb101: ops must be input, any of {list(OPERATIONS)}, output; got {shown(ops)}")
    return matrix, tuple(OPERATIONS.index(op) for op in ops[1:-1])


def _is_square(rows: Any, v: int) -> bool:
    """Whether these are ``v`` lists of ``v``; an array is only made of what is."""
    return isinstance(rows, list) and len(rows) == v and all(isinstance(row, list) and len(row) == v for row in rows)


def _unpack(genome: Int64[np.ndarray, " g"]) -> tuple[Int64[np.ndarray, "v v"], tuple[int, ...]]:
    """Matrix and operations of a feasible cell, without the vertices off every path from input to output."""
    matrix, ops = _as_written(genome)
    # Where all but the first have an edge to them and all but the last one from them, every vertex is on a path.
    if matrix.sum(0)[1:].all() and matrix.sum(1)[:-1].all():
        return matrix, ops
    return _as_written(_pruned(genome[None])[0][0])


def _as_written(genome: Int64[np.ndarray, " g"]) -> tuple[Int64[np.ndarray, "v v"], tuple[int, ...]]:
    values = genome.tolist()
    matrix = np.zeros((MAX_VERTICES, MAX_VERTICES), np.int64)
    for (x, y), bit in zip(PAIRS, values[:N_EDGES], strict=True):
        matrix[x, y] = bit
    columns = np.flatnonzero(matrix.any(0))
    v = int(columns[-1]) + 1 if len(columns) else MAX_VERTICES
    return matrix[:v, :v], tuple(values[N_EDGES : N_EDGES + v - 2])


def _genome(matrix: Int64[np.ndarray, "v v"], ops: tuple[int, ...]) -> Int64[np.ndarray, " g"]:
    v = len(matrix)
    bits = [int(matrix[x, y]) if y < v else 0 for x, y in PAIRS]
    return np.array([*bits, *ops, *(0,) * (MAX_VERTICES - 2 - len(ops))], np.int64)


def _pruned(
    genomes: Int64[np.ndarray, "n g"],
) -> tuple[Int64[np.ndarray, "n g"], Bool[np.ndarray, " n"]]:
    """Cells without the vertices off every path from input to output, and whether such a path exists at all."""
    n, v = len(genomes), MAX_VERTICES
    x, y = np.array(PAIRS).T
    matrix = np.zeros((n, v, v), bool)
    matrix[:, x, y] = genomes[:, :N_EDGES] == 1
    columns: Bool[np.ndarray, "n v"] = np.any(matrix, axis=1)
    output = np.where(columns.any(1), v - 1 - columns[:, ::-1].argmax(1), v - 1)
    forward, backward = np.zeros((n, v), bool), np.zeros((n, v), bool)
    forward[:, 0] = True
    backward[np.arange(n), output] = True
    for vertex in range(1, v):
        forward[:, vertex] = (matrix[:, :, vertex] & forward).any(1)
    for vertex in range(v - 2, -1, -1):
        backward[:, vertex] |= (matrix[:, vertex] & backward).any(1)
    kept = forward & backward
    order = np.argsort(~kept, axis=1, kind="stable")
    real = np.arange(v) < kept.sum(1, keepdims=True)
    matrix = np.take_along_axis(np.take_along_axis(matrix, order[:, :, None], 1), order[:, None], 2)
    matrix &= real[:, :, None] & real[:, None]
    labels = np.concatenate([np.zeros((n, 1), np.int64), genomes[:, N_EDGES:], np.zeros((n, 1), np.int64)], axis=1)
    inner = np.arange(v) < kept.sum(1, keepdims=True) - 1
    labels = np.where(inner, np.take_along_axis(labels, order, 1), 0)
    return np.concatenate([matrix[:, x, y].astype(np.int64), labels[:, 1:-1]], axis=1), kept[:, 0]


@lru_cache(maxsize=4096)
def vertex_channels(c_in: int, c_out: int, successors: Successors) -> tuple[int, ...]:
    """Output channels of every vertex of a pruned cell (families specification, section 1.2)."""
    v = len(successors)
    last = [x for x in range(1, v - 1) if v - 1 in successors[x]]
    channels = [0] * v
    channels[0], channels[-1] = c_in, c_out
    if v == 2:
        return c_in, c_out
    q, rest = divmod(c_out, len(last))
    for i, x in enumerate(last):
        channels[x] = q + (i < rest)
    for x in range(v - 3, 0, -1):
        if x not in last:
            channels[x] = max(channels[y] for y in successors[x] if y < v - 1)
    return tuple(channels)


@fragment
def _cell(b: GraphBuilder, x: Value, successors: Successors, ops: tuple[int, ...], c_out: int) -> Value:
    v = len(successors)
    if v == 2:
        return conv_bn_relu(b, x, c_out)
    channels = vertex_channels(x.c, c_out, successors)
    values: list[Value] = [x]
    for vertex in range(1, v - 1):
        c = channels[vertex]
        inner = [values[u] for u in range(1, vertex) if vertex in successors[u]]
        terms = [value if value.c == c else b.slice(value, c) for value in inner]
        if vertex in successors[0]:
            terms.append(conv_bn_relu(b, x, c))
        # TensorFlow sums all terms at once.
        total = b.add_n(*terms) if b.published and len(terms) > 1 else b.add(*terms)
        values.append(_operation(b, total, ops[vertex - 1]))
    ends = [values[u] for u in range(1, v - 1) if v - 1 in successors[u]]
    out = ends[0] if len(ends) == 1 else b.concat(*ends)
    return b.add(out, conv_bn_relu(b, x, c_out)) if v - 1 in successors[0] else out


def _operation(b: GraphBuilder, x: Value, op: int) -> Value:
    if OPERATIONS[op] == "maxpool3x3":
        return b.maxpool(x, 3, 1, 1)
    return conv_bn_relu(b, x, x.c, 3 if OPERATIONS[op] == "conv3x3-bn-relu" else 1)


def graph_hash(genome: Int64[np.ndarray, " g"]) -> str:
    """The benchmark's own fingerprint of a cell, equal for isomorphic cells (iterated MD5 of neighbourhoods)."""
    matrix, ops = _unpack(genome)
    v = len(matrix)
    labels = [-1, *ops, -2]
    hashes = [_md5(str((int(matrix[x].sum()), int(matrix[:, x].sum()), labels[x]))) for x in range(v)]
    for _ in range(v):
        hashes = [
            _md5(
                "".join(sorted(hashes[u] for u in range(v) if matrix[u, x]))
                + "|"
                + "".join(sorted(hashes[u] for u in range(v) if matrix[x, u]))
                + "|"
                + hashes[x]
            )
            for x in range(v)
        ]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
