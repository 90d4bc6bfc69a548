from __future__ import annotations

import ast
import csv
import gzip
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from gennape.errors import ConfigError, InvalidArchitectureError
from gennape.search_spaces.families import nb301
from gennape.search_spaces.families.conformance import FixtureRow, check_row, measure, read_rows
from gennape.search_spaces.families.nb301 import (
    N_DISTINCT,
    OPERATIONS,
    SOURCES,
    NasBench301,
    auxiliary_params,
    configuration,
    genotype_string,
)
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.families.testing import SearchSpaceConformance
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.labels.labels import read_labels

SHARED = Path(__file__).parents[3].parent / "shared"
SPACE = NasBench301()
# The second-order result of the DARTS paper.
DARTS_V2 = """Genotype(
    normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
            ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
    normal_concat=[2, 3, 4, 5],
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
            ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
    reduce_concat=[2, 3, 4, 5])
"""
PREFIX = "NetworkSelectorDatasetInfo:darts:"
genomes = st.tuples(*(st.sampled_from(gene.drawn) for gene in SPACE.genes)).map(np.array)


def _architecture(operation: str) -> dict[str, Any]:
    """Every node takes the two cells before through ``operation``."""
    cell = [[operation, source] for _ in range(4) for source in (0, 1)]
    return {"normal": cell, "reduce": cell}


def _count(graph: ComputationGraph, op: Op) -> int:
    return int(np.count_nonzero(graph.nodes[:, Column.OP] == op))


class TestOtherSettings(SearchSpaceConformance):
    @pytest.fixture
    def space(self) -> NasBench301:
        return NasBench301(4, 5)


@pytest.mark.parametrize(
    ("channels", "cells", "params", "macs"),
    # The paper gives 3.3 million parameters.
    [(36, 20, 3_349_342, 528_359_040), (32, 8, 919_722, 159_765_504)],
)
def test_darts_v2(channels: int, cells: int, params: int, macs: int) -> None:
    space = NasBench301(channels, cells)
    graphs = pack([space.graph(space.decode(DARTS_V2))])
    assert (cost.params(graphs)[0], cost.macs(graphs)[0]) == (params, macs)


def test_settings_have_names_and_limits() -> None:
    assert [NasBench301(*s).name for s in ((32, 8), (16, 20))] == ["nb301", "nb301_c16_l20"]
    for channels, cells in ((0, 8), (7, 8), (32, 2)):
        with pytest.raises(ConfigError, match="even number of channels and at least 3 cells"):
            NasBench301(channels, cells)
    assert auxiliary_params(32) == 468_234


