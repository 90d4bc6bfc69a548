from __future__ import annotations

import numpy as np
import torch

from gennape.predictors.encoder import EncoderConfig, GraphEncoder
from gennape.predictors.features import featurize
from gennape.predictors.fuzzy_ensemble import EnsembleConfig, FuzzyEnsemble
from gennape.predictors.metrics import srcc
from gennape.predictors.training import FitConfig, PretrainConfig, fit, pretrain
from gennape.search_spaces.cost import params
from gennape.search_spaces.graph import PackedGraphs
from gennape.search_spaces.spectrum import laplacian_spectra

SIZES = EncoderConfig(hidden=16, layers=2, embedding=8, dropout=0.1)


def _nothing(_: int, __: float) -> None:
    pass


def test_pretraining_lowers_its_loss_and_repeats_bit_for_bit(cells: PackedGraphs) -> None:
    spectra = laplacian_spectra(cells, 21)

    def run() -> tuple[GraphEncoder, list[float]]:
        losses: list[float] = []
        config = PretrainConfig(epochs=15, batch=32)
        made = pretrain(cells, spectra, SIZES, config, np.random.default_rng(0), lambda _, loss: losses.append(loss))
        return made, losses

    (first, losses), (second, _) = run(), run()
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.02
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_fitting_learns_a_rule_that_the_graphs_show(cells: PackedGraphs) -> None:
    """Accuracies that follow the size of the network are ranked nearly perfectly after a short training."""
    accuracy = 70 + 4 * np.log10(params(cells) / 1e5)
    settings = FitConfig(epochs=60, batch=32)
    fitted = fit(
        GraphEncoder(SIZES), cells, accuracy, EnsembleConfig(SIZES, 3, 1.5, 16), settings, np.random.default_rng(0),
        _nothing,
    )  # fmt: skip
    assert srcc(accuracy, FuzzyEnsemble(fitted, "").predict(cells).accuracy) > 0.9
    assert (fitted.network.centroids.std(0) > 0).any()


def test_operations_never_seen_keep_their_zero_weights(cells: PackedGraphs) -> None:
    made = pretrain(
        cells,
        laplacian_spectra(cells, 21),
        SIZES,
        PretrainConfig(epochs=1, batch=32),
        np.random.default_rng(0),
        _nothing,
    )
    seen = featurize(cells).features.abs().sum(0) > 0
    assert made.enter.weight[:, :48][:, ~seen[:48]].abs().max() == 0
