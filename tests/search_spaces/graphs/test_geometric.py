"""Graphs as torch-geometric has them."""

from __future__ import annotations

import doctest
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GraphConv, global_mean_pool
from torch_geometric.transforms import ToUndirected

import gennape as gp
from gennape.errors import InvalidGraphError
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs import geometric
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.geometric import N_INPUTS, SIZES, from_batch, from_data, to_batch, to_data
from gennape.search_spaces.graphs.graph import N_COLUMNS, Column, ComputationGraph, PackedGraphs, concatenate, pack
from gennape.search_spaces.graphs.ops import VOCABULARY_SIZE, Op

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = st.integers(0, 10_000)
ARRAYS = ("nodes", "scalars", "edges", "node_offsets", "edge_offsets")


def _assert_same(found: PackedGraphs, expected: PackedGraphs) -> None:
    for name in ARRAYS:
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b), name


@pytest.fixture
def graphs() -> PackedGraphs:
    return concatenate([space.graphs(space.sample(np.random.default_rng(3), 3)) for space in FAMILIES])


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_a_graph_comes_back(seed: int, random_graph: Callable[[int], ComputationGraph]) -> None:
    graph = random_graph(seed)
    data = to_data(graph)
    assert data.validate()
    assert (data.num_nodes, data.num_edges, data.num_features) == (graph.n_nodes, len(graph.edges), N_INPUTS)
    found = from_data(data)
    assert found == graph
    assert (found.nodes.dtype, found.scalars.dtype, found.edges.dtype) == (np.int32, np.float64, np.int32)


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(SEEDS, min_size=1, max_size=6))
def test_packed_graphs_come_back(seeds: list[int], random_graph: Callable[[int], ComputationGraph]) -> None:
    packed = pack([random_graph(seed) for seed in seeds])
    batch = to_batch(packed)
    assert batch.num_graphs == len(packed)
    assert batch.ptr.tolist() == packed.node_offsets.tolist()
    assert batch.batch.tolist() == packed.graph_index.tolist()
    _assert_same(from_batch(batch), packed)
    assert [from_data(data) for data in batch.to_data_list()] == [packed[i] for i in range(len(packed))]


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(SEEDS, min_size=1, max_size=4), seed=SEEDS)
def test_edges_of_one_graph_may_lie_anywhere_in_a_batch(
    seeds: list[int], seed: int, random_graph: Callable[[int], ComputationGraph]
) -> None:
    """Interleaved with those of other graphs, each graph's in their order."""
    packed = pack([random_graph(s) for s in seeds])
    batch = to_batch(packed)
    owner = np.repeat(np.arange(len(packed)), np.diff(packed.edge_offsets))
    places = np.argsort(np.random.default_rng(seed).permutation(owner), kind="stable")
    order = np.empty_like(places)
    order[places] = np.arange(len(places))
    batch.edge_index = batch.edge_index[:, torch.from_numpy(order)]
    _assert_same(from_batch(batch), packed)


def test_every_family_comes_back_through_a_loader(graphs: PackedGraphs) -> None:
    parts = [from_batch(batch) for batch in DataLoader([to_data(graphs[i]) for i in range(len(graphs))], batch_size=4)]
    _assert_same(concatenate(parts), graphs)


def test_what_a_network_looks_at() -> None:
    b = GraphBuilder()
    b.output(b.conv(b.input(3, 8, 8), 7, 3))
    x = to_data(b.build()).x
    assert x.dtype == torch.float32
    assert x[:, :VOCABULARY_SIZE].argmax(1).tolist() == [Op.INPUT, Op.CONV, Op.OUTPUT]
    assert x[:, :VOCABULARY_SIZE].sum(1).tolist() == [1, 1, 1]
    conv = dict(zip(SIZES, x[1, VOCABULARY_SIZE:].tolist(), strict=True))
    assert (conv[Column.C_IN], conv[Column.C_OUT], conv[Column.KERNEL_H], conv[Column.DILATION_W]) == (2, 3, 2, 1)


def test_copies_and_additions_leave_graphs_as_they_are(graphs: PackedGraphs) -> None:
    batch = to_batch(graphs)
    before = [getattr(graphs, name).copy() for name in ARRAYS]
    batch.x, batch.y = batch.x * 2, torch.zeros(len(graphs))
    _assert_same(from_batch(batch), graphs)
    for tensor in (batch.nodes, batch.scalars, batch.edge_index):
        tensor.zero_()
    data = to_data(graphs[0])
    found = from_data(data)
    for tensor in (data.nodes, data.scalars, data.edge_index):
        tensor.zero_()
    assert found == graphs[0]
    assert all(np.array_equal(getattr(graphs, name), array) for name, array in zip(ARRAYS, before, strict=True))


