"""Small trained and untrained predictors that the tests of this folder share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gennape.predictors.encoder import EncoderConfig, GraphEncoder
from gennape.predictors.fuzzy_ensemble import EnsembleConfig, FuzzyEnsembleNetwork
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graph import PackedGraphs

SMALL = EncoderConfig(hidden=8, layers=2, embedding=6, dropout=0.2)


@pytest.fixture(scope="session")
def cells() -> PackedGraphs:
    """Sixty-four different NAS-Bench-101 networks."""
    space = family("nb101")
    genomes = np.unique(space.sample(np.random.default_rng(7), 200), axis=0)[:64]
    return space.graphs(genomes)


@pytest.fixture
def network() -> FuzzyEnsembleNetwork:
    """A small ensemble with seeded random weights and centroids."""
    torch.manual_seed(3)
    made = FuzzyEnsembleNetwork(EnsembleConfig(SMALL, clusters=3, fuzzifier=1.5, head_hidden=8))
    made.centroids.copy_(torch.randn(3, SMALL.embedding))
    return made


@pytest.fixture
def encoder() -> GraphEncoder:
    """A small encoder with seeded random weights."""
    torch.manual_seed(4)
    return GraphEncoder(SMALL)
