"""Round trips: graph, module, trace."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from example_counts import examples
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from space_checks import graph_hash
from torch import Tensor, nn
from torch_modules import with_weights_of

from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack, validate
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.graphs.operations import learnt_shape
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.imported import without_dead_ends
from gennape.search_spaces.importing.torch import from_torch, trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from gennape.search_spaces.families.space import SearchSpace

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.drill)])
@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_families_come_back(space: SearchSpace, count: int) -> None:
    """Family, module, trace: the same canonical graph."""
    graphs = [space.graph(genome) for genome in space.sample(np.random.default_rng(5), count)]
    back = []
    for graph in graphs:
        with torch.device("meta"):
            module = compile_graph(graph)
        back.append(from_torch(module, module.image_shape))
    assert canonical_hashes(pack(back)) == canonical_hashes(pack(graphs))


#: Operations whose nodes only say where numbers lie: a trace adds them where another operation needs them.
_LAYOUT = (Op.RESHAPE, Op.PERMUTE)


def _plain(graph: ComputationGraph) -> ComputationGraph:
    """A graph without dead ends, identities and slices of slices, which are read as one slice.

    A fixed factor of one number is that number, whether a tensor holds it or not: a factor of 1 is an identity.
    """
    nodes, scalars, edges = graph.nodes.copy(), graph.scalars.copy(), graph.edges.copy()
    fixed = (nodes[:, Column.OP] == Op.SCALE) & (nodes[:, Column.PARAMS] == 0)
    one = np.array([prod(learnt_shape(tuple(row))) == 1 for row in nodes.tolist()])
    gone = np.flatnonzero((nodes[:, Column.OP] == Op.IDENTITY) | (fixed & one & (scalars == 1)))
    for node in gone:
        (source,) = edges[edges[:, 1] == node, 0]
        edges = edges[edges[:, 1] != node]
        edges[edges[:, 0] == node, 0] = source
    for node in np.flatnonzero(nodes[:, Column.OP] == Op.SLICE):
        (into,) = np.flatnonzero(edges[:, 1] == node)
        first, second = nodes[edges[into, 0]], nodes[node]
        if first[Column.OP] == Op.SLICE:
            jump = np.array([1, first[Column.STRIDE_H], first[Column.STRIDE_W]])
            second[Column.OFFSET_C : Column.OFFSET_W + 1] *= jump
            second[Column.OFFSET_C : Column.OFFSET_W + 1] += first[Column.OFFSET_C : Column.OFFSET_W + 1]
            second[Column.STRIDE_H : Column.STRIDE_W + 1] *= jump[1:]
            second[Column.C_IN : Column.W_IN + 1] = first[Column.C_IN : Column.W_IN + 1]
            edges[into, 0] = edges[edges[:, 1] == edges[into, 0], 0][0]
    kept = np.setdiff1d(np.arange(graph.n_nodes), gone)
    position = np.full(graph.n_nodes, -1, np.int32)
    position[kept] = np.arange(len(kept))
    return without_dead_ends(ComputationGraph(nodes[kept], scalars[kept], position[edges]))[0]


@settings(max_examples=examples(80), deadline=None)
@given(seed=SEEDS)
@example(seed=590021)  # a slice of a slice
@example(seed=1956781473)  # a fixed factor of one number
def test_random_networks_come_back(seed: int, random_graph: Callable[[int], ComputationGraph]) -> None:
    graph = _plain(random_graph(seed))
    assume(not np.isin(graph.nodes[:, Column.OP], _LAYOUT).any())
    module = compile_graph(graph)
    assert graph_hash(from_torch(module, module.image_shape)) == graph_hash(graph)


@settings(max_examples=examples(80), deadline=None)
@given(seed=SEEDS)
@example(seed=575704705)  # a fixed tensor that is joined
@example(seed=4042678450)  # rows of one pixel, padded
def test_random_networks_compute_the_same(seed: int, random_graph: Callable[[int], ComputationGraph]) -> None:
    module = compile_graph(random_graph(seed)).double().eval()
    traced = trace(module, module.image_shape)
    assert traced.others == {}
    x = torch.randn(1, *module.image_shape, dtype=torch.float64)
    with torch.no_grad():
        expected, result = module(x).flatten(), with_weights_of(module, traced)(x).flatten()
    torch.testing.assert_close(result.sort().values, expected.sort().values)  # axes may end up in another order


class _Movements(nn.Module):
    """Views, permutations and slices drawn from a seed, with an activation between them, and a last layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.last = nn.Linear(self.moved(torch.zeros(1, 4, 6, 6)).numel(), 3)

    def moved(self, x: Tensor) -> Tensor:
        rng = np.random.default_rng(self.seed)
        for _ in range(int(rng.integers(1, 7))):
            batch, *rest = x.shape
            which, dim = int(rng.integers(4)), int(rng.integers(1, x.dim()))
            if which == 0:
                x = x.permute(0, *(1 + rng.permutation(x.dim() - 1)))
            elif which == 1:
                x = x.reshape(batch, *_factors(prod(rest), rng))
            elif which == 2 and x.shape[dim] > 1:
                x = x.narrow(dim, int(rng.integers(2)), x.shape[dim] - 1)
            else:
                x = x * 0.5
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.moved(x))
        return y


def _factors(size: int, rng: np.random.Generator) -> list[int]:
    """Up to four sizes whose product is ``size``."""
    sizes = []
    for _ in range(int(rng.integers(4))):
        divisors = [n for n in range(1, size + 1) if size % n == 0]
        sizes.append(int(rng.choice(divisors)))
        size //= sizes[-1]
    return [*sizes, size]


@settings(max_examples=examples(150), deadline=None)
@given(seed=SEEDS)
def test_random_movements_compute_the_same(seed: int) -> None:
    module = _Movements(seed).double().eval()
    traced = trace(module, (4, 6, 6))
    validate(pack([traced.graph]))
    assume(not traced.others)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(with_weights_of(module, traced)(x), module(x))
