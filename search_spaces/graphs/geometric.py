"""Computation graphs as ``Data`` and ``Batch`` of torch-geometric, and back without loss.

What a ``Data`` holds of a graph of n nodes and e edges:

=============  ===============  =============================================================================
``x``          float32 [n, f]   for networks: one column per operation, 1 where the node is one, then
                                log2(1 + value) of each attribute in :data:`SIZES`
``edge_index`` int64 [2, e]     sources above targets; edges into one node stand in the order of its inputs
``nodes``      int32 [n, a]     the attributes as they are, columns as in :class:`Column`
``scalars``    float64 [n]      the real parameter of each node
=============  ===============  =============================================================================

A graph is read back from ``edge_index``, ``nodes`` and ``scalars`` alone: ``x`` may be scaled, replaced or
extended, and labels (``data.y``) or other attributes may be added. Transforms that add, drop or reorder edges
(``coalesce``, ``ToUndirected``) make another network; most are refused, but a new order of inputs is not noticed.

torch-geometric is imported when a function is called: it takes seconds, and nothing else of gennape needs it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.graph import (
    N_COLUMNS,
    Column,
    ComputationGraph,
    PackedGraphs,
    offsets_of,
    pack,
    validate,
)
from gennape.search_spaces.graphs.ops import VOCABULARY_SIZE, Op
from gennape.search_spaces.graphs.plan import refuse_false_convolutions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from torch_geometric.data import Batch, Data

#: Attributes that are numbers, in the order of their columns in ``x``. An operation, a kind and a group of shared
#: weights are names, of which a logarithm would say nothing.
SIZES = tuple(column for column in Column if column not in {Column.OP, Column.KIND, Column.TIED})
#: Columns of ``x``.
N_INPUTS = VOCABULARY_SIZE + len(SIZES)


def to_data(graph: ComputationGraph) -> Data:
    """A graph as ``Data`` of torch-geometric.

    Args:
        graph: The network.

    Returns:
        ``x`` float32 [n, :data:`N_INPUTS`], ``edge_index`` int64 [2, e], ``nodes`` int32 [n, a] and ``scalars`` float64
        [n], on the processor. They are copies: changing them leaves the graph as it is.

    Example:
        >>> import gennape as gp
        >>> graph = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 1))[0]
        >>> data = gp.to_data(graph)
        >>> data.num_nodes == graph.n_nodes, data.num_edges == len(graph.edges)
        (True, True)
        >>> gp.from_data(data) == graph
        True
    """
    return _all_data(pack([graph]))[0]


def to_batch(graphs: PackedGraphs) -> Batch:
    """Packed graphs as one ``Batch`` of torch-geometric, which its networks and loaders take.

    Args:
        graphs: At least one network.

    Returns:
        The attributes of :func:`to_data`, of all graphs one after another, with ``batch`` int64 [n], the graph of each
        node, and ``ptr`` int64 [g + 1], where each graph starts. ``batch.to_data_list()`` parts it.

    Raises:
        InvalidGraphError: There is no graph; torch-geometric knows no empty batch.

    Example:
        >>> import gennape as gp
        >>> from torch_geometric.nn import GraphConv, global_mean_pool
        >>> graphs = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 8))
        >>> batch = gp.to_batch(graphs)
        >>> layer = GraphConv(batch.num_features, 16)
        >>> global_mean_pool(layer(batch.x, batch.edge_index), batch.batch).shape
        torch.Size([8, 16])
    """
    if not len(graphs):
        raise InvalidGraphError("a batch of torch-geometric holds at least one graph, got none; pass some graphs")
    made: Batch = _geometric().Batch.from_data_list(_all_data(graphs))
    return made


def from_data(data: Data) -> ComputationGraph:
    """The graph that :func:`to_data` made a ``Data`` of.

    Args:
        data: With ``edge_index``, ``nodes`` and ``scalars``, on any device; all else is passed over.

    Returns:
        The graph, equal to the one that it was made of.

    Raises:
        InvalidGraphError: An attribute is missing or of another type or shape, or what they describe is not an
            executable network. The message names attribute or node.

    Example:
        >>> import gennape as gp
        >>> graph = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 1))[0]
        >>> data = gp.to_data(graph)
        >>> data.nodes[1, 4] += 1  # one more channel than the next node takes
        >>> gp.from_data(data)
        Traceback (most recent call last):
        gennape.errors.InvalidGraphError: graph 0, node 2: an input shape that its producer does not make...
    """
    if not isinstance(data, _geometric().Data) or isinstance(data, _geometric().Batch):
        raise InvalidGraphError(f"a Data of torch-geometric is read, got {_kind(data)}; a Batch is read by from_batch")
    return _checked(data, None)[0]


def from_batch(batch: Batch) -> PackedGraphs:
    """The packed graphs that :func:`to_batch` made a ``Batch`` of.

    Args:
        batch: With ``edge_index``, ``nodes``, ``scalars`` and ``ptr``, on any device; all else is passed over. Batches
            of a ``DataLoader`` over what :func:`to_data` made are read, too.

    Returns:
        The graphs, in the order of the batch.

    Raises:
        InvalidGraphError: As :func:`from_data`; the message names the graph, too.

    Example:
        >>> import gennape as gp
        >>> graphs = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 8))
        >>> gp.from_batch(gp.to_batch(graphs))[3] == graphs[3]
        True
    """
    if not isinstance(batch, _geometric().Batch):
        raise InvalidGraphError(f"a Batch of torch-geometric is read, got {_kind(batch)}; a Data is read by from_data")
    return _checked(batch, _array(batch, "ptr", torch.int64, (None,)))


def _geometric() -> ModuleType:
    with warnings.catch_warnings():
        # It scripts functions as it is imported, which PyTorch advises against; nobody here can change that.
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        import torch_geometric.data  # noqa: PLC0415
    module: ModuleType = torch_geometric.data
    return module


def _all_data(graphs: PackedGraphs) -> list[Data]:
    made = _geometric().Data
    inputs = torch.from_numpy(_inputs(graphs))
    return [
        made(
            x=inputs[start : start + graph.n_nodes].clone(),  # else each would keep the whole set in memory
            edge_index=torch.from_numpy(np.ascontiguousarray(graph.edges.T, np.int64)),
            nodes=torch.from_numpy(graph.nodes.copy()),
            scalars=torch.from_numpy(graph.scalars.copy()),
        )
        for start, graph in zip(graphs.node_offsets[:-1].tolist(), _each(graphs), strict=True)
    ]


def _each(graphs: PackedGraphs) -> Iterator[ComputationGraph]:
    return (graphs[i] for i in range(len(graphs)))


def _inputs(graphs: PackedGraphs) -> Float32[np.ndarray, "n f"]:
    op = graphs.nodes[:, Column.OP]
    x = np.zeros((len(op), N_INPUTS), np.float32)
    x[np.arange(len(op)), np.where((op >= 0) & (op < VOCABULARY_SIZE), op, int(Op.UNKNOWN))] = 1
    x[:, VOCABULARY_SIZE:] = np.log2(1 + np.maximum(graphs.nodes[:, SIZES], 0).astype(np.float64))
    return x


def _checked(data: Any, ptr: Int64[np.ndarray, " p"] | None) -> PackedGraphs:
    """Attributes as graphs that start at ``ptr``, or as one; edges of several may lie among one another."""
    nodes = _array(data, "nodes", torch.int32, (None, N_COLUMNS))
    scalars = _array(data, "scalars", torch.float64, (len(nodes),))
    edges = _array(data, "edge_index", torch.int64, (2, None)).T
    starts = np.array([0, len(nodes)]) if ptr is None else ptr
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != len(nodes) or (np.diff(starts) < 0).any():
        raise InvalidGraphError(f"ptr must rise from 0 to the {len(nodes)} rows of nodes, got {starts.tolist()[:9]}")
    if edges.size and not 0 <= edges.min() <= edges.max() < len(nodes):
        got = f"{edges.min()} to {edges.max()}"
        raise InvalidGraphError(f"edge_index must name nodes 0 to {len(nodes) - 1}, got {got}")
    owner = np.searchsorted(starts, edges[:, 0], side="right") - 1
    edges = np.ascontiguousarray(edges[np.argsort(owner, kind="stable")])
    counts = np.bincount(owner, minlength=len(starts) - 1)
    graphs = PackedGraphs(nodes, scalars, edges, starts, offsets_of(counts))
    validate(graphs)
    refuse_false_convolutions(graphs)
    return graphs


def _array(data: Any, name: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Shaped[np.ndarray, "..."]:
    """A copy of an attribute; None in ``shape`` stands for any size."""
    value = getattr(data, name, None)
    if (
        isinstance(value, torch.Tensor)
        and (value.dtype, value.ndim, value.layout) == (dtype, len(shape), torch.strided)
        and all(size in {None, found} for size, found in zip(shape, value.shape, strict=True))
        and not value.is_meta
    ):
        array: Shaped[np.ndarray, "..."] = value.detach().cpu().numpy().copy()
        return array
    got = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else _kind(value)
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    raise InvalidGraphError(f"{name} must be a dense tensor of {dtype} [{sizes}], got {got}; to_data makes such")


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
