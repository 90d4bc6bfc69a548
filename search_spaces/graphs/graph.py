"""The computation graph: one representation of any network, stored as flat arrays."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, Shaped

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.columns import N_COLUMNS, Column
from gennape.search_spaces.graphs.ops import MERGES, Op
from gennape.search_spaces.graphs.weight_sharing import differing_weights

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

__all__ = [
    "MAX_NODES",
    "N_COLUMNS",
    "Column",
    "ComputationGraph",
    "PackedGraphs",
    "concatenate",
    "offsets_of",
    "pack",
    "topological_levels",
    "validate",
]

#: Maximum nodes of a graph: about ten times the largest networks. Algorithms that go depth by depth take seconds.
MAX_NODES = 2**15
_MAX_WORK = 2.0**56  # upper bound of a node's multiply-accumulates, so that sums over a graph fit into 64 bits


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ComputationGraph:
    """An executable network of primitive operations, with n nodes and e edges.

    The operations have the codes of GENNAPE's vocabulary (Mills et al., AAAI 2023) and further ones.

    Args:
        nodes: int32 [n, a], one row per operation, with the columns of :class:`Column`.
        scalars: float64 [n], the one real parameter an operation may have (epsilon of a normalisation, slope of a leaky
            ReLU, exponent of a power, constant of a scale, shift or padding, multiply-accumulates of an operation that
            is not in the vocabulary), else 0.
        edges: int32 [e, 2], (source, target). The edges into one node are in the order of its inputs. A pair may
            repeat (``x + x``).

    Example:
        >>> import gennape as gp
        >>> b = gp.GraphBuilder()
        >>> _ = b.output(b.relu(b.conv(b.input(3, 32, 32), 16, kernel=3)))
        >>> graph = b.build()
        >>> graph
        ComputationGraph(4 nodes, 3x32x32 to 16x32x32)
        >>> graph.edges.tolist()
        [[0, 1], [1, 2], [2, 3]]
    """

    nodes: Int32[np.ndarray, "n a"]
    scalars: Float64[np.ndarray, " n"]
    edges: Int32[np.ndarray, "e 2"]

    @property
    def n_nodes(self) -> int:
        """Number of operations."""
        return len(self.nodes)

    def __repr__(self) -> str:
        """How many nodes, and what goes in and comes out, as channels x height x width."""
        ends = []
        for op in (Op.INPUT, Op.OUTPUT):
            rows = self.nodes[self.nodes[:, Column.OP] == op, Column.C_OUT : Column.W_OUT + 1]
            ends.append("x".join(map(str, rows[0].tolist())) if len(rows) else "nothing")
        return f"ComputationGraph({self.n_nodes} nodes, {ends[0]} to {ends[1]})"

    def to_data(self) -> Data:
        """This graph as a ``Data`` of torch-geometric; see :func:`gennape.to_data`."""
        import gennape  # noqa: PLC0415 (its names are imported when they are used)

        return gennape.to_data(self)

    def _repr_html_(self) -> str:
        """Its drawing, for notebooks."""
        from gennape.notebook import drawing  # noqa: PLC0415 (only where a graph is shown)

        return drawing(self)

    def __eq__(self, other: object) -> bool:
        """Equal arrays, node order included; see ``canonical.canonical_hashes`` for equality up to node order."""
        if not isinstance(other, ComputationGraph):
            return NotImplemented
        return (
            np.array_equal(self.nodes, other.nodes)
            and np.array_equal(self.scalars, other.scalars)
            and np.array_equal(self.edges, other.edges)
        )

    __hash__ = None  # type: ignore[assignment]

    def relabel(self, order: Int64[np.ndarray, " n"]) -> ComputationGraph:
        """The same network with its nodes in another order.

        Args:
            order: int64 [n], a permutation: new node ``i`` is old node ``order[i]``.

        Returns:
            The graph.
        """
        position = np.empty(self.n_nodes, np.int32)
        position[order] = np.arange(self.n_nodes, dtype=np.int32)
        return ComputationGraph(self.nodes[order], self.scalars[order], position[self.edges])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PackedGraphs:
    """Many graphs in one set of arrays, which storage, cost, hashing and predictors take.

    The arrays are those of :class:`ComputationGraph`, concatenated. Graph ``i`` owns nodes
    ``node_offsets[i]:node_offsets[i + 1]`` and edges ``edge_offsets[i]:edge_offsets[i + 1]``. ``graphs[i]`` is one
    graph, and ``len(graphs)`` their number g.

    Args:
        nodes: int32 [n, a], the operations of all graphs.
        scalars: float64 [n].
        edges: int64 [e, 2], (source, target), counted over the nodes of all graphs.
        node_offsets: int64 [g + 1].
        edge_offsets: int64 [g + 1].

    Example:
        >>> import gennape as gp
        >>> space = gp.family("hiaml")
        >>> graphs = space.graphs(space.sample(np.random.default_rng(0), 100))
        >>> len(graphs), len(graphs.take(np.array([0, 0, 5])))
        (100, 3)
        >>> gp.flops(graphs).shape
        (100,)
    """

    nodes: Int32[np.ndarray, "n a"]
    scalars: Float64[np.ndarray, " n"]
    edges: Int64[np.ndarray, "e 2"]
    node_offsets: Int64[np.ndarray, " g1"]
    edge_offsets: Int64[np.ndarray, " g1"]

    def __len__(self) -> int:
        return len(self.node_offsets) - 1

    def __repr__(self) -> str:
        """How many graphs, with how many nodes in all."""
        return f"PackedGraphs({len(self)} graphs, {len(self.nodes)} nodes)"

    def to_batch(self) -> Batch:
        """These graphs as one ``Batch`` of torch-geometric; see :func:`gennape.to_batch`."""
        import gennape  # noqa: PLC0415 (its names are imported when they are used)

        return gennape.to_batch(self)

    @property
    def graph_index(self) -> Int64[np.ndarray, " n"]:
        """For each node the graph that owns it."""
        return np.repeat(np.arange(len(self)), np.diff(self.node_offsets))

    def __getitem__(self, index: SupportsIndex) -> ComputationGraph:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        n0, n1 = self.node_offsets[index : index + 2]
        e0, e1 = self.edge_offsets[index : index + 2]
        return ComputationGraph(self.nodes[n0:n1], self.scalars[n0:n1], (self.edges[e0:e1] - n0).astype(np.int32))

    def take(self, indices: Int64[np.ndarray, " k"]) -> PackedGraphs:
        """Some of the graphs.

        Args:
            indices: int64 [k], in any order, with or without repetitions.

        Returns:
            A set of k graphs.
        """
        n_count, e_count = np.diff(self.node_offsets)[indices], np.diff(self.edge_offsets)[indices]
        node_offsets, edge_offsets = offsets_of(n_count), offsets_of(e_count)
        node_rows = _ranges(self.node_offsets[indices], n_count, node_offsets)
        edge_rows = _ranges(self.edge_offsets[indices], e_count, edge_offsets)
        shift = np.repeat(node_offsets[:-1] - self.node_offsets[indices], e_count)
        edges = self.edges[edge_rows] + shift[:, None]
        return PackedGraphs(self.nodes[node_rows], self.scalars[node_rows], edges, node_offsets, edge_offsets)


def offsets_of(counts: Int64[np.ndarray, " g"]) -> Int64[np.ndarray, " g1"]:
    """Start of each run of ``counts`` and the end of the last."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _ranges(
    starts: Int64[np.ndarray, " k"], counts: Int64[np.ndarray, " k"], offsets: Int64[np.ndarray, " k1"]
) -> Int64[np.ndarray, " m"]:
    """``concatenate([arange(s, s + c) for s, c in zip(starts, counts)])`` without a loop."""
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)


