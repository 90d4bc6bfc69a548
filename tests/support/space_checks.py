"""What several tests ask of a graph or of a family's space."""

from __future__ import annotations

import numpy as np
import pytest

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import ComputationGraph, pack


def graph_hash(graph: ComputationGraph) -> str:
    return canonical_hashes(pack([graph]))[0]


def assert_feasible_is_what_decode_accepts(space: SearchSpace, seed: int, changed: float) -> None:
    """Genomes drawn from ``seed``, a share ``changed`` of their genes replaced by any value, before ``canonical``."""
    rng = np.random.default_rng(seed)
    genomes = space.sample(rng, 16)
    limits = [len(gene.values) for gene in space.genes]
    anything = rng.integers(limits, size=genomes.shape)
    genomes = space.canonical(np.where(rng.random(genomes.shape) < changed, anything, genomes))
    for genome, feasible in zip(genomes, space.feasible(genomes), strict=True):
        architecture = space.encode(genome)
        if feasible:
            assert np.array_equal(space.decode(architecture), genome)
        else:
            with pytest.raises(InvalidArchitectureError):
                space.decode(architecture)
