"""Two-Path: its string, its size, what its blocks are made of."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_checks import assert_feasible_is_what_decode_accepts

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.two_path import CONV, NAMES, REDUCING, SUPP, TwoPath, original_string
from gennape.search_spaces.graphs.graph import Column
from gennape.search_spaces.graphs.ops import Op

FIXTURES = Path(__file__).parents[3].parent / "shared" / "fixtures" / "two_path.jsonl"
SPACE = TwoPath()
STRING = (
    "Path1:[SPBlock(conv1x1+double3x3;supp+conv), SPBlock(conv3x3;conv)]\n"
    "Path1ReduceInds:[0, 1]\n"
    "Path2:[SPBlock(bottleneck-r4-k3;conv), SPBlock(conv5x5+avgpool3x3+inception_s3x3;conv+supp+conv), "
    "SPBlock(bottleneck-e2-k3;conv)]\n"
    "Path2ReduceInds:[0, 2]\n"
)


def _block(*ops: str) -> dict[str, list[str]]:
    return {"op_names": list(ops), "op_types": ["conv" if op in CONV else "supp" for op in ops]}


def _architecture() -> dict[str, Any]:
    return {
        "path1": [_block("conv1x1", "double3x3"), _block("conv3x3")],
        "path2": [
            _block("bottleneck-r4-k3"),
            _block("conv5x5", "avgpool3x3", "inception_s3x3"),
            _block("bottleneck-e2-k3"),
        ],
        "path1_reduce_inds": [0, 1],
        "path2_reduce_inds": [0, 2],
    }


def test_original_string() -> None:
    genome = SPACE.decode(STRING)
    assert SPACE.encode(genome) == _architecture()
    assert original_string(genome) == STRING
    assert np.array_equal(SPACE.decode(STRING.rstrip("\n")), genome)


def test_original_strings_of_measured_networks() -> None:
    if not FIXTURES.exists():
        pytest.skip("the measured networks are not beside this checkout")
    for row in map(json.loads, FIXTURES.read_text().splitlines()):
        genome = SPACE.decode(row["config"])
        assert original_string(genome) == row["config_str"]
        assert np.array_equal(SPACE.decode(row["config_str"]), genome)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_strings_survive(seed: int) -> None:
    for genome in SPACE.sample(np.random.default_rng(seed), 8):
        assert np.array_equal(SPACE.decode(original_string(genome)), genome)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Path1:", "Path3:", "a string has the lines"),
        ("SPBlock(conv3x3;conv)", "Block(conv3x3;conv)", "blocks are written SPBlock"),
        ("conv3x3;conv", "conv3x4;conv", "unknown operations"),
        ("conv3x3;conv", "conv3x3;supp", "the types of"),
        ("conv3x3;conv", "conv1x1;supp", "takes at least one of"),
        ("[0, 1]", "[0, 2]", "path1_reduce_inds"),
        ("[0, 1]", "[1, 0]", "path1_reduce_inds"),
        ("[0, 1]", "[0, 99999999999999999999]", "path1_reduce_inds"),
        ("[0, 1]", "[]", "path1_reduce_inds"),
    ],
)
def test_refuses_other_strings(old: str, new: str, message: str) -> None:
    assert old in STRING
    with pytest.raises(InvalidArchitectureError, match=message):
        SPACE.decode(STRING.replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path1": [_block("conv3x3")]}, "a list of 2 to 4 blocks"),
        ({"path2": [_block("conv3x3")] * 5}, "a list of 2 to 4 blocks"),
        ({"path1": [_block("conv3x3")] * 2, "path1_reduce_inds": [1]}, "path1_reduce_inds"),
        ({"path1": [_block(), _block("conv3x3")]}, "path1, block 0: takes at least one"),
        ({"path1": [_block("conv3x3"), _block(*["conv3x3"] * 4)]}, "path1, block 1: takes at most 3"),
        ({"path1": [_block("conv3x3"), _block("conv1x1", "maxpool3x3", "conv3x3")]}, "at most one of"),
        ({"path1": [_block("conv3x3"), {"op_names": ["conv3x3"]}]}, "op_types"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArchitectureError, match=message):
        SPACE.decode(_architecture() | change)


def test_size_of_the_space() -> None:
    """1,624 blocks and 41,747,364,925,504 paths (families' specification, section 9.1), counted among all genomes."""
    blocks = np.array(list(itertools.product(range(3), *[range(len(NAMES))] * 3)))
    genomes = np.zeros((len(blocks), len(SPACE.genes)), np.int64)
    genomes[:, 2:6] = blocks
    genomes = genomes[SPACE.feasible(genomes)]
    n_blocks = len(np.unique(SPACE.canonical(genomes), axis=0))
    assert n_blocks == 1_624
    heads = np.array(list(itertools.product(range(3), range(len(REDUCING)))))
    genomes = np.zeros((len(heads), len(SPACE.genes)), np.int64)
    genomes[:, :2] = heads
    lengths = heads[SPACE.feasible(genomes), 0] + 2
    assert sum(n_blocks ** int(length) for length in lengths) == 41_747_364_925_504


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_feasible_is_what_decode_accepts(seed: int) -> None:
    assert_feasible_is_what_decode_accepts(SPACE, seed, changed=0.08)


def _weighted(architecture: Any) -> list[tuple[int, ...]]:
    """(in channels, out channels, kernel height, width, stride height, width, out side) of convolutions, in order."""
    nodes = SPACE.graph(SPACE.decode(architecture)).nodes
    rows = nodes[nodes[:, Column.OP] == Op.CONV]
    columns = ["C_IN", "C_OUT", "KERNEL_H", "KERNEL_W", "STRIDE_H", "STRIDE_W", "H_OUT"]
    return [tuple(row[[Column[name] for name in columns]].tolist()) for row in rows]


def test_blocks_by_hand() -> None:
    """The first convolution strides and widens, what stands before it does not (section 9.2)."""
    assert _weighted(STRING) == [
        (3, 32, 3, 3, 1, 1, 32),
        (32, 32, 3, 3, 2, 2, 16),
        # Path 1: conv1x1 keeps its channels, double3x3 strides first and widens second; conv3x3.
        (32, 32, 1, 1, 1, 1, 16),
        (32, 32, 3, 3, 2, 2, 8),
        (32, 64, 3, 3, 1, 1, 8),
        (64, 128, 3, 3, 2, 2, 4),
        # Path 2: a quarter of the input's channels; conv5x5, average pool, two steps; twice the input's channels.
        (32, 8, 3, 3, 2, 2, 8),
        (8, 64, 3, 3, 1, 1, 8),
        (64, 64, 5, 5, 1, 1, 8),
        (64, 64, 1, 3, 1, 1, 8),
        (64, 64, 3, 1, 1, 1, 8),
        (64, 128, 3, 3, 2, 2, 4),
        (128, 128, 3, 3, 1, 1, 4),
        (256, 512, 3, 3, 1, 1, 4),
    ]


def test_published_graph() -> None:
    """No activation in bottlenecks, padding not counted by the average pool, the dropout's identity (section 9.3)."""
    genome = SPACE.decode(STRING)
    network, published = SPACE.graph(genome), SPACE.graph(genome, published=True)
    counts = [np.bincount(graph.nodes[:, Column.OP], minlength=40) for graph in (network, published)]
    assert counts[0][[Op.RELU6, Op.IDENTITY, Op.ADD]].tolist() == [14, 0, 1]
    assert counts[1][[Op.RELU6, Op.IDENTITY, Op.ADD]].tolist() == [10, 1, 1]
    for graph, counted in ((network, 1), (published, 0)):
        pools = graph.nodes[graph.nodes[:, Column.OP] == Op.AVGPOOL]
        assert pools[:, Column.COUNT_PAD].tolist() == [counted]


def test_supplementary_operations_are_known() -> None:
    assert (len(CONV), len(SUPP)) == (8, 5)