def pack(graphs: Sequence[ComputationGraph]) -> PackedGraphs:
    """Concatenate graphs into one packed set.

    Args:
        graphs: Any number of graphs, also none.

    Returns:
        The set, in the same order.

    Example:
        >>> import gennape as gp
        >>> spaces = (gp.family("nb201"), gp.family("hiaml"))
        >>> mixed = gp.pack([space.graph(space.sample(np.random.default_rng(0), 1)[0]) for space in spaces])
        >>> mixed[1] == spaces[1].graph(spaces[1].sample(np.random.default_rng(0), 1)[0])
        True
    """
    node_offsets = offsets_of(np.array([g.n_nodes for g in graphs], np.int64))
    edge_counts = np.array([len(g.edges) for g in graphs], np.int64)
    if not graphs:
        empty = np.zeros((0, 2), np.int64)
        return PackedGraphs(
            np.zeros((0, N_COLUMNS), np.int32), np.zeros(0), empty, node_offsets, offsets_of(edge_counts)
        )
    edges = np.concatenate([g.edges for g in graphs]).astype(np.int64)
    edges += np.repeat(node_offsets[:-1], edge_counts)[:, None]
    return PackedGraphs(
        np.concatenate([g.nodes for g in graphs]),
        np.concatenate([g.scalars for g in graphs]),
        edges,
        node_offsets,
        offsets_of(edge_counts),
    )


