"""Pretraining the encoder and fitting the ensemble."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from gennape.errors import ConfigError
from gennape.predictors.contrastive import GENNAPE, ContrastiveConfig, ProjectionHead, Views, contrastive_loss
from gennape.predictors.descent import CPU, adam, chosen_device, descend, mixed_precision, regrouped
from gennape.predictors.encoder import EncoderConfig, GraphEncoder
from gennape.predictors.features import featurize
from gennape.predictors.fuzzy import fuzzy_c_means, memberships
from gennape.predictors.fuzzy_ensemble import EnsembleConfig, Fitted, FuzzyEnsembleNetwork, batches_of_nodes
from gennape.predictors.scaling import fit_scaling_law
from gennape.predictors.structure import structure
from gennape.predictors.target import fit_target, flops_scale
from gennape.search_spaces.cost import flops
from gennape.search_spaces.graph import PackedGraphs

_NODES_AT_ONCE = 2**15
#: Called after every step with the number of graphs seen and the loss of that step.
Progress = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Contrastive pretraining: ``batch`` counts graphs, each of which is seen twice; ``contrast`` is the loss."""

    epochs: int = 3
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    contrast: ContrastiveConfig = GENNAPE


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Supervised fitting: ``epochs`` of the encoder, then ``head_epochs`` of the heads on fixed embeddings.

    Every ``regroup`` epochs of the encoder its batches are put together anew, every epoch they are shuffled.
    """

    epochs: int = 24
    head_epochs: int = 20
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    regroup: int = 12


@dataclass(frozen=True, slots=True)
class _Labels:
    """Standardised targets, what a graph's cost is, and percent of accuracy per unit of target, all [g]."""

    target: Float[Tensor, " g"]
    cost: Float[Tensor, " g"]
    unit: Float[Tensor, " g"]

    def to(self, device: torch.device) -> _Labels:
        """The same on another device."""
        return _Labels(self.target.to(device), self.cost.to(device), self.unit.to(device))


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
    for chosen in _shuffled(len(graphs), config.batch, config.epochs, rng):
        twice = np.tile(chosen, 2)
        rows = torch.from_numpy(spectra[twice]).float()
        views = Views(torch.from_numpy(twice), torch.from_numpy(families[twice]), rows).to(device)
        batch = featurize(graphs.take(twice)).to(device)
        with mixed_precision(device):
            projected = head(encoder(batch))
        loss = contrastive_loss(projected.float(), views, config.contrast)
        descend(loss, parameters, optimizer, schedule)
        progress(len(chosen), float(loss.detach()))
    return encoder.to(CPU).eval()


def fit(
    encoder: GraphEncoder,
    graphs: PackedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    config: EnsembleConfig,
    settings: FitConfig,
    rng: np.random.Generator,
    progress: Progress,
    *,
    device: torch.device | None = None,
) -> Fitted:
    """An ensemble fitted to labelled graphs, in three stages.

    The encoder is trained with one head; fuzzy c-means splits the embeddings that it ends with; each cluster gets a
    copy of the head, and the copies are trained apart, weighted by membership. The loss is the absolute error in
    accuracy: the error in the target times what the target was divided by. The scaling law is fitted beside.
    ``progress`` counts the graphs of both trainings: ``epochs + head_epochs`` times all, but for incomplete batches of
    the heads. ``device`` computes, by default a GPU where there is one; what is fitted comes back to the processor.
    """
    device = device or chosen_device()
    torch.manual_seed(int(rng.integers(2**31)))
    target = fit_target(accuracy, flops(graphs))
    labels = _Labels(
        *(
            torch.from_numpy(values).float()
            for values in (
                target.transform(accuracy, flops(graphs)),
                1 / flops_scale(flops(graphs)),
                target.unit(flops(graphs)),
            )
        )
    )
    # Dropout made the views of pretraining; here it would only blur the target.
    config = replace(config, encoder=replace(config.encoder, dropout=0.0))
    single = FuzzyEnsembleNetwork(replace(config, clusters=1))
    single.encoder.load_state_dict(encoder.state_dict())
    single.heads.start(*(values.double().numpy() for values in (labels.cost, labels.target, labels.unit)))
    _train_encoder(single.to(device), graphs, labels.to(device), settings, rng, progress, device)

    network = FuzzyEnsembleNetwork(config)
    network.encoder.load_state_dict(single.encoder.state_dict())
    pooled = _pool(single.encoder.eval(), graphs, device)
    network.familiarity.learn(pooled)
    with torch.no_grad():
        embeddings = network.encoder.readout(pooled)
    network.centroids.copy_(fuzzy_c_means(embeddings, config.clusters, config.fuzzifier, rng))
    network.heads.copy_from(single.heads)
    _train_heads(network.to(device), embeddings.to(device), labels.to(device), settings, rng, progress)
    shapes = [structure(graphs.take(rows)) for rows in batches_of_nodes(graphs, _NODES_AT_ONCE)]
    law = fit_scaling_law(np.concatenate(shapes), accuracy)
    return Fitted(network.to(CPU).eval(), target, law, copy.deepcopy(encoder).to(CPU).eval())


