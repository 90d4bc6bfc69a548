"""The k-GNN: graph convolutions from producers to consumers, trained on accuracy from end to end (Morris et al., 2019).

Steps whose producers look alike are computed once, see :mod:`.deduplication`: for 128 networks of a family a quarter to
40 % of all rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional

from gennape.errors import ConfigError, InvalidGraphError
from gennape.predictors.encoder.deduplication import DistinctSteps, deduplicate, mean_of_steps, multiply
from gennape.predictors.encoder.features import N_FEATURES, GraphBatch, batches_of_nodes, featurize
from gennape.predictors.encoder.optimisation import adam, optimiser_step, regrouped
from gennape.predictors.encoder.settings import KGnnConfig, KGnnTraining
from gennape.predictors.target import flops_scale
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.graphs.graph import PackedGraphs
from gennape.search_spaces.graphs.ops import VOCABULARY_SIZE

_NODES_AT_ONCE = 2**16  # more graphs share more; their tables still fit a processor's cache
_MIN_DEVIATION = 0.01  # of costs, which lie between 0 and 1: where all cost alike, trifles shall not count


#: For some 50 labels of another family.
FINE_TUNING = KGnnTraining(epochs=100, batch=16, regroup=100)


class KGnn(nn.Module):
    """Graph convolutions, the mean over steps, and an MLP: packed graphs to standardised accuracies.

    A layer is x_i <- tanh(W1 x_i + W2 sum of x_j over producers j + b), GraphConv of Morris et al. (2019), as GENNAPE
    has it. The MLP also sees the graph's cost: a mean over steps does not tell how many they are, nor do features that
    are relative to the image tell how large that is. ``statistics`` are mean and deviation of accuracy, in percent, of
    the graphs last trained on; ``cost_statistics`` those of the cost of the graphs first trained on.
    """

    statistics: Tensor
    cost_statistics: Tensor

    def __init__(self, config: KGnnConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("statistics", torch.tensor([0.0, 1.0]))
        self.register_buffer("cost_statistics", torch.tensor([0.0, 1.0]))
        self.enter = nn.Linear(N_FEATURES, config.hidden)
        # Operations never seen in training stay 0, so that an unknown one counts as its group.
        nn.init.zeros_(self.enter.weight[:, :VOCABULARY_SIZE])
        #: W1 above W2 of each layer, and b.
        self.parts = nn.ModuleList(
            nn.Linear(config.hidden, 2 * config.hidden, bias=False) for _ in range(config.layers)
        )
        self.bias = nn.Parameter(torch.zeros(config.layers, config.hidden))
        self.head = nn.Sequential(nn.Linear(config.hidden + 1, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))

    def forward(self, batch: GraphBatch | DistinctSteps) -> Float[Tensor, " g"]:
        """Standardised accuracies."""
        steps = batch if isinstance(batch, DistinctSteps) else deduplicate(batch, self.config.layers)
        x = self.enter(steps.features.to(self.enter.weight.dtype))
        for parts, bias, messages in zip(self.parts, self.bias, steps.messages, strict=True):
            x = torch.tanh(multiply(messages, parts(x).view(-1, self.config.hidden)) + bias)
        mean, deviation = self.cost_statistics
        cost = (steps.cost.to(x.dtype) - mean) / deviation
        return self.head(torch.cat([mean_of_steps(steps, x), cost[:, None]], dim=1)).squeeze(1)


def fit_kgnn(
    graphs: PackedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    config: KGnnConfig,
    training: KGnnTraining,
    rng: np.random.Generator,
    progress: Callable[[int, float], None],
) -> KGnn:
    """A network trained to answer accuracies in percent, standardised over these graphs.

    ``progress`` is called after every step with the number of graphs and the loss of that step. Raises
    :class:`ConfigError` without graphs or with accuracies that are no numbers.
    """
    torch.manual_seed(int(rng.integers(2**31)))
    network = KGnn(config)
    _refuse_unlearnable(graphs, accuracy)
    cost = 1 / flops_scale(flops(graphs))
    network.cost_statistics.copy_(torch.tensor([cost.mean(), max(cost.std(), _MIN_DEVIATION)]))
    _train(network, graphs, accuracy, training, rng, progress)
    return network.eval()


def fine_tune(
    network: KGnn,
    graphs: PackedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    training: KGnnTraining,
    rng: np.random.Generator,
    progress: Callable[[int, float], None],
) -> KGnn:
    """A copy of ``network`` trained further on a few labels of another family, standardised anew over these."""
    tuned = copy.deepcopy(network).float()
    _train(tuned, graphs, accuracy, training, rng, progress)
    return tuned.eval()


def predict_accuracy(network: KGnn, graphs: PackedGraphs) -> Float64[np.ndarray, " g"]:
    """Accuracies in percent; computed in double precision and rounded to 1e-6, so that no answer depends on others.

    Raises :class:`InvalidGraphError` for a graph without nodes.
    """
    if (np.diff(graphs.node_offsets) == 0).any():
        raise InvalidGraphError("a graph holds no nodes; nothing can be predicted of it, leave it out")
    exact = copy.deepcopy(network).double().eval()
    mean, deviation = exact.statistics.tolist()
    predictions = np.zeros(len(graphs))
    with torch.inference_mode():
        for rows in batches_of_nodes(graphs, _NODES_AT_ONCE):
            predictions[rows] = exact(featurize(graphs.take(rows))).numpy()
    return np.round(predictions * deviation + mean, 6)


def _train(
    network: KGnn,
    graphs: PackedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    training: KGnnTraining,
    rng: np.random.Generator,
    progress: Callable[[int, float], None],
) -> None:
    _refuse_unlearnable(graphs, accuracy)
    mean, deviation = accuracy.mean(), max(accuracy.std(), 1e-6)
    network.statistics.copy_(torch.tensor([mean, deviation]))
    target = torch.from_numpy((accuracy - mean) / deviation).float()
    batches, layers = -(-len(graphs) // training.batch), network.config.layers
    parameters = list(network.parameters())
    optimizer, schedule = adam(parameters, training.learning_rate, training.weight_decay, training.epochs * batches)
    network.train()
    for steps, rows in regrouped(
        graphs, batches, training.epochs, training.regroup, lambda batch: deduplicate(batch, layers), rng
    ):
        loss = functional.smooth_l1_loss(network(steps), target[rows])
        optimiser_step(loss, parameters, optimizer, schedule)
        progress(len(rows), float(loss.detach()))


def _refuse_unlearnable(graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"]) -> None:
    if len(graphs) == 0 or not np.isfinite(accuracy).all():
        bad = int((~np.isfinite(accuracy)).sum())
        raise ConfigError(f"a k-GNN learns from finite accuracies, got {len(graphs)} graphs, {bad} without; omit these")
