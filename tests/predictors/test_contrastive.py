from __future__ import annotations

import math

import torch

from gennape.predictors.contrastive import contrastive_loss, spectral_weights


def test_weights_grow_with_similarity_and_sum_to_one() -> None:
    spectra = torch.tensor([[0.0, 0.0], [0.0, 0.1], [0.0, 0.5]])
    weights = spectral_weights(spectra, 0.1)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert weights.diagonal().tolist() == [0, 0, 0]
    assert weights[0, 1] > weights[0, 2]
    # softmax over -(0.1, 0.5) / 0.1: e^-1 and e^-5
    assert math.isclose(float(weights[0, 1]), 1 / (1 + math.exp(-4)), rel_tol=1e-6)


def test_loss_by_hand() -> None:
    # Two graphs, two views each, all spectra equal: every other view has weight 1/3.
    views = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    loss = contrastive_loss(views, torch.zeros(4, 2), temperature=0.5, spectral_temperature=1.0)
    # Similarities to the others are 2 (same direction), 0, 0.
    total = math.log(math.exp(2) + 2)
    expected = -((2 - total) + 2 * (0 - total)) / 3
    assert math.isclose(float(loss), expected, rel_tol=1e-6)


def test_loss_falls_when_similar_graphs_come_closer() -> None:
    spectra = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    together = apart[[0, 2, 1, 3]]
    near, far = (contrastive_loss(v, spectra, 0.1, 0.05) for v in (together, apart))
    assert near < far