def concatenate(sets: Sequence[PackedGraphs]) -> PackedGraphs:
    """One packed set of the graphs of several, in order."""
    if not sets:
        return pack([])
    node_counts = np.concatenate([np.diff(s.node_offsets) for s in sets])
    edge_counts = np.concatenate([np.diff(s.edge_offsets) for s in sets])
    starts = offsets_of(np.array([len(s.nodes) for s in sets], np.int64))
    return PackedGraphs(
        np.concatenate([s.nodes for s in sets]),
        np.concatenate([s.scalars for s in sets]),
        np.concatenate([s.edges + start for s, start in zip(sets, starts[:-1], strict=True)]),
        offsets_of(node_counts),
        offsets_of(edge_counts),
    )


def validate(graphs: PackedGraphs) -> None:
    """Refuse arrays that are not executable networks.

    Raises :class:`InvalidGraphError` naming the first offending graph and node: array shapes, unknown operations, edges
    that leave their graph, other than one input or one output, cycles, or shapes that disagree along an edge.
    """
    _validate_arrays(graphs)
    owner = graphs.graph_index
    op = graphs.nodes[:, Column.OP]
    _refuse(~np.isin(op, [int(o) for o in Op]), owner, op, "an unknown operation code")
    for code, name in ((Op.INPUT, "input"), (Op.OUTPUT, "output")):
        count = np.bincount(owner[op == code], minlength=len(graphs))
        if (count != 1).any():
            bad = int(np.flatnonzero(count != 1)[0])
            raise InvalidGraphError(f"graph {bad} has {count[bad]} {name} nodes; a computation graph has exactly one")
    source, target = graphs.edges.T
    if (owner[source] != owner[target]).any():
        bad = int(owner[target[owner[source] != owner[target]][0]])
        raise InvalidGraphError(f"graph {bad} has an edge from another graph; edges join nodes of one graph")
    fan_in = np.bincount(target, minlength=len(op))
    _refuse(
        np.asarray(np.not_equal(fan_in == 0, op == Op.INPUT)),
        owner,
        fan_in,
        "inputs, but only the input node has none, got",
    )
    _refuse(~np.isin(op, MERGES) & (fan_in > 1), owner, fan_in, "more than one input to a one-input operation:")
    topological_levels(graphs)
    _validate_shapes(graphs, owner, op)


def _validate_arrays(graphs: PackedGraphs) -> None:
    nodes, edges = graphs.nodes, graphs.edges
    if nodes.ndim != 2 or nodes.shape[1] != N_COLUMNS or edges.ndim != 2 or edges.shape[1] != 2:
        raise InvalidGraphError(f"nodes must be [n, {N_COLUMNS}] and edges [e, 2], got {nodes.shape} and {edges.shape}")
    if graphs.scalars.shape != (len(nodes),) or not np.isfinite(graphs.scalars).all():
        raise InvalidGraphError(f"scalars must be {len(nodes)} finite numbers, got shape {graphs.scalars.shape}")
    for offsets, total, what in ((graphs.node_offsets, len(nodes), "node"), (graphs.edge_offsets, len(edges), "edge")):
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
            raise InvalidGraphError(f"{what} offsets must rise from 0 to {total}, got {offsets[:5]}..{offsets[-1:]}")
    sizes = np.diff(graphs.node_offsets)
    if sizes.max(initial=0) > MAX_NODES:
        large = int(sizes.argmax())
        raise InvalidGraphError(f"graph {large} has {sizes[large]} nodes, more than {MAX_NODES}; divide the network")
    if len(edges) and (edges.min() < 0 or edges.max() >= len(nodes)):
        raise InvalidGraphError(f"edges name nodes {edges.min()}..{edges.max()}, but nodes are 0..{len(nodes) - 1}")


