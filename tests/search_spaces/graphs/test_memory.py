"""Peak memory of activations, against worked examples and a network that is executed value by value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.columns import Column
from gennape.search_spaces.graphs.graph import concatenate, pack
from gennape.search_spaces.graphs.memory import peak_memory
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.plan import execution_plan


def by_execution(graph):
    """Hold each value of the execution plan in a dictionary until the plan releases it."""
    held, most = {}, 0
    for step in execution_plan(graph):
        c, h, w = (step.row[column] for column in (Column.C_OUT, Column.H_OUT, Column.W_OUT))
        held[step.node] = 0 if step.op is Op.OUTPUT else 4 * c * h * w
        most = max(most, sum(held.values()))
        for node in step.release:
            del held[node]
    return most


def test_a_chain_holds_two_values_and_a_branch_three():
    b = GraphBuilder()
    x = b.conv(b.input(3, 8, 8), 4, 3)  # 3 x 8 x 8 in, 4 x 8 x 8 out: 768 and 1,024 bytes
    b.output(b.relu(x))
    chain = b.build()
    b = GraphBuilder()
    x = b.conv(b.input(3, 8, 8), 4, 3)
    b.output(b.add(b.relu(x), b.hardsigmoid(x)))  # x and both branches, then both branches and their sum
    branch = b.build()
    assert peak_memory(pack([chain, branch])).tolist() == [2 * 1024, 3 * 1024]
    assert peak_memory(pack([])).tolist() == []


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_peaks_are_those_of_an_execution(space):
    graphs = [space.graph(genome) for genome in space.sample(np.random.default_rng(1), 3)]
    assert peak_memory(pack(graphs)).tolist() == [by_execution(graph) for graph in graphs]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nodes_in_any_order_and_other_graphs_beside(seed):
    rng = np.random.default_rng(seed)
    space = FAMILIES[int(rng.integers(3))]
    graphs = [space.graph(genome) for genome in space.sample(rng, 2)]
    mixed = [graph.relabel(rng.permutation(graph.n_nodes)) for graph in graphs]
    together = concatenate([pack(graphs), pack(mixed), pack(graphs[:1])])
    assert peak_memory(together).tolist() == [by_execution(graph) for graph in (*graphs, *mixed, graphs[0])]
