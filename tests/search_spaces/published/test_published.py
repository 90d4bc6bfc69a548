from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import InvalidGraphError
from gennape.search_spaces.families.conformance import FixtureRow, check_row
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import ComputationGraph, pack
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.published.graphs import (
    VOCABULARY,
    PublishedGraph,
    features,
    published_graph,
    published_graphs,
    to_state_dict,
)
from gennape.search_spaces.published.rows import alike, node_list

FIXTURES = Path(__file__).parents[3].parent / "shared" / "fixtures" / "graphs"
NAMES = ("hiaml", "inception", "nb101", "nb201", "nb301", "ofa_mbv3", "ofa_resnet", "proxylessnas", "two_path")


def _rows(name: str) -> list[dict[str, Any]]:
    path = FIXTURES / f"{name}.jsonl"
    if not path.exists():
        pytest.skip("the published graphs are not beside this checkout")
    return [json.loads(line) for line in path.read_text().splitlines()]


def _published(name: str, config: Any) -> PublishedGraph:
    space = family(name)
    return published_graph(space.graph(space.decode(config), published=True))


# Rows of the published builder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_rows(name: str) -> None:
    space = family(name)
    for row in _rows(name):
        assert check_row(space, FixtureRow(str(row["id"]), row)) == []


def test_rows_that_differ_fail() -> None:
    space = family("hiaml")
    row = next(row for row in _rows("hiaml") if "nodes" in row)

    def problems(**changes: Any) -> list[str]:
        return check_row(space, FixtureRow("0", {**row, **changes}))

    assert problems(n_edges=row["n_edges"] + 1) == [f"n_edges is {row['n_edges']}, expected {row['n_edges'] + 1}"]
    assert "not dict" in problems(op_counts=3)[0]
    (first, second), *rest = row["edges"]
    assert "edges differ" in problems(edges=[[second, first], *rest])[0]
    assert "beyond" in problems(edges=[[0, 10_000], *rest])[0]
    assert "cannot be read" in problems(edges=[["a", 1]])[0]
    node, *others = row["nodes"]
    assert "missing" in problems(nodes=[["conv", *node[1:5], not node[5]], *others])[0]
    assert "must be one of" in problems(config=["hiaml_z"] * 3 + ["x"])[0]


# Rules, each by hand --------------------------------------------------------------------------------------------------


def _names(graph: PublishedGraph) -> list[str]:
    return [VOCABULARY[op] for op in graph.op]


def _named_edges(graph: PublishedGraph) -> list[tuple[str, str]]:
    names = _names(graph)
    return [(names[source], names[target]) for source, target in graph.edges]


def _resolution(graph: PublishedGraph, name: str) -> list[int]:
    resolution: list[int] = graph.resolution[_names(graph).index(name)].tolist()
    return resolution


def test_vocabulary_is_the_published_one() -> None:
    assert len(VOCABULARY) == 32
    told = {Op.UNKNOWN: "<oov>", Op.LINEAR: "matmul", Op.PAD: "paddings"}
    blocks = {Op.SPACETOBATCH, Op.BATCHTOSPACE, Op.SPACETODEPTH, Op.DEPTHTOSPACE}
    for op in (op for op in Op if op <= Op.ZERO):
        assert VOCABULARY[op] == told.get(op, op.name.lower() + "nd" * (op in blocks))


def test_sums_of_one_value_vanish_one_after_another() -> None:
    b = GraphBuilder(published=True)
    x = b.relu(b.input(3, 4, 4))
    twice = b.add(x, x)
    y = b.mul(b.add(twice, x), twice)  # one distinct value too, once the sums are gone
    b.output(b.add(b.batchnorm(y), y))
    graph = published_graph(b.build())
    assert _names(graph) == ["input", "relu", "batchnorm", "add", "output"]
    assert graph.edges.tolist() == [[0, 1], [1, 2], [1, 3], [2, 3], [3, 4]]


def test_concatenations_of_one_value_stay_with_one_edge() -> None:
    b = GraphBuilder(published=True)
    x = b.relu(b.input(3, 4, 4))
    b.output(b.concat(x, x))
    graph = published_graph(b.build())
    assert _names(graph) == ["input", "relu", "concat", "output"]
    assert graph.edges.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert _resolution(graph, "concat") == [4, 4, 4, 4, 3, 6]


