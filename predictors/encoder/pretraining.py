"""Contrastive pretraining of the encoder: embeddings as similar as the spectra of their graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float64, Int64

from gennape.errors import ConfigError
from gennape.predictors.encoder.contrastive import ProjectionHead, Views, contrastive_loss
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import featurize
from gennape.predictors.encoder.optimisation import CPU, adam, chosen_device, made, mixed_precision, optimiser_step
from gennape.predictors.encoder.settings import EncoderConfig, PretrainConfig
from gennape.search_spaces.graphs.graph import PackedGraphs

#: Called after every step with the number of graphs seen and the loss of that step.
Progress = Callable[[int, float], None]


def pretrain(
    graphs: PackedGraphs,
    spectra: Float64[np.ndarray, "g q"],
    encoder_config: EncoderConfig,
    config: PretrainConfig,
    rng: np.random.Generator,
    progress: Progress,
    *,
    families: Int64[np.ndarray, " g"] | None = None,
    device: torch.device | None = None,
) -> GraphEncoder:
    """An encoder whose embeddings are as similar as the Laplacian spectra of their graphs; labels play no part.

    ``families`` tells which graphs are of one family, all where it is None; batches are drawn across families.
    ``device`` computes, by default a GPU where there is one; the encoder comes back to the processor. Raises
    :class:`ConfigError` for spectra of fewer eigenvalues than ``config`` asks for; of more, the smallest are taken.
    """
    device = device or chosen_device()
    known = spectra.shape[1]
    if known < config.contrast.eigenvalues:
        raise ConfigError(f"the loss compares {config.contrast.eigenvalues} eigenvalues, got spectra of {known}")
    spectra = spectra[:, : config.contrast.eigenvalues]
    families = np.zeros(len(graphs), np.int64) if families is None else families
    torch.manual_seed(int(rng.integers(2**31)))
    encoder, head = GraphEncoder(encoder_config), ProjectionHead(encoder_config.embedding)
    encoder.to(device)
    head.to(device)
    parameters = [*encoder.parameters(), *head.parameters()]
    steps = config.epochs * max(1, len(graphs) // config.batch)
    optimizer, schedule = adam(parameters, config.learning_rate, config.weight_decay, steps)
    encoder.train()
    once = list(_shuffled(len(graphs), config.batch, config.epochs, rng))
    for chosen, batch in zip(once, made(lambda rows: featurize(graphs.take(rows)), once, device), strict=True):
        twice = np.tile(chosen, 2)
        rows = torch.from_numpy(spectra[twice]).float()
        views = Views(torch.from_numpy(twice), torch.from_numpy(families[twice]), rows).to(device)
        with mixed_precision(device):
            projected = head(encoder(batch.doubled()))
        loss = contrastive_loss(projected.float(), views, config.contrast)
        optimiser_step(loss, parameters, optimizer, schedule)
        progress(len(chosen), float(loss.detach()))
    return encoder.to(CPU).eval()


def _shuffled(n: int, batch: int, epochs: int, rng: np.random.Generator) -> Iterator[Int64[np.ndarray, " b"]]:
    """Batches of indices, each epoch in a new order; an incomplete last batch is dropped unless it is the only one."""
    for _ in range(epochs):
        order = rng.permutation(n)
        for i in range(max(1, n // batch)):
            yield order[i * batch : (i + 1) * batch]