def _validate_shapes(graphs: PackedGraphs, owner: Int64[np.ndarray, " n"], op: Int32[np.ndarray, " n"]) -> None:
    nodes = graphs.nodes
    sizes = nodes[:, Column.C_IN : Column.W_OUT + 1]
    _refuse(np.asarray((sizes < 1).any(1)), owner, sizes.min(1), "a channel, height or width below 1:")
    _refuse(np.asarray((nodes < 0).any(1)), owner, nodes.min(1), "an attribute below 0:")
    _refuse(nodes[:, Column.AXIS] > 3, owner, nodes[:, Column.AXIS], "an axis beyond 3:")
    _refuse(nodes[:, Column.GROUPS] < 1, owner, nodes[:, Column.GROUPS], "groups below 1:")
    _refuse(
        differing_weights(nodes, owner),
        owner,
        nodes[:, Column.TIED],
        "weights of another shape than those of the nodes that it shares them with; its group of shared weights is",
    )
    c_in, h_in, w_in, c_out, h_out, w_out, kernel_h, kernel_w = nodes[:, Column.C_IN : Column.KERNEL_W + 1].T * 1.0
    filters = np.maximum(kernel_h * kernel_w, 1) * c_in * np.maximum(h_in * w_in, h_out * w_out)
    work = c_out * np.maximum(filters, h_out * w_out * w_in)
    _refuse(work > _MAX_WORK, owner, work, "more work than can be counted:")
    other = np.where(op == Op.OTHER, graphs.scalars, 0.0)
    _refuse((other < 0) | (other > _MAX_WORK), owner, other, "declared multiply-accumulates out of range:")
    source, target = graphs.edges.T
    produced, taken = nodes[source, Column.C_OUT : Column.W_OUT + 1], nodes[target, Column.C_IN : Column.W_IN + 1]
    differ = produced != taken
    # A gate of 1x1 multiplies every pixel; joined inputs may differ along the axis; an other's may be of any shape.
    differ &= ~(np.isin(op[target], (Op.ADD, Op.MUL))[:, None] & (produced == 1))
    axis = np.clip(nodes[:, Column.AXIS], 0, 2)
    differ &= ~((op[target] == Op.CONCAT)[:, None] & (axis[target, None] == np.arange(3)))
    first = np.zeros(len(source), bool)
    first[np.unique(target, return_index=True)[1]] = True
    differ &= ~(np.isin(op[target], (Op.MATMUL, Op.OTHER)) & ~first)[:, None]
    bad = np.zeros(len(op), bool)
    bad[target[differ.any(1)]] = True
    _refuse(bad, owner, sizes[:, 0], "an input shape that its producer does not make; input channels")
    joined = np.bincount(target, weights=produced[np.arange(len(target)), axis[target]], minlength=len(op))
    made = nodes[np.arange(len(op)), Column.C_OUT + axis]
    _refuse((op == Op.CONCAT) & (joined != made), owner, joined, "a joined size other than its own:")


def _refuse(
    bad: Bool[np.ndarray, " n"], owner: Int64[np.ndarray, " n"], got: Shaped[np.ndarray, " n"], what: str
) -> None:
    if bad.any():
        node = int(np.flatnonzero(bad)[0])
        first = int(np.searchsorted(owner, owner[node]))
        raise InvalidGraphError(f"graph {owner[node]}, node {node - first}: {what} {got[node]}")


def topological_levels(graphs: PackedGraphs) -> list[Int64[np.ndarray, " k"]]:
    """Nodes grouped so that every edge goes from an earlier group to a later one; all graphs advance together.

    Raises :class:`InvalidGraphError` if a graph has a cycle.
    """
    source, target = graphs.edges.T
    n = len(graphs.nodes)
    order = np.argsort(source, kind="stable")
    successors, starts = target[order], offsets_of(np.bincount(source, minlength=n))
    counts = np.diff(starts)
    waiting = np.bincount(target, minlength=n)
    level = np.flatnonzero(waiting == 0)
    levels = []
    while len(level):
        levels.append(level)
        k = counts[level]
        reached = successors[_ranges(starts[level], k, offsets_of(k))]
        np.subtract.at(waiting, reached, 1)
        level = np.unique(reached[waiting[reached] == 0])
    if sum(map(len, levels)) != n:
        bad = int(graphs.graph_index[np.flatnonzero(waiting > 0)[0]])
        raise InvalidGraphError(f"graph {bad} has a cycle; a computation graph is acyclic")
    return levels
