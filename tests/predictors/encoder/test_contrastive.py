from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gennape.errors import ConfigError
from gennape.predictors.encoder.contrastive import Views, contrastive_loss, pair_weights
from gennape.predictors.encoder.settings import GENERAL, GENNAPE, ContrastiveConfig

SOFT_WITHIN = replace(GENERAL, spectral_temperature=0.1)
CONFIGS = pytest.mark.parametrize("config", [GENNAPE, SOFT_WITHIN, GENERAL], ids=["gennape", "within", "general"])


def _twice(spectra: list[float], families: list[int]) -> Views:
    """Two views of each graph, of spectra of one eigenvalue: graphs 0, 1, ..., then the same again."""
    graphs = torch.arange(len(spectra))
    return Views(graphs.repeat(2), torch.tensor(families).repeat(2), torch.tensor(spectra).repeat(2)[:, None])


def _row(weights: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-7)


def test_the_two_configurations() -> None:
    assert (GENNAPE.eigenvalues, GENNAPE.within_family) == (21, False)
    assert (GENERAL.eigenvalues, GENERAL.temperature, GENERAL.within_family) == (11, 0.05, True)


# Weights by hand -----------------------------------------------------------------------------------------------------


def test_weights_of_gennape() -> None:
    """Softmax of minus distance / 0.1 over all other views: 1 for the second view, e^-1 and e^-5 for the others."""
    weights = pair_weights(_twice([0.0, 0.1, 0.5], [0, 0, 1]), replace(GENNAPE, spectral_temperature=0.1))
    total = 1 + 2 * math.exp(-1) + 2 * math.exp(-5)
    first = [0, math.exp(-1) / total, math.exp(-5) / total, 1 / total, math.exp(-1) / total, math.exp(-5) / total]
    _row(weights[0], first)


def test_weights_within_families() -> None:
    """As above, but the graph at 0.5 is of another family: e^-1 twice and 1. It has its own second view only."""
    weights = pair_weights(_twice([0.0, 0.1, 0.5], [0, 0, 1]), SOFT_WITHIN)
    total = 1 + 2 * math.exp(-1)
    _row(weights[0], [0, math.exp(-1) / total, 0, 1 / total, math.exp(-1) / total, 0])
    _row(weights[2], [0, 0, 0, 0, 0, 1])
    _row(weights[5], [0, 0, 1, 0, 0, 0])


def test_weights_of_the_general_predictor() -> None:
    """Graph 3 is nearest to graph 0, yet of another family: graph 1 is its positive. That of graph 2 is graph 1, too.

    The second view and two views of one nearest graph share equally. Graph 3 is alone in its family.
    """
    weights = pair_weights(_twice([0.0, 0.1, 0.5, 0.05], [7, 7, 7, 2]), GENERAL)
    third = 1 / 3
    _row(weights[0], [0, third, 0, 0, third, third, 0, 0])
    _row(weights[6], [0, third, third, 0, 0, third, 0, 0])
    _row(weights[3], [0, 0, 0, 0, 0, 0, 0, 1])


def test_equally_near_graphs_share() -> None:
    """0.2 lies between 0.1 and 0.3, up to rounding: the second view and four others, a fifth each."""
    weights = pair_weights(_twice([0.1, 0.2, 0.3, 0.9], [0, 0, 0, 0]), GENERAL)
    _row(weights[1], [0.2, 0, 0.2, 0, 0.2, 0.2, 0.2, 0])


def test_equal_spectra_are_nearest_in_large_batches() -> None:
    """Where distances were computed by products of matrices, equal spectra of many rows would seem apart.

    Graphs 2k and 2k + 1 have equal spectra of size 2, the next ones lie 0.001 further.
    """
    spectra = 2 - 0.001 * (torch.arange(64) // 2)[:, None].float().expand(-1, 11)
    views = Views(torch.arange(64).repeat(2), torch.zeros(128, dtype=torch.int64), spectra.repeat(2, 1))
    weights = pair_weights(views, GENERAL)
    for graph in (0, 31, 62):
        assert set(torch.nonzero(weights[graph]).flatten().tolist()) == {graph ^ 1, graph + 64, (graph ^ 1) + 64}


@CONFIGS
def test_a_view_without_partner_is_refused(config: ContrastiveConfig) -> None:
    alone = Views(torch.tensor([3]), torch.tensor([0]), torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="every graph of a contrastive batch twice"):
        pair_weights(alone, config)


# Loss by hand --------------------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    # Two graphs, two views each, all spectra equal: every other view has weight 1/3.
    views = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    loss = contrastive_loss(views, _twice([0.0, 0.0], [0, 0]), replace(GENNAPE, temperature=0.5))
    # Similarities to the others are 2 (same direction), 0, 0.
    total = math.log(math.exp(2) + 2)
    expected = -((2 - total) + 2 * (0 - total)) / 3
    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def test_loss_of_the_general_predictor_by_hand() -> None:
    """Two graphs of a family point one way, the only one of another family points across; temperature 0.5.

    An anchor of the former has three positives of similarity 2 and two negatives of 0, one of the latter one positive
    of 2 and four negatives of 0.
    """
    embeddings = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]).repeat(2, 1)
    loss = contrastive_loss(embeddings, _twice([0.0, 0.4, 0.0], [0, 0, 1]), replace(GENERAL, temperature=0.5))
    pair, single = math.log(3 * math.exp(2) + 2) - 2, math.log(math.exp(2) + 4) - 2
    assert math.isclose(float(loss), (4 * pair + 2 * single) / 6, rel_tol=1e-6)


