"""Pretraining the encoder and fitting the ensemble."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn import functional

from gennape.predictors.contrastive import ProjectionHead, contrastive_loss
from gennape.predictors.encoder import EncoderConfig, GraphEncoder
from gennape.predictors.features import featurize
from gennape.predictors.fuzzy import fuzzy_c_means
from gennape.predictors.fuzzy_ensemble import EnsembleConfig, FuzzyEnsembleNetwork
from gennape.predictors.target import FlopsTarget, fit_target, flops_scale
from gennape.search_spaces.cost import flops
from gennape.search_spaces.graph import PackedGraphs

#: Called after every step with the number of graphs seen and the loss of that step.
Progress = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Contrastive pretraining: ``eigenvalues`` is q; the two temperatures are of embeddings and of spectra."""

    epochs: int = 8
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    eigenvalues: int = 21
    temperature: float = 0.1
    spectral_temperature: float = 0.02


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Supervised fitting of encoder and heads; ``settle`` is the share of epochs after which centroids stand still."""

    epochs: int = 40
    batch: int = 128
    learning_rate: float = 2e-3
    encoder_rate: float = 1.0  # relative to learning_rate
    weight_decay: float = 1e-4
    settle: float = 0.6


def pretrain(
    graphs: PackedGraphs,
    spectra: Float64[np.ndarray, "g q"],
    encoder_config: EncoderConfig,
    config: PretrainConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> GraphEncoder:
    """An encoder whose embeddings are as similar as the Laplacian spectra of their graphs; labels play no part."""
    torch.manual_seed(int(rng.integers(2**31)))
    encoder, head = GraphEncoder(encoder_config), ProjectionHead(encoder_config.embedding)
    parameters = [*encoder.parameters(), *head.parameters()]
    steps = config.epochs * max(1, len(graphs) // config.batch)
    optimizer, schedule = _optimizer([{"params": parameters}], config.learning_rate, config.weight_decay, steps)
    encoder.train()
    for chosen in _shuffled(len(graphs), config.batch, config.epochs, rng):
        batch = featurize(graphs.take(np.tile(chosen, 2)))
        rows = torch.from_numpy(spectra[np.tile(chosen, 2)]).float()
        loss = contrastive_loss(head(encoder(batch)), rows, config.temperature, config.spectral_temperature)
        _step(loss, parameters, optimizer, schedule)
        progress(len(chosen), float(loss.detach()))
    return encoder.eval()


def fit(
    encoder: GraphEncoder,
    graphs: PackedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    config: EnsembleConfig,
    settings: FitConfig,
    rng: np.random.Generator,
    progress: Progress,
    after_epoch: Callable[[int, FuzzyEnsembleNetwork, FlopsTarget], None] | None = None,
) -> tuple[FuzzyEnsembleNetwork, FlopsTarget]:
    """Heads on fuzzy clusters of the encoder's embeddings, trained together with the encoder.

    The clusters are found on the pretrained embeddings and follow them epoch by epoch until ``settle`` of the training
    is over. Dropout made views for pretraining; here it would only blur the target, so the encoder stays in evaluation
    mode, with the statistics of its embeddings as pretraining left them. The loss is the absolute error in accuracy: the error in the target times what the target was divided by.
    """
    torch.manual_seed(int(rng.integers(2**31)))
    target = fit_target(accuracy, flops(graphs))
    wanted = torch.from_numpy(target.transform(accuracy, flops(graphs))).float()
    unit = torch.from_numpy(target.unit(flops(graphs))).float()
    network = FuzzyEnsembleNetwork(config)
    network.encoder.load_state_dict(encoder.state_dict())
    network.heads.start(1 / flops_scale(flops(graphs)), wanted.double().numpy())
    # Clusters of a few thousand graphs are those of all.
    sample = graphs.take(np.sort(rng.permutation(len(graphs))[:4096]))
    network.centroids.copy_(fuzzy_c_means(_embed(network.encoder, sample), config.clusters, config.fuzzifier, rng))
    rates = [
        {"params": list(network.encoder.parameters()), "lr": settings.learning_rate * settings.encoder_rate},
        {"params": list(network.heads.parameters()), "lr": settings.learning_rate},
    ]
    per_epoch = max(1, len(graphs) // settings.batch)
    optimizer, schedule = _optimizer(rates, settings.learning_rate, settings.weight_decay, settings.epochs * per_epoch)
    parameters = list(network.parameters())
    network.eval()
    for step, chosen in enumerate(_shuffled(len(graphs), settings.batch, settings.epochs, rng), start=1):
        predicted, _ = network(featurize(graphs.take(chosen)))
        rows = torch.from_numpy(chosen)
        error = (predicted - wanted[rows]) * unit[rows]
        loss = functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.5)
        _step(loss, parameters, optimizer, schedule)
        progress(len(chosen), float(loss.detach()))
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            if epoch <= settings.settle * settings.epochs:
                embeddings = _embed(network.encoder, sample)
                moved = fuzzy_c_means(embeddings, config.clusters, config.fuzzifier, rng, 1e-3, 50, network.centroids)
                network.centroids.copy_(moved)
            if after_epoch is not None:
                after_epoch(epoch, network, target)
    return network, target


def _embed(encoder: GraphEncoder, graphs: PackedGraphs) -> Tensor:
    """Single-precision embeddings for clustering during training."""
    with torch.inference_mode():
        starts = range(0, len(graphs), 64)
        rows = [encoder(featurize(graphs.take(np.arange(s, min(s + 64, len(graphs)))))) for s in starts]
    return torch.cat(rows).clone()


def _shuffled(n: int, batch: int, epochs: int, rng: np.random.Generator) -> Iterator[Int64[np.ndarray, " b"]]:
    """Batches of indices, each epoch in a new order; an incomplete last batch is dropped unless it is the only one."""
    for _ in range(epochs):
        order = rng.permutation(n)
        for i in range(max(1, n // batch)):
            yield order[i * batch : (i + 1) * batch]


def _optimizer(
    groups: list[dict[str, object]], rate: float, weight_decay: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=weight_decay)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=0.1)


def _step(
    loss: Tensor,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()
    schedule.step()
