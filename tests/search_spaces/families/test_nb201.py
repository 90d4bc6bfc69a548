from __future__ import annotations

import csv
import gzip
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from gennape.errors import ConfigError, InvalidArchitectureError
from gennape.search_spaces.families.conformance import FixtureRow, check_row, measure, read_rows
from gennape.search_spaces.families.nb201 import (
    EDGES,
    OPERATIONS,
    NasBench201,
    arch_string,
    isomorphism_string,
    reaches_output,
    read_arch_string,
)
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.families.testing import SearchSpaceConformance
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack
from gennape.search_spaces.graphs.ops import Op

SHARED = Path(__file__).parents[3].parent / "shared"
SPACE = NasBench201()
WRITTEN = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"
IN_ORDER = ["avg_pool_3x3", "nor_conv_1x1", "skip_connect", "nor_conv_3x3", "none", "skip_connect"]
genomes = st.lists(st.integers(0, 4), min_size=6, max_size=6).map(lambda ops: np.array(ops, np.int64))


def _all() -> list[Any]:
    return [np.array(ops, np.int64) for ops in itertools.product(range(5), repeat=6)]


def _graph(operations: list[str], space: NasBench201 = SPACE, published: bool = False) -> ComputationGraph:
    return space.graph(space.decode({"ops": operations}), published)


def _count(graph: ComputationGraph, op: Op) -> int:
    return int(np.count_nonzero(graph.nodes[:, Column.OP] == op))


@pytest.mark.parametrize("dataset", ["cifar100", "ImageNet16-120"])
class TestOtherDatasets(SearchSpaceConformance):
    @pytest.fixture
    def space(self, dataset: str) -> NasBench201:
        return NasBench201(dataset)


@pytest.mark.parametrize(
    ("operation", "params", "macs"),
    [
        ("nor_conv_3x3", 1_531_546, 220_119_680),
        ("nor_conv_1x1", 241_306, 31_376_000),
        ("skip_connect", 73_306, 7_783_040),
        ("avg_pool_3x3", 73_306, 7_783_040),
        ("none", 73_306, 7_783_040),
    ],
)
def test_known_networks(operation: str, params: int, macs: int) -> None:
    graphs = pack([_graph([operation] * 6)])
    assert (cost.params(graphs)[0], cost.macs(graphs)[0]) == (params, macs)


def test_datasets_differ_in_image_and_classifier() -> None:
    spaces = [NasBench201(dataset) for dataset in ("cifar10", "cifar100", "ImageNet16-120")]
    assert [space.name for space in spaces] == ["nb201", "nb201_cifar100", "nb201_imagenet16_120"]
    graphs = pack([_graph(["nor_conv_3x3"] * 6, space) for space in spaces])
    # 64 features and a bias per class; a quarter of the pixels.
    assert cost.params(graphs).tolist() == [1_531_546 + 65 * more for more in (0, 90, 110)]
    convolutions = 220_119_680 - 640
    assert cost.macs(graphs).tolist() == [220_119_680, convolutions + 6400, convolutions // 4 + 64 * 120]
    with pytest.raises(ConfigError, match="cifar10, cifar100, ImageNet16-120"):
        NasBench201("imagenet")


def test_every_form_reads_as_the_same_cell() -> None:
    inputs: list[Any] = [[0], [0], [1], [0], [1], [2, 3]]
    forms: list[Any] = [WRITTEN, {"ops": IN_ORDER}, [IN_ORDER, inputs], (tuple(IN_ORDER), tuple(map(tuple, inputs)))]
    for form in forms:
        assert [OPERATIONS[op] for op in SPACE.decode(form)] == IN_ORDER
    assert read_arch_string(WRITTEN) == tuple(IN_ORDER)
    assert SPACE.encode(SPACE.decode(WRITTEN)) == WRITTEN


@given(genomes)
def test_strings_print_and_parse(genome: Any) -> None:
    text = arch_string(genome)
    assert np.array_equal(SPACE.decode(text), genome)
    # By the definition of the string: an edge from k is written op~k, and edges stand by target, then source.
    edges = [edge for node in text.split("+") for edge in node.strip("|").split("|")]
    assert edges == [f"{OPERATIONS[op]}~{source}" for op, (source, _) in zip(genome, EDGES, strict=True)]


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ("", "an architecture string is"),
        (WRITTEN + "\n", "an architecture string is"),
        (WRITTEN.replace("none~1", "none~0"), "an architecture string is"),
        (WRITTEN.replace("none", "zero"), "operation of edge 1->3 is 'zero'"),
        ({"ops": IN_ORDER[:5]}, "has 6 operations"),
        ({"ops": IN_ORDER, "more": 1}, "unknown"),
        ({"ops": "none"}, "has 6 operations"),
        ([IN_ORDER, [[0], [0], [1], [0], [2], [1, 3]]], "the inputs of the operations are"),
        ([IN_ORDER, None], "the inputs of the operations are"),
        (IN_ORDER, "an architecture is an object"),
    ],
)
def test_refuses(bad: Any, match: str) -> None:
    with pytest.raises(InvalidArchitectureError, match=match):
        SPACE.decode(bad)


