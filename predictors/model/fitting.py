"""Fitting the ensemble to labelled graphs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from gennape.errors import InvalidDataError
from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import batches_of_nodes
from gennape.predictors.encoder.fuzzy_c_means import fuzzy_c_means
from gennape.predictors.encoder.optimisation import CPU, adam, chosen_device, mixed_precision, optimiser_step, regrouped
from gennape.predictors.encoder.pretraining import Progress
from gennape.predictors.encoder.settings import ClusteringConfig
from gennape.predictors.ensemble.cluster_regression import ClusterRegression
from gennape.predictors.ensemble.ensemble import stacked, zero_shot
from gennape.predictors.ensemble.heads import ClusterHeads
from gennape.predictors.ensemble.inputs import encode
from gennape.predictors.ensemble.registry import fit_members
from gennape.predictors.few_shot.scaling_law import fit_scaling_law
from gennape.predictors.few_shot.structure import structure
from gennape.predictors.model.fuzzy_ensemble import Fitted
from gennape.predictors.model.settings import FitConfig
from gennape.predictors.target import FlopsTarget, fit_target, flops_scale
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.graphs.graph import PackedGraphs

_NODES_AT_ONCE = 2**15
#: Networks that a scaling law can be drawn through.
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class _Labels:
    """Standardised targets, what a graph's cost is, and percent of accuracy per unit of target, all [g]."""

    target: Float[Tensor, " g"]
    cost: Float[Tensor, " g"]
    unit: Float[Tensor, " g"]

    def to(self, device: torch.device) -> _Labels:
        """The same on another device."""
        return _Labels(self.target.to(device), self.cost.to(device), self.unit.to(device))


def fit(
    encoder: GraphEncoder,
    graphs: PackedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    config: ClusteringConfig,
    settings: FitConfig,
    rng: np.random.Generator,
    progress: Progress,
    *,
    held_out: tuple[PackedGraphs, Float64[np.ndarray, " h"]] | None = None,
    device: torch.device | None = None,
) -> Fitted:
    """An ensemble fitted to labelled graphs, in three stages.

    The encoder is trained with one head; fuzzy c-means clusters its final embeddings; members are trained on these with
    the encoder frozen. The loss of encoder and heads is the absolute error in accuracy: the error in the target times
    the target's unit. The scaling law is fitted separately. Labelled graphs ``held_out`` of training set the member
    weights and the uncertainty; without any, the training graphs do. ``progress`` is called after every step with the
    number of graphs and the loss. ``device`` trains the encoder, by default a GPU where there is one; what is fitted
    comes back to the processor. Raises :class:`InvalidDataError`, before it trains, for networks that differ too little
    to learn from.
    """
    device = device or chosen_device()
    require_varied(accuracy, flops(graphs))
    torch.manual_seed(int(rng.integers(2**31)))
    target = fit_target(accuracy, flops(graphs))
    # Dropout made the views of pretraining; here it would only blur the target.
    config = replace(config, encoder=replace(config.encoder, dropout=0.0))
    network = ClusteredEncoder(config)
    network.encoder.load_state_dict(encoder.state_dict())
    head = ClusterHeads(1, config.encoder.embedding, settings.members.regression_hidden)
    head.start(1 / flops_scale(flops(graphs)), target.transform(accuracy, flops(graphs)), target.unit(flops(graphs)))
    labels = _labels(graphs, accuracy, target)
    _train_encoder(network.encoder.to(device), head.to(device), graphs, labels.to(device), settings, rng, progress)

    encoded = encode(network.eval(), graphs)
    network.to(CPU)
    pooled, embeddings = torch.from_numpy(encoded.pooled).float(), torch.from_numpy(encoded.embedding).float()
    network.in_distribution.fit(pooled)
    network.centroids.copy_(fuzzy_c_means(embeddings, config.clusters, config.fuzzifier, rng))
    encoded = encode(network.double(), graphs)  # as it will be asked
    single = ClusterRegression("cl_t", head.to(CPU), target)
    members = fit_members(encoded, accuracy, single, settings.members, rng, progress)
    others, their_accuracy = (graphs, accuracy) if held_out is None else held_out
    held_out_labels = encode(network, others), their_accuracy
    shapes = [structure(graphs.take(rows)) for rows in batches_of_nodes(graphs, _NODES_AT_ONCE)]
    law = fit_scaling_law(np.concatenate(shapes), accuracy)
    pretrained = copy.deepcopy(encoder).to(CPU).eval()
    return Fitted(
        network.float(), zero_shot(members, *held_out_labels), stacked(members, *held_out_labels), law, pretrained
    )


def require_varied(accuracy: Float64[np.ndarray, " g"], count: Int64[np.ndarray, " g"]) -> None:
    """Raise :class:`InvalidDataError` where no line can be drawn: of too few networks, or through a single place."""
    same = [name for name, values in (("accuracy", accuracy), ("FLOPs", count)) if len(set(values.tolist())) < 2]
    if len(accuracy) < _FEWEST or same:
        alike = f" of the same {' and '.join(same)}" if same else ""
        raise InvalidDataError(
            f"fitting needs {_FEWEST} networks or more that differ in accuracy and FLOPs, got {len(accuracy)}{alike}; "
            "add rows of others"
        )


def _labels(graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"], target: FlopsTarget) -> _Labels:
    count = flops(graphs)
    columns = target.transform(accuracy, count), 1 / flops_scale(count), target.unit(count)
    return _Labels(*(torch.from_numpy(values).float() for values in columns))


def _train_encoder(
    encoder: GraphEncoder,
    head: ClusterHeads,
    graphs: PackedGraphs,
    labels: _Labels,
    settings: FitConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    device = labels.cost.device
    parameters = [*encoder.parameters(), *head.parameters()]
    batches = max(1, len(graphs) // settings.batch)
    optimizer, schedule = adam(parameters, settings.learning_rate, settings.weight_decay, settings.epochs * batches)
    encoder.train()
    for batch, rows in regrouped(graphs, batches, settings.epochs, settings.regroup, encoder.deduplicate, rng, device):
        with mixed_precision(device):
            pooled = encoder.pool(batch)
        embedding = encoder.readout(pooled.float())
        predicted = head(embedding, torch.ones_like(embedding[:, :1]), batch.cost)
        loss = _loss(predicted, labels, rows)
        optimiser_step(loss, parameters, optimizer, schedule)
        progress(len(rows), float(loss.detach()))


def _loss(predicted: Float[Tensor, " b"], labels: _Labels, rows: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
    """Absolute error in percent of accuracy, quadratic below half a percent (smooth L1)."""
    error = (predicted - labels.target[rows]) * labels.unit[rows]
    return functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.5)