def test_loss_of_some_anchors_is_their_share_of_the_mean() -> None:
    """By the numbers above: views 2 and 3 are an anchor of each kind."""
    embeddings = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0]]).repeat(2, 1)
    config = replace(GENERAL, temperature=0.5)
    loss = contrastive_loss(embeddings, _twice([0.0, 0.4, 0.0], [0, 0, 1]), config, slice(2, 4))
    pair, single = math.log(3 * math.exp(2) + 2) - 2, math.log(math.exp(2) + 4) - 2
    assert math.isclose(float(loss), (pair + single) / 2, rel_tol=1e-6)


@pytest.mark.parametrize("config", [replace(GENNAPE, spectral_temperature=0.05), GENERAL], ids=["gennape", "general"])
def test_loss_falls_when_similar_graphs_come_closer(config: ContrastiveConfig) -> None:
    """Graphs 0 and 2 have one spectrum, 1 and 3 another."""
    views = _twice([0.0, 1.0, 0.0, 1.0], [0, 0, 0, 0])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    near, far = (contrastive_loss(v.repeat(2, 1), views, config) for v in (apart[[0, 2, 1, 3]], apart))
    assert near < far


# Properties ----------------------------------------------------------------------------------------------------------


@st.composite
def _batches(draw: st.DrawFn) -> tuple[Tensor, Views]:
    """Embeddings and views in double precision: few families, some graphs of equal spectra, two views of each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    graphs, families = draw(st.integers(2, 9)), draw(st.integers(1, 3))
    spectra = rng.random((graphs, 4)).round(1)
    twice = np.tile(np.arange(graphs), 2)
    family = rng.integers(0, families, graphs)
    views = Views(*(torch.from_numpy(a) for a in (twice, family[twice], spectra[twice])))
    return torch.from_numpy(rng.normal(size=(2 * graphs, 5))), views


@CONFIGS
@settings(max_examples=50, deadline=None)
@given(batch=_batches())
def test_rows_of_weights_sum_to_one_and_keep_to_the_family(
    config: ContrastiveConfig, batch: tuple[Tensor, Views]
) -> None:
    _, views = batch
    weights = pair_weights(views, config)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights), dtype=torch.float64))
    assert (weights >= 0).all()
    assert (weights.diagonal() == 0).all()
    crossing = views.family[:, None] != views.family
    assert not (config.within_family and (weights[crossing] != 0).any())


@CONFIGS
@settings(max_examples=50, deadline=None)
@given(batch=_batches())
def test_weights_do_not_fall_as_spectra_come_closer(config: ContrastiveConfig, batch: tuple[Tensor, Views]) -> None:
    """Among the views of one anchor that may be its partners, in order of distance. Distances that differ, differ by
    more than rounding: the spectra are tenths."""
    _, views = batch
    weights = pair_weights(views, config)
    distance = (views.spectra[:, None] - views.spectra).square().sum(2).sqrt()
    for anchor in range(len(weights)):
        may = torch.arange(len(weights)) != anchor
        if config.within_family:
            may &= views.family == views.family[anchor]
        may &= views.graph != views.graph[anchor]
        ordered = weights[anchor, may][distance[anchor, may].argsort()]
        assert (ordered.diff() <= 1e-12).all()
        assert (weights[anchor, views.graph == views.graph[anchor]].max() >= ordered - 1e-12).all()


@CONFIGS
def test_weight_grows_as_a_spectrum_comes_closer(config: ContrastiveConfig) -> None:
    """Of graphs at 0, 0.03 and x: that of x for graph 0 is larger at 0.02 than at 0.04."""
    near, far = (pair_weights(_twice([0.0, 0.03, x], [0, 0, 0]), config)[0, 2] for x in (0.02, 0.04))
    assert near > far


@CONFIGS
@settings(max_examples=50, deadline=None)
@given(batch=_batches(), seed=st.integers(0, 2**32 - 1))
def test_loss_does_not_depend_on_the_order(config: ContrastiveConfig, batch: tuple[Tensor, Views], seed: int) -> None:
    """Nor on which numbers graphs and families have."""
    embeddings, views = batch
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(embeddings)))
    other = Views(100 - views.graph[order], views.family[order] * 3 + 1, views.spectra[order])
    expected = contrastive_loss(embeddings, views, config)
    torch.testing.assert_close(contrastive_loss(embeddings[order], other, config), expected, rtol=1e-12, atol=1e-14)
