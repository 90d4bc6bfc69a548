"""What is written as ONNX comes back as the same graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from example_counts import examples
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from space_checks import graph_hash

from gennape.search_spaces.exporting.onnx import to_onnx
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.graphs.operations import RESIZE_MODES
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.imported import without_dead_ends
from gennape.search_spaces.importing.onnx import import_onnx, read_onnx

SEEDS = st.integers(0, 2**32 - 1)
EACH = settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RandomGraph = Callable[[int], ComputationGraph]


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_families_come_back_as_the_same_graph(space: SearchSpace, tmp_path: Path) -> None:
    graphs = space.graphs(space.sample(np.random.default_rng(3), 8))
    graph = graphs[int(cost.params(graphs).argmin())]
    for opset in (13, 23):
        to_onnx(graph, compile_graph(graph), tmp_path / "model.onnx", opset)
        assert graph_hash(read_onnx(tmp_path / "model.onnx")) == graph_hash(graph)


#: Operations that change nothing where they keep the shape, so that a reader leaves them out.
_PASSING = (Op.IDENTITY, Op.CONCAT, Op.SLICE, Op.RESIZE, Op.PAD, Op.RESHAPE)


def _as_read(graph: ComputationGraph) -> ComputationGraph:
    """The graph without dead ends and nodes that change nothing; a learnt slope starts anywhere."""
    graph, _ = without_dead_ends(graph)
    sources: list[list[int]] = [[] for _ in range(graph.n_nodes)]
    for source, target in graph.edges.tolist():
        sources[target].append(source)
    place = np.arange(graph.n_nodes, dtype=np.int32)
    for i, row in enumerate(graph.nodes):
        kept = row[Column.C_IN : Column.W_IN + 1].tolist() == row[Column.C_OUT : Column.W_OUT + 1].tolist()
        if row[Column.OP] in _PASSING and kept and len(sources[i]) == 1:
            place[i] = place[sources[i][0]]
    edges = np.stack([place[graph.edges[:, 0]], graph.edges[:, 1]], 1)
    learnt = (graph.nodes[:, Column.OP] == Op.LEAKYRELU) & (graph.nodes[:, Column.PARAMS] > 0)
    return without_dead_ends(ComputationGraph(graph.nodes, np.where(learnt, 0.0, graph.scalars), edges))[0]


def _told_by_onnx(graph: ComputationGraph) -> bool:
    """Whether ONNX can say it all: not how a vector was turned, nor the step of a slice of one, nor along which axis
    of size 1 is learnt, nor whether a tensor is learnt or fixed, nor a mean over areas, nor that padding counts where
    one axis rounds up and the other drops a window; where axes change places is settled by what takes them."""
    op, kind = graph.nodes[:, Column.OP], graph.nodes[:, Column.KIND]
    shapes = graph.nodes[:, Column.C_IN : Column.W_IN + 1]
    spans = (kind[:, None] >> np.arange(3) & 1) == 1
    unclear = np.isin(op, (Op.SCALE, Op.SHIFT)) & (spans & (shapes == 1)).any(1)
    unclear |= np.isin(op, (Op.LAYERNORM, Op.GROUPNORM, Op.LEAKYRELU)) & (shapes[:, 0] == 1)
    fixed = graph.nodes[:, Column.PARAMS] == 0
    unclear |= fixed & ((np.isin(op, (Op.SCALE, Op.SHIFT)) & (kind > 0)) | (op == Op.EXTEND))
    unclear |= (op == Op.MATMUL) & (shapes[:, 1:] == 1).any(1)
    unclear |= (op == Op.RESIZE) & (kind == RESIZE_MODES.index("area"))
    ends = graph.nodes[:, [Column.H_OUT, Column.W_OUT]] == 1
    unclear |= (op == Op.SLICE) & (ends & (graph.nodes[:, [Column.STRIDE_H, Column.STRIDE_W]] > 1)).any(1)
    unclear |= (graph.nodes[:, [Column.CEIL_MODE, Column.COUNT_PAD]] == 1).all(1)
    return not (unclear | np.isin(op, (Op.PERMUTE, Op.RESHAPE))).any()


def _told_in_one_way(graph: ComputationGraph) -> bool:
    """Whether nothing in it is read in a shorter way: a value times its sigmoid, pixels that are repeated whole
    times, a constant factor before a product of two values, a slice of a slice."""
    op, kind = graph.nodes[:, Column.OP], graph.nodes[:, Column.KIND]
    sources = [set(graph.edges[graph.edges[:, 1] == i, 0].tolist()) for i in range(graph.n_nodes)]
    gates = np.flatnonzero(np.isin(op, (Op.SIGMOID, Op.HARDSIGMOID))).tolist()
    swish = any(sources[i] == sources[gate] | {gate} for gate in gates for i in np.flatnonzero(op == Op.MUL))
    before, after = (graph.nodes[:, [h, w]] for h, w in ((Column.H_IN, Column.W_IN), (Column.H_OUT, Column.W_OUT)))
    repeats = (op == Op.RESIZE) & (kind == RESIZE_MODES.index("nearest-exact")) & (after % before == 0).all(1)
    constant = (op == Op.SCALE) & (graph.nodes[:, Column.PARAMS] == 0)
    factors = constant[graph.edges[:, 0]] & (op[graph.edges[:, 1]] == Op.MATMUL)
    slices = (op[graph.edges] == Op.SLICE).all(1)
    return not (swish or repeats.any() or factors.any() or slices.any())


@EACH
@given(seed=SEEDS, opset=st.integers(13, 23))
def test_any_network_comes_back_as_the_same_graph(
    seed: int, opset: int, random_graph: RandomGraph, tmp_path: Path
) -> None:
    graph = _as_read(random_graph(seed))
    assume(_told_by_onnx(graph) and _told_in_one_way(graph))
    to_onnx(graph, compile_graph(graph), tmp_path / "model.onnx", opset)
    assert graph_hash(read_onnx(tmp_path / "model.onnx")) == graph_hash(graph)


@EACH
@given(seed=SEEDS)
def test_what_was_read_is_written_and_read_as_itself(seed: int, random_graph: RandomGraph, tmp_path: Path) -> None:
    """Where axes change places a reader may move nodes, but only once, and never their cost."""
    path, graph = tmp_path / "model.onnx", _as_read(random_graph(seed))
    to_onnx(graph, compile_graph(graph), path)
    first = import_onnx(path)
    assume(not first.others)
    to_onnx(first.graph, compile_graph(first.graph), path)
    assert graph_hash(read_onnx(path)) == graph_hash(first.graph)
