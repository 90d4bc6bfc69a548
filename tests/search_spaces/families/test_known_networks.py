"""Parameters and MACs of networks that the literature and the families' specification give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hiaml_blocks import BLOCKS

from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column, pack
from gennape.search_spaces.graphs.ops import Op

C1, C3, POOL = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"


def _cell(edges: list[tuple[int, int]], ops: list[str]) -> dict[str, Any]:
    v = len(ops) + 2
    matrix = [[int((x, y) in edges) for y in range(v)] for x in range(v)]
    return {"matrix": matrix, "ops": ["input", *ops, "output"]}


def _counts(name: str, architecture: Any) -> tuple[int, int]:
    space = family(name)
    graphs = pack([space.graph(space.decode(architecture))])
    return int(cost.params(graphs)[0]), int(cost.macs(graphs)[0])


@pytest.mark.parametrize(
    ("edges", "ops", "params", "macs"),
    [
        # The cell of the benchmark's own README; 2,694,282 is its published number of trainable parameters.
        (
            [(0, 1), (0, 2), (0, 3), (0, 5), (1, 6), (2, 6), (3, 4), (4, 6), (5, 6)],
            [C1, C3, C3, C3, POOL],
            2_694_282,
            402_002_944,
        ),
        ([(0, 1)], [], 882_570, 137_761_792),
        # The least: one projection to a quarter of the channels, pools from there on. By hand, with BN's 2 per channel:
        # 3712 stem + 3 x 4160 + (8320 + 2 x 16512) + (33024 + 2 x 65792) + 5130 classifier.
        (
            [(0, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 5), (3, 5), (4, 5)],
            [POOL] * 4,
            227_274,
            37_098_496,
        ),
        # The most: five 3x3 convolutions in a row, the input joined to the second, third and fourth besides.
        (
            [(i, i + 1) for i in range(6)] + [(0, 2), (0, 3), (0, 4)],
            [C3] * 5,
            49_979_274,
            7_335_187_456,
        ),
    ],
)
def test_nb101(edges: list[tuple[int, int]], ops: list[str], params: int, macs: int) -> None:
    assert _counts("nb101", _cell(edges, ops)) == (params, macs)


@pytest.mark.parametrize(
    ("block", "params", "macs_in_millions", "convolutions"),
    [(block, of.params, of.macs_in_millions, of.convolutions) for block, of in BLOCKS.items()],
)
def test_hiaml(block: str, params: int, macs_in_millions: float, convolutions: int) -> None:
    architecture = [f"hiaml_{block}"] * 4
    got_params, got_macs = _counts("hiaml", architecture)
    assert got_params == params
    assert round(got_macs / 1e6, 3) == macs_in_millions
    space = family("hiaml")
    ops = space.graph(space.decode(architecture)).nodes[:, Column.OP]
    assert np.count_nonzero(ops == Op.CONV) == convolutions


@pytest.mark.parametrize(
    ("layer", "depth", "params", "macs"),
    [([3, 3], 2, 4_602_456, 193_078_200), ([6, 7], 4, 10_701_632, 843_101_040)],
)
def test_ofa_mbv3_range(layer: list[int], depth: int, params: int, macs: int) -> None:
    architecture = {"resolution": 224, "units": [[layer] * depth] * 5}
    assert _counts("ofa_mbv3", architecture) == (params, macs)


@pytest.mark.parametrize(
    ("extra", "expansion", "width", "params", "macs"),
    [(0, 0.2, 0, 6_539_280, 962_192_128), (2, 0.35, 2, 48_105_992, 7_491_643_904)],
)
def test_ofa_resnet_range(extra: int, expansion: float, width: int, params: int, macs: int) -> None:
    architecture = {"resolution": 224, "d": [extra] * 5, "e": [expansion] * 18, "w": [width] * 6}
    assert _counts("ofa_resnet", architecture) == (params, macs)
