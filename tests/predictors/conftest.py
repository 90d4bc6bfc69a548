"""Small trained and untrained predictors that the tests of this folder share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.settings import ClusteringConfig, EncoderConfig, KGnnConfig, KGnnTraining
from gennape.predictors.ensemble.cluster_regression import ClusterRegression
from gennape.predictors.ensemble.ensemble import MemberEnsemble, stacked, zero_shot
from gennape.predictors.ensemble.heads import ClusterHeads
from gennape.predictors.ensemble.inputs import EncodedGraphs, encode
from gennape.predictors.ensemble.registry import fit_members
from gennape.predictors.ensemble.settings import HeadTraining, MembersConfig
from gennape.predictors.few_shot.scaling_law import ScalingLaw
from gennape.predictors.model.fuzzy_ensemble import Fitted
from gennape.predictors.target import fit_target
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import params
from gennape.search_spaces.graphs.graph import PackedGraphs

SMALL = EncoderConfig(hidden=8, layers=2, embedding=6, dropout=0.2)


@pytest.fixture(scope="session")
def cells() -> PackedGraphs:
    """Sixty-four different NAS-Bench-101 networks."""
    space = family("nb101")
    genomes = np.unique(space.sample(np.random.default_rng(7), 200), axis=0)[:64]
    return space.graphs(genomes)


@pytest.fixture
def network() -> ClusteredEncoder:
    """A small encoder with seeded random weights and centroids."""
    torch.manual_seed(3)
    made = ClusteredEncoder(ClusteringConfig(SMALL, clusters=3, fuzzifier=1.5)).eval()
    made.centroids.copy_(torch.randn(3, SMALL.embedding))
    return made


@pytest.fixture
def encoder() -> GraphEncoder:
    """A small encoder with seeded random weights."""
    torch.manual_seed(4)
    return GraphEncoder(SMALL)


@pytest.fixture
def encoded(network: ClusteredEncoder, cells: PackedGraphs) -> EncodedGraphs:
    """What the small encoder shows of the cells."""
    return encode(network.double(), cells)


@pytest.fixture
def cell_accuracy(cells: PackedGraphs) -> np.ndarray:
    """Accuracies of the cells that follow their parameters."""
    return 70 + 4 * np.log10(params(cells) / 1e5)


@pytest.fixture
def sizes() -> MembersConfig:
    """Of small members."""
    return MembersConfig(
        regression_hidden=8,
        pairwise_hidden=4,
        k_gnn=KGnnConfig(8, 2),
        regression=HeadTraining(epochs=3, batch=16),
        pairwise=HeadTraining(epochs=3, batch=16),
        end_to_end=KGnnTraining(epochs=3, batch=16),
    )


@pytest.fixture
def single(encoded: EncodedGraphs, cell_accuracy: np.ndarray) -> ClusterRegression:
    """A head that knows the line in the cost and has seeded random weights."""
    torch.manual_seed(6)
    target = fit_target(cell_accuracy, encoded.flops)
    head = ClusterHeads(1, encoded.embedding.shape[1], 8)
    head.start(encoded.cost, target.transform(cell_accuracy, encoded.flops), target.unit(encoded.flops))
    return ClusterRegression("cl_t", head, target)


@pytest.fixture
def members(
    encoded: EncodedGraphs, cell_accuracy: np.ndarray, single: ClusterRegression, sizes: MembersConfig
) -> MemberEnsemble:
    """Six small members, hardly trained on the cells."""
    made = fit_members(encoded, cell_accuracy, single, sizes, np.random.default_rng(0), lambda _, __: None)
    return zero_shot(made, encoded, cell_accuracy)


@pytest.fixture
def fitted(
    network: ClusteredEncoder,
    members: MemberEnsemble,
    encoded: EncodedGraphs,
    cell_accuracy: np.ndarray,
    encoder: GraphEncoder,
) -> Fitted:
    """What fitting makes, small."""
    within = stacked(members.members, encoded, cell_accuracy)
    return Fitted(network, members, within, ScalingLaw((0.7, -1.5, -0.9), 4.3, 0.24), encoder)
