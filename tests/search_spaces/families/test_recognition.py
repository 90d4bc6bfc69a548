"""Architectures are read off graphs, of their own space only, whoever built the graph."""

from __future__ import annotations

import numpy as np
import pytest

from gennape.search_spaces.families.recognition import READERS, recognise, same_networks
from gennape.search_spaces.families.registry import families, family
from gennape.search_spaces.graphs.graph import Column, pack
from gennape.search_spaces.graphs.normal_form import normal_form
from gennape.search_spaces.graphs.ops import Op

NAMES = sorted(READERS)


def sampled(name, n=12, seed=0):
    genomes = family(name).sample(np.random.default_rng(seed), n)
    return genomes, family(name).graphs(genomes)


@pytest.mark.parametrize("name", NAMES)
def test_every_network_of_a_space_is_read_back(name):
    genomes, graphs = sampled(name)
    found, recognised = recognise(family(name), normal_form(graphs))
    assert recognised.all()
    assert np.array_equal(found, genomes)


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_and_the_smallest_network_are_read_back(name):
    space = family(name)
    ends = [[gene.drawn[side] for gene in space.genes] for side in (0, -1)]
    genomes = space.canonical(np.array(ends, np.int64))
    found, recognised = recognise(space, normal_form(space.graphs(genomes)))
    assert recognised.all()
    assert np.array_equal(found, genomes)


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_other_spaces_are_not(name):
    for other in families():
        if other.name != name:
            _, recognised = recognise(family(name), normal_form(sampled(other.name)[1]))
            assert not recognised.any(), other.name


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_nodes_does_not_matter(name):
    rng = np.random.default_rng(1)
    genomes, _ = sampled(name, 4)
    shuffled = [family(name).graph(genome) for genome in genomes]
    shuffled = [graph.relabel(rng.permutation(graph.n_nodes)) for graph in shuffled]
    found, recognised = recognise(family(name), normal_form(pack(shuffled)))
    assert recognised.all()
    assert np.array_equal(found, genomes)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_was_changed_in_one_layer_is_not(name):
    _, graphs = sampled(name, 6)
    formed = normal_form(graphs)
    layer = np.flatnonzero(np.isin(formed.nodes[:, Column.OP], (Op.CONV, Op.DEPTHWISE)))
    for row in np.random.default_rng(2).choice(layer, 12, replace=False):
        nodes = formed.nodes.copy()
        nodes[row, [Column.DILATION_H, Column.DILATION_W]] += 2
        changed = type(formed)(nodes, formed.scalars, formed.edges, formed.node_offsets, formed.edge_offsets)
        _, recognised = recognise(family(name), changed)
        assert recognised.tolist() == [i != formed.graph_index[row] for i in range(6)]


def test_equal_and_different_networks_of_one_size():
    genomes, graphs = sampled("hiaml", 5)
    assert same_networks(graphs, graphs).all()
    turned = same_networks(graphs, graphs.take(np.array([0, 2, 1, 3, 4])))
    assert turned.tolist() == [True, False, False, True, True]
    assert len(np.unique(genomes, axis=0)) == 5


def test_no_space_without_a_reader_is_recognised():
    _, graphs = sampled("hiaml", 3)
    assert not recognise(family("hiaml"), normal_form(graphs))[1].any()