def test_sizes_follow_the_first_input() -> None:
    b = GraphBuilder(published=True)
    x = b.input(8, 6, 4)
    gate = b.hardsigmoid(b.conv(b.mean(x), 8, bias=True))
    gated = b.mul(x, gate)
    b.output(b.concat(b.batchnorm(gated), b.elementwise(Op.TANH, x), gated))
    graph = published_graph(b.build())
    assert _names(graph) == ["conv", "input", "mean", "relu6", "mul", "batchnorm", "tanh", "concat", "output"]
    assert _resolution(graph, "mean") == [6, 1, 4, 1, 8, 8]
    assert _resolution(graph, "relu6") == [1, 1, 1, 1, 8, 8]
    assert _resolution(graph, "mul") == [1, 6, 1, 4, 8, 8]  # TensorFlow's first factor is the gate
    assert _resolution(graph, "concat") == [6, 6, 4, 4, 8, 24]
    assert _resolution(graph, "input") == [6, 6, 4, 4, 8, 8]
    assert _resolution(graph, "output") == [6, 6, 4, 4, 24, 24]
    assert graph.bias.tolist() == [True] + [False] * 8


def test_hard_swish_is_a_relu6_and_a_product() -> None:
    b = GraphBuilder(published=True)
    b.output(b.hardswish(b.relu(b.input(3, 4, 4))))
    graph = published_graph(b.build())
    assert _named_edges(graph) == [
        ("input", "relu"),
        ("relu", "relu6"),
        ("relu", "mul"),
        ("relu6", "mul"),
        ("mul", "output"),
    ]
    assert _resolution(graph, "mul") == [4, 4, 4, 4, 3, 3]


def test_slices_vanish_and_what_follows_keeps_its_size() -> None:
    b = GraphBuilder(published=True)
    x = b.relu(b.input(6, 5, 5))
    b.output(b.conv(b.slice(x, 4, 1, 1), 2, 1, 2))
    graph = published_graph(b.build())
    assert _named_edges(graph) == [("conv", "output"), ("input", "relu"), ("relu", "conv")]
    assert _resolution(graph, "conv") == [4, 2, 4, 2, 4, 2]


@pytest.mark.parametrize(
    ("kernel", "stride", "share", "result"),
    # 8 pixels and k - 1 on either side, in halves: (8 + 4) / 2 and (8 + 8) / 2; less k - 1; every second at stride 2.
    [(3, 1, 6, 4), (3, 2, 6, 2), (5, 1, 8, 4), (5, 2, 8, 2)],
)
def test_dilated_convolutions_go_through_batches(kernel: int, stride: int, share: int, result: int) -> None:
    b = GraphBuilder(published=True)
    b.output(b.batchnorm(b.depthwise(b.relu(b.input(3, 8, 8)), kernel, stride, 2)))
    graph = published_graph(b.build())
    assert _names(graph) == ["depthwise", "input", "relu", "spacetobatchnd", "batchtospacend", "batchnorm", "output"]
    assert graph.edges.tolist() == [[0, 4], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6]]
    out = 8 // stride
    assert _resolution(graph, "spacetobatchnd") == [8, share, 8, share, 3, 3]
    assert _resolution(graph, "depthwise") == [share, result, share, result, 3, 3]
    assert _resolution(graph, "batchtospacend") == [result, out, result, out, 3, 3]
    assert graph.shape[0].tolist() == [3, 1, kernel, kernel]
    assert graph.strides.tolist() == [[stride, stride]] + [[0, 0]] * 6


def test_weighted_nodes_come_first() -> None:
    b = GraphBuilder(published=True)
    x = b.maxpool(b.relu(b.conv(b.input(4, 8, 8), 6, (1, 3), (1, 2))), 2, 2)
    x = b.mean(b.conv(b.depthwise(x, 3), 4, 3, groups=2))
    b.output(b.linear(x, 10))
    graph = published_graph(b.build())
    assert _names(graph) == ["conv", "depthwise", "conv", "matmul", "input", "relu", "maxpool", "mean", "output"]
    assert graph.weighted.tolist() == [True] * 4 + [False] * 5
    assert graph.shape.tolist() == [[4, 6, 1, 3], [6, 1, 3, 3], [3, 4, 3, 3], [4, 10, 0, 0], *[[0, 0, 0, 0]] * 5]
    assert graph.strides.tolist() == [[1, 2], [1, 1], [1, 1], [0, 0], [0, 0], [0, 0], [2, 2], [0, 0], [0, 0]]
    assert graph.edges.tolist() == [[0, 5], [1, 2], [2, 7], [3, 8], [4, 0], [5, 6], [6, 1], [7, 3]]