def test_a_network_of_torch_geometric_learns_from_batches() -> None:
    """It tells the convolutions of a cell: their share of its nodes is a mean of what it sees."""

    class GraphNetwork(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = GraphConv(N_INPUTS, 16, aggr="mean"), GraphConv(16, 16, aggr="mean")
            self.last = torch.nn.Linear(16, 1)

        def forward(self, batch: Any) -> torch.Tensor:
            x = torch.relu(self.first(batch.x, batch.edge_index))
            x = torch.relu(self.second(x, batch.edge_index))
            return self.last(global_mean_pool(x, batch.batch)).squeeze(1)

    space = family("nb101")
    graphs = space.graphs(space.sample(np.random.default_rng(0), 32))
    shares = [float((graphs[i].nodes[:, Column.OP] == Op.CONV).mean()) for i in range(len(graphs))]
    target = torch.tensor(shares)
    target = (target - target.mean()) / target.std()
    torch.manual_seed(0)
    network, batch, losses = GraphNetwork(), to_batch(graphs), []
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(200):
        loss = torch.nn.functional.mse_loss(network(batch), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    assert network.first.lin_rel.weight.grad.abs().max() > 0
    alone = network(to_batch(graphs.take(np.array([5]))))
    torch.testing.assert_close(alone, network(batch)[5:6], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("nodes", None, rf"nodes must be a dense tensor of torch.int32 \[any, {N_COLUMNS}\], got nothing"),
        ("nodes", [[1]], "got list"),
        ("nodes", torch.zeros(4, 3), r"got torch.float32 \[4, 3\]"),
        ("nodes", torch.zeros(4, dtype=torch.int32), r"got torch.int32 \[4\]"),
        ("nodes", torch.zeros(4, 3, dtype=torch.int32), r"got torch.int32 \[4, 3\]; to_data makes such"),
        ("nodes", torch.zeros(4, N_COLUMNS, dtype=torch.int32, device="meta"), "nodes must be a dense tensor"),
        ("nodes", torch.zeros(4, N_COLUMNS, dtype=torch.int32).to_sparse(), "nodes must be a dense tensor"),
        ("scalars", None, r"scalars must be a dense tensor of torch.float64 \[\d+\], got nothing"),
        ("scalars", torch.zeros(2, dtype=torch.float64), r"scalars must be .*, got torch.float64 \[2\]"),
        ("edge_index", None, "edge_index must be a dense tensor"),
        ("edge_index", torch.zeros(2, 3), "edge_index must be a dense tensor"),
        ("edge_index", torch.zeros(3, 3, dtype=torch.int64), r"torch.int64 \[2, any\], got torch.int64 \[3, 3\]"),
        ("edge_index", torch.full((2, 3), -1), "edge_index must name nodes 0 to .*, got -1 to -1"),
        ("edge_index", torch.full((2, 3), 10**6), "got 1000000 to 1000000"),
        ("edge_index", torch.zeros(2, 0, dtype=torch.int64), "graph 0, node"),
        ("edge_index", torch.ones(2, 3, dtype=torch.int64), "graph 0, node"),
    ],
)
def test_malformed_attributes_are_refused(graphs: PackedGraphs, name: str, value: Any, told: str) -> None:
    for made, read in ((to_data(graphs[0]), from_data), (to_batch(graphs.take(np.array([0]))), from_batch)):
        setattr(made, name, value)
        with pytest.raises(InvalidGraphError, match=told):
            read(made)


@pytest.mark.parametrize("ptr", [None, [], [0], [1, 2], [0, 5], [0, 9, 4, 10**6], [[0, 1]], [0.0, 1.0]], ids=repr)
def test_malformed_batches_are_refused(graphs: PackedGraphs, ptr: Any) -> None:
    batch = to_batch(graphs.take(np.arange(2)))
    batch.ptr = None if ptr is None else torch.tensor(ptr, dtype=None if ptr else torch.int64)
    with pytest.raises(InvalidGraphError, match="ptr must"):
        from_batch(batch)


def test_networks_that_cannot_be_run_are_refused(graphs: PackedGraphs) -> None:
    data = to_data(graphs[0])
    data.nodes[1, Column.OP] = 31
    with pytest.raises(InvalidGraphError, match=r"graph 0, node 1: an unknown operation code 31"):
        from_data(data)
    with pytest.raises(InvalidGraphError):
        from_data(ToUndirected()(to_data(graphs[0])))
    batch = to_batch(graphs)
    batch.edge_index[1, -1] = 0  # from the last graph into the first
    with pytest.raises(InvalidGraphError, match="edge from another graph"):
        from_batch(batch)
    b = GraphBuilder()
    b.output(b.conv(b.input(3, 8, 8), 7, 3))
    data = to_data(b.build())
    data.nodes[1, Column.DILATION_H] = 5
    with pytest.raises(InvalidGraphError, match="graph 0, node 1"):
        from_data(data)


def test_other_things_are_refused(graphs: PackedGraphs) -> None:
    data, batch = to_data(graphs[0]), to_batch(graphs)
    with pytest.raises(InvalidGraphError, match="got DataBatch; a Batch is read by from_batch"):
        from_data(batch)
    with pytest.raises(InvalidGraphError, match="got Data; a Data is read by from_data"):
        from_batch(data)
    for read in (from_data, from_batch):
        with pytest.raises(InvalidGraphError, match="got dict"):
            read({"x": 1})
    with pytest.raises(InvalidGraphError, match="at least one graph"):
        to_batch(graphs.take(np.zeros(0, np.int64)))
    with pytest.raises(InvalidGraphError, match="input nodes"):
        from_data(Data(nodes=data.nodes[:0], scalars=data.scalars[:0], edge_index=data.edge_index[:, :0]))
    assert isinstance(batch, Batch)


def test_examples_run() -> None:
    found = [test for test in doctest.DocTestFinder().find(geometric, globs={"np": np}) if test.examples]
    assert {test.name.rpartition(".")[2] for test in found} == {"to_data", "to_batch", "from_data", "from_batch"}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in found:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.cluster
def test_torch_geometric_is_imported_where_it_is_used() -> None:
    code = (
        "import sys, gennape as gp, numpy as np\n"
        "to_data = gp.to_data\n"
        "space = gp.family('nb201')\n"
        "graphs = space.graphs(space.sample(np.random.default_rng(0), 1))\n"
        "assert 'torch_geometric' not in sys.modules\n"
        "to_data(graphs[0])\n"
        "assert 'torch_geometric' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert gp.to_data is to_data
