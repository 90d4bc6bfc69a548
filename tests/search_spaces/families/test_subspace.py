"""Parts of search spaces: what is fixed, what is left, and that nothing leaves the part."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import ConfigError, InvalidArchitectureError
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.families.subspace import Fix, Subspace, parse_fix, read_fixes, subspace
from gennape.search_spaces.families.testing import SearchSpaceConformance

#: A part of each kind of space: with a sampler of its own, with genes that may not matter, with genomes that are none.
PARTS = {
    "hiaml": ["block of stage 1=hiaml_z", "block of stage 2=hiaml_a22,hiaml_b23"],
    "ofa_mbv3": ["resolution=224", "kernel*=3,5", "depth of unit 1=4"],
    "ofa_resnet": ["stem residual=true", "expansion*=0.25,0.35"],
    "proxylessnas": ["expansion of unit 2*=6", "depth*=2,3"],
    "nb101": ["edge 0->1=1", "operation of vertex 1=conv3x3-bn-relu"],
    "nb201": ["operation of edge 0->*=nor_conv_3x3,nor_conv_1x1"],
    "nb301": ["*operation of node 1 of the normal cell=sep_conv_3x3", "sources of node 2*=(0, 1),(0,2)"],
    "inception": ["paths of stage 1=3", "repeats*=2,3", "operation 1 of path 1*=conv3x3,conv5x5"],
    "two_path": ["blocks of path*=3", "operations of path 1, block 1=2"],
}


def part_of(name):
    return subspace(family(name), map(parse_fix, PARTS[name]))


class TestPartOfElasticSpace(SearchSpaceConformance):
    @pytest.fixture
    def space(self):
        return part_of("ofa_mbv3")


class TestPartWithASamplerOfItsOwn(SearchSpaceConformance):
    @pytest.fixture
    def space(self):
        return part_of("inception")


class TestPartOfCells(SearchSpaceConformance):
    @pytest.fixture
    def space(self):
        return part_of("nb201")


class TestPartOfPrunedCells(SearchSpaceConformance):
    @pytest.fixture
    def space(self):
        return part_of("nb101")


def outside(space, genome):
    """The genes that have a value outside, and whose value matters: another one gives another architecture."""
    return [
        gene.name
        for i, gene in enumerate(space.genes)
        if genome[i] not in gene.drawn
        and gene.sampled != space.whole.genes[i].sampled
        and any(
            space.whole.encode(space.whole.canonical(np.where(np.arange(len(genome)) == i, v, genome)[None])[0])
            != space.whole.encode(genome)
            for v in gene.drawn
        )
    ]


@pytest.mark.parametrize("name", PARTS)
def test_nothing_leaves_the_part(name):
    space, rng = part_of(name), np.random.default_rng(7)
    genomes = space.sample(rng, 24)
    for _ in range(6):
        for genome in genomes:
            assert not outside(space, genome), space.encode(genome)
        space.validate(genomes)
        np.testing.assert_array_equal(np.stack([space.decode(space.encode(genome)) for genome in genomes]), genomes)
        np.testing.assert_array_equal(space.graphs(genomes[:2]).nodes, space.whole.graphs(genomes[:2]).nodes)
        children = space.crossover(genomes, rng.permutation(genomes), rng)
        genomes = space.mutate(children, rng)
        assert (genomes != children).any(1).mean() > 0.5


def test_a_small_part_is_seen_as_a_whole():
    space = part_of("nb201")  # three edges with 2 values, three with 5
    genomes = space.sample(np.random.default_rng(0), 20_000)
    assert len(np.unique(genomes, axis=0)) == 2**3 * 5**3
    assert "1,000 of 15,625 genomes" in repr(space)
    counts = [np.bincount(genomes[:, 0], minlength=5)[[2, 3]], np.bincount(genomes[:, 5], minlength=5)]
    for count in counts:
        np.testing.assert_allclose(count / count.sum(), 1 / len(count), atol=0.02)


def test_elastic_genes_that_begin_to_matter_are_inside():
    whole = family("ofa_mbv3")
    space = subspace(whole, [parse_fix("kernel*=7"), parse_fix("depth*=2,4")])
    genomes = space.sample(np.random.default_rng(1), 40)
    for genome in space.mutate(genomes, np.random.default_rng(2), rate=0.5):
        units = whole.encode(genome)["units"]
        assert {len(unit) for unit in units} <= {2, 4}
        assert {kernel for unit in units for _, kernel in unit} == {7}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_inside_is_what_the_values_say(seed):
    whole = family("nb201")
    space = part_of("nb201")
    genomes = whole.sample(np.random.default_rng(seed), 30)
    expected = np.isin(genomes[:, [i for i, g in enumerate(whole.genes) if "edge 0->" in g.name]], [2, 3]).all(1)
    assert space.feasible(genomes).tolist() == expected.tolist()
    for genome, inside in zip(genomes, expected, strict=True):
        if not inside:
            with pytest.raises(InvalidArchitectureError, match=r"nb201: operation of edge 0->\d is '.*outside of"):
                space.decode(whole.encode(genome))


def test_values_are_written_in_many_ways():
    assert parse_fix("a=224.0, 8") == Fix("a", ("224", "8"))
    assert parse_fix("x y*=(0, 1),[2,3]") == Fix("x y*", ("(0,1)", "(2,3)"))
    assert parse_fix("b=True") == Fix("b", ("true",))
    assert str(parse_fix("kernel* = 3 , 5")) == "kernel*=3,5"
    assert parse_fix(str(parse_fix("x=(0, 1),(2,3)"))) == parse_fix("x=(0,1),(2,3)")


def test_a_file_and_options_mean_the_same(tmp_path):
    (tmp_path / "part.json").write_text(json.dumps({"resolution": 224, "kernel*": [3, 5], "(exp*": [[3, 3], [4, 5]]}))
    fixes = read_fixes(tmp_path / "part.json")
    assert [str(fix) for fix in fixes] == ["resolution=224", "kernel*=3,5", "(exp*=(3,3),(4,5)"]
    space = subspace(family("ofa_mbv3"), fixes)
    assert space.genes[0].sampled == (24,)
    # (expansion, kernel): both patterns hold
    assert {space.genes[6].values[i] for i in space.genes[6].sampled} == {(3, 3), (4, 5)}


@pytest.mark.parametrize(
    ("name", "fixes", "says"),
    [
        (
            "ofa_mbv3",
            ["resolutio=224"],
            r"has no gene 'resolutio'; did you mean resolution\?\. Its genes are resolution; ",
        ),
        ("ofa_mbv3", ["kernels*=3"], "has no gene"),
        ("ofa_mbv3", ["resolution=225"], r"no gene has the value 225; known are 128, 132"),
        (
            "ofa_mbv3",
            ["kernel*=3", "kernel*=5"],
            "leaves 'kernel of unit 1, layer 1' of ofa_mbv3 no value; .*ruled out",
        ),
        (
            "two_path",
            ["reducing blocks of path 1=(2,3)", "blocks of path 1=2"],
            "no architecture of two_path was found",
        ),
    ],
)
def test_parts_without_sense_are_refused(name, fixes, says):
    with pytest.raises(ConfigError, match=says):
        subspace(family(name), map(parse_fix, fixes))


@pytest.mark.parametrize("text", ["resolution", "=3", "resolution=", "a=1,,2"])
def test_options_that_cannot_be_read_are_refused(text):
    with pytest.raises(ConfigError, match="cannot read"):
        parse_fix(text)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[3]", r"holds \[3\]; must be an object"),
        ("{}", "must be an object"),
        ('{"a": []}', "'a' is .*must be a list"),
        ('{"a": [{}]}', "must be a list of values"),
        ("{", "cannot read .* as JSON"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, content, says):
    (tmp_path / "part.json").write_text(content)
    with pytest.raises(ConfigError, match=says):
        read_fixes(tmp_path / "part.json")
    with pytest.raises(ConfigError, match="does not exist"):
        read_fixes(tmp_path / "absent.json")


def test_nothing_fixed_is_the_whole_space():
    space = family("hiaml")
    assert subspace(space, ()) is space
    part = part_of("hiaml")
    assert isinstance(part, Subspace)
    assert part.name == "hiaml"
    everything = list(itertools.product([0], [1, 2], range(14), range(14)))
    assert part.feasible(np.array(everything)).all()
    assert f"{len(everything):,} of 38,416" in repr(part)