def test_isomorphic_cells_share_their_string() -> None:
    # Dong and Yang count 6,466 cells that are different when skips and zeros are considered.
    assert len({isomorphism_string(genome) for genome in _all()}) == 6466
    # By hand: node 2 is the sum of a convolution and the skipped pool; the edge of none is "#", which sorts first.
    expected = "#+(0)@avg_pool_3x3+(0)@nor_conv_1x1+(0)@nor_conv_3x3"
    assert isomorphism_string(SPACE.decode(WRITTEN)) == expected


def test_a_path_without_none_reaches_the_output() -> None:
    for genome in _all()[::7]:
        matrix = np.eye(4, dtype=int)
        for op, (source, target) in zip(genome, EDGES, strict=True):
            matrix[source, target] += OPERATIONS[op] != "none"
        assert reaches_output(genome) == (np.linalg.matrix_power(matrix, 3)[0, 3] > 0)


def test_none_adds_nothing() -> None:
    # Node 2 is zero in both, so that a skip from it makes no difference; every cell has as many zeros as nones.
    cells = [
        ["nor_conv_3x3", "none", "none", "skip_connect", "skip_connect", last] for last in ("none", "skip_connect")
    ]
    graphs = [_graph(cell) for cell in cells]
    assert [_count(graph, Op.ZERO) for graph in graphs] == [3 * 15, 2 * 15]
    first, second = (measure(graph).logits for graph in graphs)
    assert np.array_equal(first, second)


def test_sampling_is_uniform_over_all_cells() -> None:
    cells, mean = 5**6, 20
    drawn = SPACE.sample(np.random.default_rng(0), cells * mean) @ 5 ** np.arange(6)
    counts = np.bincount(drawn, minlength=cells)
    # Pearson's statistic of a uniform sample exceeds this once in a million seeds.
    assert ((counts - mean) ** 2 / mean).sum() < chi2.isf(1e-6, cells - 1)


def test_published_graph_differs_as_described() -> None:
    conv, pool = "nor_conv_3x3", "avg_pool_3x3"
    graph = _graph([conv, conv, pool, "skip_connect", pool, conv], published=True)
    cells = 15
    assert _count(graph, Op.BATCHNORM) == 1 + cells * 5  # stem; pools too; none at the reductions or the end
    assert _count(graph, Op.RELU) == cells * 3 + 2 * 2  # one within and one after each reduction
    assert _count(graph, Op.IDENTITY) == 1  # the dropout
    assert _count(graph, Op.AVGPOOL) == cells * 2 + 2
    reduction = graph.nodes[(graph.nodes[:, Column.OP] == Op.AVGPOOL) & (graph.nodes[:, Column.STRIDE_H] == 2)]
    assert reduction[:, Column.KERNEL_H].tolist() == [3, 3]
    network = pack([_graph([conv] * 6)])
    assert cost.macs(pack([_graph([conv] * 6, published=True)]))[0] == cost.macs(network)[0]
    # What multiplies by zero shows as a skip.
    assert _graph(["none"] * 6, published=True) == _graph(["skip_connect"] * 6, published=True)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the measured fixtures are not beside this checkout")
def test_given_fixtures() -> None:
    rows = read_rows(SHARED / "fixtures" / "nb201.jsonl")
    assert len(rows) > 20
    assert {row.identity: problems for row in rows if (problems := check_row(family("nb201"), row))} == {}
    wrong = {**rows[0].content, "unique_str": "0", "valid": not rows[0].content["valid"]}
    problems = "; ".join(check_row(family("nb201"), FixtureRow("0", wrong)))
    assert "unique_str is" in problems
    assert "valid is" in problems


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled architectures are not beside this checkout")
def test_labelled_architectures_are_read() -> None:
    with gzip.open(SHARED / "data" / "nb201.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))[::10]
    genomes = np.stack([SPACE.decode(row["arch"]) for row in rows])
    assert [SPACE.encode(genome) for genome in genomes] == [row["arch"] for row in rows]
    known = [i for i, row in enumerate(rows) if row["params"]]
    assert len(known) > 100
    # In millions, rounded to six digits of the smaller.
    published = np.array([float(rows[i]["params"]) for i in known])
    np.testing.assert_allclose(cost.params(SPACE.graphs(genomes[known])) / 1e6, published, rtol=0, atol=5e-6)