def test_reductions_stand_at_a_third_and_two_thirds() -> None:
    # A 3x3 pool keeps its size but in reductions: 32 until cell 3, 16 until cell 6, then 8; four nodes of two pools.
    for cells, sides in ((9, [32] * 3 + [16] * 3 + [8] * 3), (8, [32] * 2 + [16] * 3 + [8] * 3)):
        nodes = NasBench301(4, cells).graph(SPACE.decode(_architecture("max_pool_3x3"))).nodes
        pools = nodes[nodes[:, Column.OP] == Op.MAXPOOL]
        assert pools[:, Column.H_OUT].tolist() == [side for side in sides for _ in range(8)]
        assert pools[:, Column.C_OUT].tolist() == [4 * 32 // side for side in sides for _ in range(8)]


def test_pairs_may_stand_in_either_order() -> None:
    architecture = SPACE.encode(SPACE.decode(DARTS_V2))
    swapped = {cell: [pairs[i ^ 1] for i in range(8)] for cell, pairs in architecture.items()}
    assert swapped != architecture
    assert np.array_equal(SPACE.decode(swapped), SPACE.decode(architecture))


@pytest.mark.parametrize("swapped", [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
def test_the_order_of_a_nodes_inputs_is_no_property_of_the_graph(
    swapped: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emitted the other way round, and not merely read so: ``decode`` sorts before a graph is built."""
    space = NasBench301(4, 3)
    genomes = space.sample(np.random.default_rng(0), 10)
    written = [space.graph(genome) for genome in genomes]
    nodes = genomes.reshape(10, 2, 4, 3).copy()
    nodes[:, :, swapped, 1:] = nodes[:, :, swapped, :0:-1]
    sources = [[pair[::-1] for pair in pairs] if i in swapped else pairs for i, pairs in enumerate(SOURCES)]
    monkeypatch.setattr(nb301, "SOURCES", sources)
    monkeypatch.setattr(nb301, "_cell", inspect.unwrap(nb301._cell))  # built anew: cells are cached by their genes
    others = [space.graph(genome) for genome in nodes.reshape(genomes.shape)]
    assert all(a != b for a, b in zip(written, others, strict=True))
    assert canonical_hashes(pack(others)) == canonical_hashes(pack(written))


@given(genomes)
def test_genotypes_print_and_parse(genome: Any) -> None:
    text = genotype_string(genome)
    assert np.array_equal(SPACE.decode(text), genome)
    # The text is Python: read by Python's own parser it says the same as our JSON.
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    fields = {keyword.arg: keyword.value for keyword in call.keywords}
    assert list(fields) == ["normal", "normal_concat", "reduce", "reduce_concat"]
    for cell, pairs in SPACE.encode(genome).items():
        assert ast.literal_eval(fields[cell]) == [tuple(pair) for pair in pairs]
        assert ast.unparse(fields[f"{cell}_concat"]) == "range(2, 6)"


@given(genomes)
def test_configurations_print_and_parse(genome: Any) -> None:
    entries = configuration(genome)
    assert len(entries) == 2 * (8 + 3)
    foreign = {"OptimizerSelector:optimizer": "sgd", f"{PREFIX}layers": 8}
    assert np.array_equal(SPACE.decode({**entries, **foreign}), genome)
    assert all(int(key.rsplit("_", 1)[1]) < 14 for key in entries if "edge" in key)


def test_configuration_numbers_edges_by_target_then_source() -> None:
    entries = configuration(SPACE.decode(DARTS_V2))
    assert entries[f"{PREFIX}inputs_node_normal_5"] == "0_2"
    # Edges into node 2: 0, 1; into 3: 2..4; into 4: 5..8; into 5: 9..13.
    assert entries[f"{PREFIX}edge_normal_11"] == "dil_conv_3x3"
    assert entries[f"{PREFIX}edge_reduce_10"] == "max_pool_3x3"
    del entries[f"{PREFIX}edge_normal_11"]
    with pytest.raises(InvalidArchitectureError, match=r"lacks .*edge_normal_11"):
        SPACE.decode(entries)
    entries[f"{PREFIX}inputs_node_normal_5"] = "0,2"
    with pytest.raises(InvalidArchitectureError, match="written as 0_1, got '0,2'"):
        SPACE.decode(entries)


def test_equal_sources_are_read_but_not_drawn() -> None:
    architecture = SPACE.encode(SPACE.decode(DARTS_V2))
    architecture["normal"][6:] = [["sep_conv_3x3", 3], ["max_pool_3x3", 3]]
    genome = SPACE.decode(architecture)
    SPACE.validate(genome[None])
    assert SPACE.encode(genome)["normal"][6:] == [["max_pool_3x3", 3], ["sep_conv_3x3", 3]]
    architecture["normal"][6:] = architecture["normal"][:5:-1]
    assert np.array_equal(SPACE.decode(architecture), genome)
    assert np.array_equal(SPACE.decode(genotype_string(genome)), genome)
    assert np.isfinite(measure(NasBench301(4, 3).graph(genome)).logits).all()
    with pytest.raises(InvalidArchitectureError, match="node 4 of the normal cell has 3 as both sources"):
        configuration(genome)
    parents = np.repeat(genome[None], 400, axis=0)
    mutants = SPACE.mutate(parents, np.random.default_rng(0), 0.5)
    pairs = mutants.reshape(400, 8, 3)[:, :, 0]
    fresh = (pairs != parents.reshape(400, 8, 3)[:, :, 0]).nonzero()
    assert (pairs[fresh] < np.tile(N_DISTINCT, 2)[fresh[1]]).all()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("Genotype(", "Cell(", "a genotype string is"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=[2, 3, 4]", "normal_concat must be"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=range(2, 7)", "cannot be read at"),
        ("normal_concat", "reduce", "reduce stands twice"),
        ("('dil_conv_3x3', 2)", "('zero', 2)", "second operation of node 4 of the normal cell is 'zero'"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)", r"sources of node 4 .* is \(0, 5\)"),
        ("('dil_conv_3x3', 2)", "__import__('os')", "cannot be read at"),
        ("('skip_connect', 0), ('dil_conv_3x3', 2)", "", "must be 8 pairs"),
        ("normal=", "usual=", "is an object with"),
    ],
)
def test_refuses_genotypes(old: str, new: str, match: str) -> None:
    assert old in DARTS_V2
    with pytest.raises(InvalidArchitectureError, match=match):
        SPACE.decode(DARTS_V2.replace(old, new, 1))


@pytest.mark.parametrize("source", [True, -1, 1.0, "1", None])
def test_refuses_sources_that_are_no_states(source: Any) -> None:
    architecture = _architecture("skip_connect")
    architecture["normal"] = [*architecture["normal"][:7], ["skip_connect", source]]
    with pytest.raises(InvalidArchitectureError, match=r"pair of normal must be|sources of node 4"):
        SPACE.decode(architecture)


@given(st.text("Genotyp(nral=[]'sk_c,0 )range2ud\\", max_size=200))
def test_junk_text_is_refused(text: str) -> None:
    for junk in (text, f"Genotype({text})", DARTS_V2 + text.strip() + "x"):
        with pytest.raises(InvalidArchitectureError):
            SPACE.decode(junk)


def test_long_text_is_refused_at_once() -> None:
    for junk in ("(" * 100_000, " " * 100_000, "normal=" * 20_000, "normal=[" + "('a', 1)," * 20_000, "a" * 100_000):
        with pytest.raises(InvalidArchitectureError):
            SPACE.decode(f"Genotype({junk})")


def test_sampling_is_uniform() -> None:
    """Sources and operations of each node are jointly uniform, and the nodes independent of one another."""
    n, limit = 50_000, 1e-6 / (8 + 28)  # one false alarm in a million seeds, over all tests together
    nodes = SPACE.sample(np.random.default_rng(0), n).reshape(n, 8, 3)
    for node in range(8):
        kinds = N_DISTINCT[node % 4] * 49
        codes = nodes[:, node] @ np.array([49, 7, 1])
        assert _pearson(codes, kinds) < chi2.isf(limit, kinds - 1)
        for other in range(node):
            # Two operations tell of dependence enough: 49 equal cells under independence.
            codes = nodes[:, node, 1] * 7 + nodes[:, other, 2]
            assert _pearson(codes, 49) < chi2.isf(limit, 48)
    assert [len(pairs) for pairs in SOURCES] == [1 + 2, 3 + 3, 6 + 4, 10 + 5]


def _pearson(codes: Any, kinds: int) -> float:
    """Pearson's statistic against equal counts of ``kinds`` codes."""
    counts = np.bincount(codes, minlength=kinds)
    assert len(counts) == kinds
    mean = len(codes) / kinds
    return float(((counts - mean) ** 2 / mean).sum())


def test_published_graph_differs_as_described() -> None:
    """20 cells of 48, 96 and 192 channels behind two stems; by hand for cells of separable convolutions only."""
    graph = SPACE.graph(SPACE.decode(_architecture("sep_conv_3x3")), published=True)
    assert graph == NasBench301(36, 20).graph(SPACE.decode(_architecture("sep_conv_3x3")), published=True)
    separable, inputs = 20 * 8, 20 * 2
    assert _count(graph, Op.RELU) == 2 + inputs + separable
    assert _count(graph, Op.BATCHNORM) == 2 + inputs + 2 * separable
    assert _count(graph, Op.ADD) == 20 * 4
    assert _count(graph, Op.CONCAT) == 20 + 2  # two cells follow a reduction
    assert _count(graph, Op.CONV) == 2 + inputs + 2 + 2 * separable + 1  # and the classifier
    assert (_count(graph, Op.GLOBAL), _count(graph, Op.MEAN), _count(graph, Op.LINEAR)) == (1, 0, 0)
    assert graph.nodes[:, Column.C_OUT].max() == 4 * 192
    skips = SPACE.graph(SPACE.decode(_architecture("skip_connect")), published=True)
    assert _count(skips, Op.IDENTITY) == 18 * 8  # at stride 2 a skip is convolutions


# Conformance: one row, several settings -------------------------------------------------------------------------------


def _measured(channels: int, cells: int) -> dict[str, Any]:
    measured = measure(NasBench301(channels, cells).graph(SPACE.decode(DARTS_V2)))
    return {
        "params": measured.params,
        "macs": measured.macs,
        "out_shape": [1, 10],
        "conv_linear_sha256": measured.conv_linear_sha256,
        "logits8": measured.logits[:8].tolist(),
        "logits_l2": float(np.linalg.norm(measured.logits)),
    }


def _problems(**row: Any) -> str:
    content = {"family": "nb301", "config": SPACE.encode(SPACE.decode(DARTS_V2)), **row}
    return "; ".join(check_row(SPACE, FixtureRow("0", content)))


def test_every_setting_of_a_row_is_checked() -> None:
    small, large = _measured(4, 3), _measured(6, 4)
    with_aux = {**small, "params": small["params"] + auxiliary_params(4)}
    row = {"c4_l3_noaux": small, "c6_l4_noaux": large, "c4_l3_aux": with_aux}
    assert _problems(**row) == ""
    for key, measured in row.items():
        problems = _problems(**{**row, key: {**measured, "macs": 1}})
        assert re.fullmatch(f"{key}: macs is [0-9]+, expected 1", problems)
    assert "c4_l3_aux: params is" in _problems(**{**row, "c4_l3_aux": small})
    assert "c6_l4_noaux: lacks logits8" in _problems(
        **{**row, "c6_l4_noaux": {key: value for key, value in large.items() if key != "logits8"}}
    )


def test_settings_that_cannot_be_checked_fail() -> None:
    small = _measured(4, 3)
    assert "c4_l3 is not a setting" in _problems(c4_l3=small)
    assert "even number of channels" in _problems(c5_l3_noaux=small)
    assert "not an object of measurements" in _problems(c4_l3_noaux=1)
    assert "lacks params" in _problems()
    assert "lacks macs" in _problems(c4_l3_noaux=small, params=1)
    assert "lacks config" in "; ".join(check_row(SPACE, FixtureRow("0", {"params": 1})))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the measured fixtures are not beside this checkout")
def test_given_fixtures() -> None:
    """Every fourth row; ``gennape conform`` checks all."""
    rows = read_rows(SHARED / "fixtures" / "nb301.jsonl")
    assert len(rows) > 20
    assert {row.identity: problems for row in rows[::4] if (problems := check_row(family("nb301"), row))} == {}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the labelled architectures are not beside this checkout")
def test_labelled_architectures_have_their_parameters() -> None:
    with gzip.open(SHARED / "data" / "nb301.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))[::10]
    genomes = np.stack([SPACE.decode(json.loads(row["architecture"])) for row in rows])
    assert cost.params(SPACE.graphs(genomes)).tolist() == [int(row["params"]) for row in rows]
    assert {SPACE.genes[1].values[op] for op in genomes[:, 1]} == set(OPERATIONS) - {"none"}


# Edges that are none -------------------------------------------------------------------------------------------------


def _with(pairs: list[list[Any]]) -> dict[str, Any]:
    architecture = SPACE.encode(SPACE.decode(DARTS_V2))
    return {**architecture, "normal": [*pairs, *architecture["normal"][len(pairs) :]]}


def test_an_edge_that_is_none_adds_nothing() -> None:
    """Node 1 of a normal cell loses a separable convolution, twice (3x3 of each channel, 1x1, normalisation), and its
    sum; six of the eight cells are normal, two of each width."""
    whole, without = (
        SPACE.graph(SPACE.decode(_with([[op, 0], ["sep_conv_3x3", 1]]))) for op in ("sep_conv_3x3", "none")
    )
    lost = sum(2 * 2 * (9 * c + c * c + 2 * c) for c in (32, 64, 128))
    assert cost.params(pack([whole]))[0] - cost.params(pack([without]))[0] == lost
    assert _count(whole, Op.ADD) - _count(without, Op.ADD) == 6
    assert _count(without, Op.ZERO) == 0


def test_where_an_edge_that_is_none_comes_from_is_no_property_of_the_network() -> None:
    start = [["sep_conv_3x3", 0], ["skip_connect", 1]]
    graphs = [SPACE.graph(SPACE.decode(_with([*start, ["none", k], ["skip_connect", 2]]))) for k in (0, 1)]
    first, second = canonical_hashes(pack(graphs))
    assert first == second


@pytest.mark.parametrize("form", ["json", "genotype", "configuration"])
def test_a_network_of_nothing_but_none_does_not_see_its_image(form: str) -> None:
    genome = SPACE.decode(_architecture("none"))
    written = {"json": SPACE.encode, "genotype": genotype_string, "configuration": configuration}[form](genome)
    assert np.array_equal(SPACE.decode(written), genome)
    space = NasBench301(4, 5)
    module = compile_graph(space.graph(genome)).eval()
    images = np.random.default_rng(0).random((2, 1, 3, 32, 32), np.float32)
    with torch.no_grad():
        results = [module(torch.from_numpy(image)) for image in images]
    assert torch.equal(*results)
    assert results[0].shape == (1, 10)


def test_none_is_read_from_labels_and_never_drawn(tmp_path: Path) -> None:
    rows = [genotype_string(SPACE.decode(_with([["none", 0], ["skip_connect", 1]]))), DARTS_V2]
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("architecture", "accuracy"), (rows[0], 90.0), (rows[1], 94.0)])
    assert read_labels(path, SPACE).accuracy.tolist() == [90, 94]
    assert OPERATIONS.index("none") not in SPACE.sample(np.random.default_rng(0), 100)[:, 1::3]
