"""Inception: its size, what its paths are made of, and what it refuses."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from space_checks import assert_feasible_is_what_decode_accepts

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.inception import CONV, NAMES, Inception
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column, pack
from gennape.search_spaces.graphs.ops import Op

SPACE = Inception()
WIDTHS = (32, 64, 128, 256)
_STAGE = len(SPACE.genes) // 4


def _path(c_out: int, internal: int, *ops: str) -> dict[str, Any]:
    types = ["conv" if op in CONV else "supp" for op in ops]
    return {"ops": list(ops), "op_types": types, "C_internal": internal, "C_out": c_out}


def _architecture(*paths: tuple[dict[str, Any], ...], repeats: int = 2) -> dict[str, Any]:
    """Blocks of the given paths; stages without any have one of a 3x3 convolution."""
    stages = []
    for s, (c_in, c_out) in enumerate(zip((32, *WIDTHS), WIDTHS, strict=False)):
        block = paths[s] if s < len(paths) and paths[s] else (_path(c_out, c_out, "conv3x3"),)
        stage = {"n_blocks": repeats, "C_in": c_in, "C_out": c_out, "stride": 1 if s == 0 else 2}
        stages.append({"block": {"paths": list(block)}} | stage)
    return {"stages": stages}


def _weighted(architecture: Any) -> list[tuple[int, ...]]:
    """(groups, in and out channels, kernel h and w, stride h and w, side, bias) of convolutions, in order."""
    nodes = SPACE.graph(SPACE.decode(architecture)).nodes
    columns = ["GROUPS", "C_IN", "C_OUT", "KERNEL_H", "KERNEL_W", "STRIDE_H", "STRIDE_W", "H_OUT", "BIAS"]
    rows = nodes[np.isin(nodes[:, Column.OP], (Op.CONV, Op.DEPTHWISE))]
    return [tuple(row[[Column[name] for name in columns]].tolist()) for row in rows]


def test_plain_network_by_hand() -> None:
    """One path of one 3x3 convolution everywhere, two blocks a stage; three numbers a channel besides the weights."""
    convolutions = [(3, 32, 32)]
    for c_in, c_out, side in ((32, 32, 32), (32, 64, 16), (64, 128, 8), (128, 256, 4)):
        convolutions += [(c_in, c_out, side), (c_out, c_out, side)]
    convolutions.append((256, 512, 4))
    graphs = pack([SPACE.graph(SPACE.decode(_architecture()))])
    assert cost.params(graphs)[0] == sum(9 * i * o + 3 * o for i, o, _ in convolutions) + 512 * 10 + 10
    assert cost.macs(graphs)[0] == sum(9 * i * o * side * side for i, o, side in convolutions) + 512 * 10
    # Residuals in both blocks of the first stage and the second block of the others.
    assert (graphs[0].nodes[:, Column.OP] == Op.ADD).sum() == 5


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        # The pool stands before all; the depthwise convolution brings a bare 1x1 of its own.
        (
            ("maxpool3x3", "depthwise3x3", "conv3x3"),
            [(1, 64, 256, 1, 1, 1, 1, 16, 0), (256, 256, 256, 3, 3, 2, 2, 8, 1), (1, 256, 128, 3, 3, 1, 1, 8, 1)],
        ),
        # Supplementary first: it sets the internal channels at stride 1, the convolution strides.
        (("conv1x1", "conv5x5"), [(1, 64, 256, 1, 1, 1, 1, 16, 1), (1, 256, 128, 5, 5, 2, 2, 8, 1)]),
        # Each step strides along its own kernel.
        (
            ("inception_s3x3", "conv1x1"),
            [(1, 64, 256, 1, 3, 1, 2, 16, 1), (1, 256, 256, 3, 1, 2, 1, 8, 1), (1, 256, 128, 1, 1, 1, 1, 8, 1)],
        ),
        # Each branch of half the channels strides along both axes in turn.
        (
            ("inception_p5x5", "double1x1"),
            [
                (1, 64, 128, 1, 5, 1, 2, 16, 1),
                (1, 64, 128, 5, 1, 2, 1, 8, 1),
                (1, 128, 128, 5, 1, 2, 1, 8, 1),
                (1, 128, 128, 1, 5, 1, 2, 8, 1),
                (1, 256, 128, 1, 1, 1, 1, 8, 1),
                (1, 128, 128, 1, 1, 1, 1, 8, 1),
            ],
        ),
    ],
)
def test_paths_by_hand(ops: tuple[str, ...], expected: list[tuple[int, ...]]) -> None:
    """The head of the third stage: from 64 to 128 channels, inside 256, from side 16 to 8 (section 8.4)."""
    rows = _weighted(_architecture((), (), (_path(128, 256, *ops),)))
    start = rows.index(expected[0])
    assert rows[start : start + len(expected)] == expected


def test_floor_forces_a_projection() -> None:
    """Four paths of 32 channels have 16 each, so that 64 are projected back to 32 (section 8.1)."""
    paths = tuple(_path(16, 16, "conv3x3", "conv5x5") for _ in range(4))
    graph = SPACE.graph(SPACE.decode(_architecture(paths)))
    projections = graph.nodes[(graph.nodes[:, Column.OP] == Op.CONV) & (graph.nodes[:, Column.KERNEL_H] == 1)]
    assert projections[:, [Column.C_IN, Column.C_OUT, Column.BIAS]].tolist() == [[64, 32, 1]] * 2
    # Half of 16 is 16 again, so that both are the same genome.
    genome = SPACE.decode(_architecture(paths))
    ratio = 3 + 5
    halved = genome.copy()
    halved[ratio] = 1
    assert np.array_equal(SPACE.canonical(halved[None])[0], genome)


def test_order_of_paths_is_kept() -> None:
    parts = {"a": _path(128, 64, "conv3x3", "conv5x5"), "b": _path(64, 64, "conv3x3", "maxpool3x3")}
    for order in ("abb", "bab", "bba"):
        architecture = _architecture((), (), (), tuple(parts[name] for name in order))
        assert SPACE.encode(SPACE.decode(architecture)) == architecture


def _edit(**change: Any) -> Any:
    """Edits of the path of the first stage, which has 32 channels."""

    def apply(architecture: Any) -> None:
        architecture["stages"][0]["block"]["paths"][0].update(change)

    return apply


def _replace(stage: int, *paths: dict[str, Any], **fields: Any) -> Any:
    def apply(architecture: Any) -> None:
        architecture["stages"][stage].update(fields)
        if paths:
            architecture["stages"][stage]["block"]["paths"] = list(paths)

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_edit(ops=["conv7x7"]), "stage 1, path 1: unknown operations"),
        (_edit(op_types=["supp"]), "stage 1, path 1: the types of"),
        (_edit(ops=["conv1x1"], op_types=["supp"]), "takes at least one of"),
        (_edit(ops=[], op_types=[]), "takes at least one of"),
        (_edit(ops=["conv3x3", "conv1x1", "maxpool3x3"], op_types=["conv", "supp", "supp"]), "at most one of"),
        (_edit(C_internal=16), "stage 1: C_internal of .* must be one of .32., got 16"),
        (_edit(C_out=16), "C_out of the paths must be one of .*32"),
        (_edit(C_out=None), "C_out of the paths"),
        (_edit(C_mid=16), "unknown"),
        (_edit(ops=["conv3x3"] * 4, op_types=["conv"] * 4), "at most 3 together"),
        (_replace(1, n_blocks=7), "repeats of stage 2 is 7"),
        (_replace(1, stride=1), "stage 2: C_in, C_out, stride must be"),
        (_replace(1, C_in=64), "stage 2: C_in, C_out, stride must be"),
        (_replace(3, *[_path(64, 64, "conv3x3")] * 5), "1 to 4 paths"),
        (_replace(3, *[_path(64, 64, "conv3x3")] * 4), "at least 2 operations each"),
        (_replace(3, *[_path(128, 128, "conv3x3", "conv5x5", "conv3x3")] * 2), "at most 4 together"),
        (_replace(3, *[_path(128, 128, "conv3x3", "conv5x5")] * 3), "C_out of the paths must be one of"),
        (_replace(3, _path(256, 64, "conv3x3", "conv5x5")), "C_internal of .* must be one of .128, 256, 512."),
        (lambda architecture: architecture["stages"].pop(), "a list of 4"),
        (lambda architecture: architecture["stages"][2].pop("block"), "stage 3: .*missing"),
    ],
)
def test_refuses(edit: Any, message: str) -> None:
    architecture = copy.deepcopy(_architecture())
    SPACE.decode(architecture)
    edit(architecture)
    with pytest.raises(InvalidArchitectureError, match=message):
        SPACE.decode(architecture)


def test_number_of_blocks() -> None:
    """Paths of one to four operations, counted by hand and among all genomes of a stage.

    Ordered lists of n operations with at most one of four supplementary ones: 8^n + 4 n 8^(n-1), less the lone
    supplementary one. Three ratios of internal channels each where two operations can change them, else one: a lone
    convolution, or a convolution and a pool.
    """
    by_length = {1: 8, 2: 3 * (64 + 2 * 2 * 8) + 2 * 2 * 8, 3: 3 * (512 + 4 * 3 * 64)}
    genes = itertools.product(range(3), *[range(len(NAMES))] * 3, range(3))
    genomes = np.zeros((3 * 3 * len(NAMES) ** 3, len(SPACE.genes)), np.int64)
    genomes[:, 3 * _STAGE + 3 + np.array([0, 1, 2, 3, 5])] = list(genes)
    genomes = np.unique(SPACE.canonical(genomes[SPACE.feasible(genomes)]), axis=0)
    lengths, counts = np.unique(genomes[:, 3 * _STAGE + 3], return_counts=True)
    assert dict(zip((lengths + 1).tolist(), counts.tolist(), strict=True)) == by_length
    # Blocks: the paths share two operations beyond the shortest; three paths have one of three wide ones.
    p1, p2, p3, p4 = *by_length.values(), 3 * (4096 + 4 * 4 * 512)
    blocks = p1 + p2 + p3
    blocks += p1**2 + 2 * p1 * (p2 + p3) + p2**2
    blocks += 3 * (p2**3 + 3 * p2**2 * (p3 + p4) + 3 * p2 * p3**2)
    blocks += p2**4 + 4 * p2**3 * (p3 + p4) + 6 * p2**2 * p3**2
    assert f"{blocks:.2e}" == "1.45e+13"  # the families' specification, section 8.1


@settings(max_examples=examples(40), deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_feasible_is_what_decode_accepts(seed: int) -> None:
    assert_feasible_is_what_decode_accepts(SPACE, seed, changed=0.02)


def test_published_graph() -> None:
    """Padding not counted by the average pool, the dropout's identity; nothing else differs."""
    genome = SPACE.decode(_architecture((), (_path(64, 64, "avgpool3x3", "conv3x3"),)))
    network, published = SPACE.graph(genome), SPACE.graph(genome, published=True)
    assert published.n_nodes == network.n_nodes + 1
    assert (published.nodes[:, Column.OP] == Op.IDENTITY).sum() == 1
    for graph, counted in ((network, 1), (published, 0)):
        pools = graph.nodes[graph.nodes[:, Column.OP] == Op.AVGPOOL]
        assert pools[:, Column.COUNT_PAD].tolist() == [counted] * 2
