from __future__ import annotations

import numpy as np
import pytest
import torch

from gennape.errors import ConfigError
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import featurize
from gennape.predictors.encoder.optimisation import CPU, chosen_device, mixed_precision
from gennape.predictors.encoder.pretraining import pretrain
from gennape.predictors.encoder.settings import (
    GENERAL,
    GENNAPE,
    ClusteringConfig,
    ContrastiveConfig,
    EncoderConfig,
    PretrainConfig,
)
from gennape.predictors.metrics import srcc
from gennape.predictors.model.fitting import fit
from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
from gennape.predictors.model.settings import FitConfig
from gennape.search_spaces.graphs.cost import params
from gennape.search_spaces.graphs.graph import PackedGraphs
from gennape.search_spaces.graphs.spectrum import laplacian_spectra

SIZES = EncoderConfig(hidden=16, layers=2, embedding=8, dropout=0.1)


def _nothing(_: int, __: float) -> None:
    pass


@pytest.mark.parametrize("contrast", [GENNAPE, GENERAL], ids=["gennape", "general"])
def test_pretraining_lowers_its_loss_and_repeats_bit_for_bit(cells: PackedGraphs, contrast: ContrastiveConfig) -> None:
    spectra = laplacian_spectra(cells, contrast.eigenvalues)

    def run() -> tuple[GraphEncoder, list[float]]:
        losses: list[float] = []
        config = PretrainConfig(epochs=15, batch=32, contrast=contrast)
        made = pretrain(cells, spectra, SIZES, config, np.random.default_rng(0), lambda _, loss: losses.append(loss))
        return made, losses

    (first, losses), (second, _) = run(), run()
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.02
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_pretraining_tells_families_apart_where_the_loss_does(cells: PackedGraphs) -> None:
    """Whether all graphs are of one family changes what the general predictor learns, and not what GENNAPE's does."""
    spectra, halves = laplacian_spectra(cells, 21), np.arange(len(cells)) % 2

    def learnt(contrast: ContrastiveConfig, families: np.ndarray | None) -> torch.Tensor:
        config = PretrainConfig(epochs=1, batch=32, contrast=contrast)
        made = pretrain(cells, spectra, SIZES, config, np.random.default_rng(0), _nothing, families=families)
        return made.readout.weight

    assert torch.equal(learnt(GENNAPE, None), learnt(GENNAPE, halves))
    assert torch.equal(learnt(GENERAL, None), learnt(GENERAL, np.full(len(cells), 5)))
    assert not torch.equal(learnt(GENERAL, None), learnt(GENERAL, halves))


def test_pretraining_takes_the_smallest_eigenvalues_and_refuses_too_few(cells: PackedGraphs) -> None:
    config = PretrainConfig(epochs=1, batch=32, contrast=GENERAL)
    some, more = (
        pretrain(cells, laplacian_spectra(cells, k), SIZES, config, np.random.default_rng(0), _nothing)
        for k in (11, 30)
    )
    assert torch.equal(some.readout.weight, more.readout.weight)
    with pytest.raises(ConfigError, match="compares 11 eigenvalues, got spectra of 10"):
        pretrain(cells, laplacian_spectra(cells, 10), SIZES, config, np.random.default_rng(0), _nothing)


def test_fitting_learns_a_rule_that_the_graphs_show(cells: PackedGraphs) -> None:
    """Accuracies that follow the size of the network are ranked nearly perfectly after a short training."""
    accuracy = 70 + 4 * np.log10(params(cells) / 1e5)
    settings = FitConfig(epochs=60, batch=32)
    fitted = fit(
        GraphEncoder(SIZES), cells, accuracy, ClusteringConfig(SIZES, 3, 1.5), settings, np.random.default_rng(0),
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


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [str(chosen_device(name)) for name in (None, "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [str(chosen_device(name)) for name in (None, "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match="no GPU that PyTorch can use was found, got device cuda; use cpu"):
        chosen_device("cuda")


def test_processors_compute_in_full_precision() -> None:
    with mixed_precision(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_the_rule_too(cells: PackedGraphs) -> None:
    """What comes back lies on the processor and ranks nearly perfectly, as what was trained there."""
    accuracy, gpu = 70 + 4 * np.log10(params(cells) / 1e5), torch.device("cuda")
    config = PretrainConfig(epochs=15, batch=32, contrast=GENERAL)
    spectra, rng = laplacian_spectra(cells, 11), np.random.default_rng(0)
    made = pretrain(cells, spectra, SIZES, config, rng, _nothing, device=gpu)
    settings, sizes = FitConfig(epochs=60, batch=32), ClusteringConfig(SIZES, 3, 1.5)
    fitted = fit(made, cells, accuracy, sizes, settings, rng, _nothing, device=gpu)
    assert {t.device.type for t in (*made.state_dict().values(), *fitted.network.state_dict().values())} == {"cpu"}
    assert srcc(accuracy, FuzzyEnsemble(fitted, "").predict(cells).accuracy) > 0.9