def test_features_are_normalised_and_kernels_are_indices() -> None:
    b = GraphBuilder(published=True)
    b.output(b.linear(b.mean(b.conv(b.input(3, 64, 32), 1024, (5, 1), 2)), 128))
    shown = features(published_graph(b.build()))
    assert shown.op.tolist() == [3, 8, 1, 19, 2]
    assert shown.resolution[0].tolist() == [0.25, 0.125, 0.125, 0.0625, float(np.float32(3 / 512)), 2.0]
    assert shown.kernel.tolist() == [[5, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert shown.bias.tolist() == [[1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
    assert shown.edge_index.tolist() == [[0, 1, 2, 3], [3, 4, 0, 1]]
    assert features(published_graph(b.build()), 32).resolution[0, 0] == 2


def test_kernels_beyond_the_published_embedding_are_refused() -> None:
    b = GraphBuilder(published=True)
    b.output(b.conv(b.input(3, 16, 16), 4, 9))
    with pytest.raises(InvalidGraphError, match="up to 7, got 9"):
        features(published_graph(b.build()))


def test_operations_without_a_published_name_are_refused() -> None:
    b = GraphBuilder(published=True)
    b.output(b.layernorm(b.input(3, 4, 4)))
    with pytest.raises(InvalidGraphError, match="layernorm"):
        published_graph(b.build())


def test_state_dict_has_the_published_keys() -> None:
    b = GraphBuilder(published=True)
    b.output(b.relu(b.conv(b.input(3, 8, 6), 4, 3, 2, bias=True)))
    content = json.loads(json.dumps(to_state_dict(published_graph(b.build()), "small")))
    assert content == {
        "name": "small",
        "input_shape": [1, 8, 6, 3],
        "max_hidden_size": 512,
        "max_kernel_size": 7,
        "max_derived_H": 256,
        "max_derived_W": 256,
        "edge_pairs": [[0, 2], [1, 0], [2, 3]],
        "weighted_nodes": [
            {
                "str_id": "0",
                "op_type_idx": 3,
                "label": "conv",
                "resolution": [8, 4, 6, 3, 3, 4],
                "strides": [1, 2, 2, 1],
                "metadata": {"use_bias": True},
                "shape": [3, 4, 3, 3],
            }
        ],
        "regular_nodes": [
            {
                "str_id": str(index),
                "op_type_idx": code,
                "label": label,
                "resolution": resolution,
                "strides": None,
                "metadata": {"use_bias": False},
            }
            for index, code, label, resolution in (
                (1, 1, "input", [8, 8, 6, 6, 3, 3]),
                (2, 6, "relu", [4, 4, 3, 3, 4, 4]),
                (3, 2, "output", [4, 4, 3, 3, 4, 4]),
            )
        ],
    }


# Properties -----------------------------------------------------------------------------------------------------------


def _sampled(name: str, seed: int, n: int = 1) -> list[ComputationGraph]:
    space = family(name)
    return [space.graph(genome, published=True) for genome in space.sample(np.random.default_rng(seed), n)]


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**32 - 1))
def test_order_and_edges(name: str, seed: int) -> None:
    graph = published_graph(_sampled(name, seed)[0])
    n = len(graph.op)
    assert (np.diff(graph.weighted.astype(int)) <= 0).all()
    edges = list(map(tuple, graph.edges.tolist()))
    assert edges == sorted(set(edges))
    fed, feeds = (set(column.tolist()) for column in (graph.edges[:, 1], graph.edges[:, 0]))
    assert [VOCABULARY[graph.op[i]] for i in sorted(set(range(n)) - fed)] == ["input"]
    assert [VOCABULARY[graph.op[i]] for i in sorted(set(range(n)) - feeds)] == ["output"]


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**32 - 1))
def test_node_order_does_not_matter(name: str, seed: int) -> None:
    graph = _sampled(name, seed)[0]
    shuffled = graph.relabel(np.random.default_rng(seed).permutation(graph.n_nodes))
    one, other = published_graph(graph), published_graph(shuffled)
    assert alike(node_list(one), one.edges.tolist(), node_list(other), other.edges.tolist())


def test_many_graphs_are_what_each_is_alone() -> None:
    graphs = [graph for name in NAMES for graph in _sampled(name, 5, 2)]
    for together, alone in zip(published_graphs(pack(graphs)), map(published_graph, graphs), strict=True):
        for field in PublishedGraph.__slots__:
            np.testing.assert_array_equal(getattr(together, field), getattr(alone, field))
    assert published_graphs(pack([])) == []


def test_comparison_sees_one_moved_edge() -> None:
    # The comparison of this file must not call different graphs alike.
    graph = published_graph(_sampled("ofa_mbv3", 1)[0])
    nodes, edges = node_list(graph), graph.edges.tolist()
    add = next(i for i, node in enumerate(nodes) if node[0] == "add")
    into = next(k for k, edge in enumerate(edges) if edge[1] == add)
    moved = [edge if k != into else [nodes.index(nodes[-2]), add] for k, edge in enumerate(edges)]
    assert not alike(nodes, edges, nodes, moved)
