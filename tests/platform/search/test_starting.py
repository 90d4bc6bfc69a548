"""What a search begins with: the ends of its space, whatever the space is."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.extension import extend
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.runs import config_of, describe_run
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.search.starting import extreme_genomes, starting_genomes
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.families.space import Gene, SearchSpace
from gennape.search_spaces.graphs import cost


class _Own(SearchSpace):
    """Of one to three layers; widths out of order; a gene without effect; the widest kernels only when narrow."""

    name = "own"
    genes = (
        Gene("depth", (1, 2, 3)),
        *(Gene(f"width of layer {i}", (16, 4, 64, 8)) for i in range(3)),
        Gene("kernel", (1, 3, 5)),
        Gene("nothing", ("a", "b")),
    )

    def canonical(self, genomes):
        out = genomes.copy()
        out[:, 5] = 0
        out[:, 1:4][np.arange(3) > genomes[:, :1]] = 0
        return out

    def feasible(self, genomes):
        return ~((genomes[:, 4] == 2) & (genomes[:, 1:4] == 2).any(1))

    def emit(self, b, genome):
        depth, *widths, kernel, _ = self.values(genome)
        x = b.input(3, 8, 8)
        for width in widths[:depth]:
            x = b.relu(b.conv(x, width, kernel))
        return b.linear(b.mean(x), 10)


def costs(space, genomes):
    graphs = space.graphs(genomes)
    return np.stack([cost.flops(graphs), cost.params(graphs)], axis=1)


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_ends_are_valid_few_and_beyond_what_a_sample_finds(space):
    genomes = extreme_genomes(space, np.random.default_rng(1))
    space.validate(genomes)
    assert np.array_equal(space.canonical(genomes), genomes)
    assert len(np.unique(genomes, axis=0)) == len(genomes) <= 40
    found, sampled = costs(space, genomes), costs(space, space.sample(np.random.default_rng(2), 200))
    assert (found.max(0) >= sampled.max(0)).all()
    # The smallest of nb101 hang on edges that lead nowhere, which no gene shows alone.
    assert (found.min(0) <= np.quantile(sampled, 0.02, axis=0)).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["ofa_mbv3", "proxylessnas", "ofa_resnet"])
def test_families_of_sizes_give_their_exact_ends(name, seed):
    space = family(name)
    ends = np.array([[gene.drawn[at] for gene in space.genes] for at in (0, -1)])
    exact = costs(space, space.canonical(ends))
    found = costs(space, extreme_genomes(space, np.random.default_rng(seed)))
    assert np.array_equal(found.min(0), exact[0])
    assert np.array_equal(found.max(0), exact[1])


def test_an_own_space_gives_its_exact_ends_and_deep_but_narrow_corners():
    space = _Own()
    everything = np.array(list(itertools.product(*(range(len(gene.values)) for gene in space.genes))))
    everything = everything[space.feasible(space.canonical(everything))]
    exact = costs(space, np.unique(space.canonical(everything), axis=0))
    genomes = extreme_genomes(space, np.random.default_rng(0))
    found = costs(space, genomes)
    assert np.array_equal(found.min(0), exact.min(0))
    assert np.array_equal(found.max(0), exact.max(0))
    widths = [space.values(genome)[1:4] for genome in genomes if genome[0] == 2]
    assert [4, 4, 4] in widths


def test_a_seed_decides_the_ends_and_the_baseline_has_none():
    config = search_config(space="nb301", seed=4, islands=3)
    space = family("nb301")
    expected = starting_genomes(config, space, 0)
    assert len(expected)
    assert np.array_equal(starting_genomes(config, space, 0), expected)
    assert not len(starting_genomes(config.model_copy(update={"searcher": "random"}), space, 0))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_first_generation_evaluates_ends_first_and_within_the_quota(tmp_path, asynchronous):
    config = search_config(space="ofa_resnet", evaluations=5, population=10, islands=1, asynchronous=asynchronous)
    result = run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()))
    genomes = np.array(result.evaluations["genome"].tolist())
    assert np.array_equal(genomes, starting_genomes(config, family("ofa_resnet"), 0)[:5])


def test_a_search_cut_short_among_its_ends_extends_to_the_undisturbed_one(tmp_path):
    def config(evaluations):
        return search_config(space="ofa_resnet", evaluations=evaluations, population=10, islands=2, seed=3)

    def run(folder):
        settings = config_of(folder)
        return run_search(settings, folder, LocalIslands(settings, SyntheticPredictor()))

    for name, evaluations in (("long", 90), ("short", 7)):
        (tmp_path / name).mkdir()
        describe_run(tmp_path / name, config(evaluations))
        run(tmp_path / name)
    extend(tmp_path / "short", 90)
    expected, got = run(tmp_path / "long"), run(tmp_path / "short")
    pd.testing.assert_frame_equal(got.evaluations, expected.evaluations)
    pd.testing.assert_frame_equal(got.front, expected.front)


def test_the_largest_network_is_in_a_population_from_the_start(tmp_path):
    config = search_config(space="ofa_mbv3", evaluations=100, population=20, islands=1)
    result = run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()))
    everything = result.evaluations
    largest = everything.loc[everything["flops"].idxmax()]
    assert largest["generation"] == 0
    architecture = {"resolution": 224, "units": [[[6, 7]] * 4] * 5}
    assert np.array_equal(largest["genome"], family("ofa_mbv3").decode(architecture))