def _train_encoder(
    network: FuzzyEnsembleNetwork,
    graphs: PackedGraphs,
    labels: _Labels,
    settings: FitConfig,
    rng: np.random.Generator,
    progress: Progress,
    device: torch.device,
) -> None:
    parameters = list(network.parameters())
    batches = max(1, len(graphs) // settings.batch)
    optimizer, schedule = adam(parameters, settings.learning_rate, settings.weight_decay, settings.epochs * batches)
    network.train()
    share = network.encoder.share
    for batch, rows in regrouped(graphs, batches, settings.epochs, settings.regroup, share, rng, device):
        with mixed_precision(device):
            pooled = network.encoder.pool(batch)
        predicted, _ = network.read(pooled, batch.cost)
        loss = _loss(predicted, labels, rows)
        descend(loss, parameters, optimizer, schedule)
        progress(len(rows), float(loss.detach()))


def _train_heads(
    network: FuzzyEnsembleNetwork,
    embeddings: Float[Tensor, "g d"],
    labels: _Labels,
    settings: FitConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    membership = memberships(embeddings, network.centroids, network.config.fuzzifier)
    parameters = list(network.heads.parameters())
    steps = settings.head_epochs * max(1, len(embeddings) // settings.batch)
    optimizer, schedule = adam(parameters, settings.learning_rate, settings.weight_decay, steps)
    for chosen in _shuffled(len(embeddings), settings.batch, settings.head_epochs, rng):
        rows = torch.from_numpy(chosen).to(embeddings.device)
        predicted = network.heads(embeddings[rows], membership[rows], labels.cost[rows])
        loss = _loss(predicted, labels, rows)
        descend(loss, parameters, optimizer, schedule)
        progress(len(chosen), float(loss.detach()))


def _loss(predicted: Float[Tensor, " b"], labels: _Labels, rows: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
    """Absolute error in percent of accuracy, rounded off below half a percent."""
    error = (predicted - labels.target[rows]) * labels.unit[rows]
    return functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.5)


def _pool(encoder: GraphEncoder, graphs: PackedGraphs, device: torch.device) -> Float[Tensor, "g p"]:
    """What the encoder, which is on ``device``, pools graphs to; on the processor."""
    batches = (featurize(graphs.take(rows)).to(device) for rows in batches_of_nodes(graphs, _NODES_AT_ONCE))
    with torch.no_grad():
        return torch.cat([encoder.pool(batch).to(CPU) for batch in batches])


def _shuffled(n: int, batch: int, epochs: int, rng: np.random.Generator) -> Iterator[Int64[np.ndarray, " b"]]:
    """Batches of indices, each epoch in a new order; an incomplete last batch is dropped unless it is the only one."""
    for _ in range(epochs):
        order = rng.permutation(n)
        for i in range(max(1, n // batch)):
            yield order[i * batch : (i + 1) * batch]
