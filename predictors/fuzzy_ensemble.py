"""The predictor: encoder, fuzzy clusters and one head per cluster, and the scaling law for what heads do not know."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from gennape.errors import InvalidGraphError
from gennape.predictors.encoder import EncoderConfig, GraphEncoder
from gennape.predictors.familiarity import Familiarity
from gennape.predictors.features import GraphBatch, featurize
from gennape.predictors.fuzzy import memberships
from gennape.predictors.gaussian_process import GaussianProcess, Known, fit_process
from gennape.predictors.heads import ClusterHeads
from gennape.predictors.predictor import Prediction, TunablePredictor, check_labels
from gennape.predictors.scaling import ScalingLaw
from gennape.predictors.sharing import SharedSteps
from gennape.predictors.structure import SIZES, STRUCTURE, structure
from gennape.predictors.target import FlopsTarget
from gennape.search_spaces.canonical import canonical_hashes
from gennape.search_spaces.cost import flops
from gennape.search_spaces.graph import PackedGraphs, offsets_of

_LOG_100 = float(np.log(100))
_LEAST_ERROR = 0.01  # percent: below, no test set tells networks apart
_NODES_AT_ONCE = 2**15  # more graphs share more of their steps, and tables still fit a processor's cache


@dataclass(frozen=True, slots=True)
class EnsembleConfig:
    """Sizes of a :class:`FuzzyEnsembleNetwork`: the encoder, the fuzzy clusters and their heads."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    clusters: int = 6
    fuzzifier: float = 1.5
    head_hidden: int = 64


class FuzzyEnsembleNetwork(nn.Module):
    """Graphs to standardised targets.

    Centroids [c, d] are a buffer: fuzzy c-means sets them, gradients do not. So is what the network is familiar with:
    memberships sum to one however far away a graph is, and do not tell whether heads ever saw the like.
    """

    centroids: Tensor

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = GraphEncoder(config.encoder)
        self.heads = ClusterHeads(config.clusters, config.encoder.embedding, config.head_hidden)
        self.familiarity = Familiarity(2 * config.encoder.hidden)
        self.register_buffer("centroids", torch.zeros(config.clusters, config.encoder.embedding))

    def forward(self, batch: GraphBatch | SharedSteps) -> tuple[Float[Tensor, " g"], Float[Tensor, "g c"]]:
        """Standardised targets and memberships."""
        return self.read(self.encoder.pool(batch), batch.cost)

    def read(
        self, pooled: Float[Tensor, "g p"], cost: Float[Tensor, " g"]
    ) -> tuple[Float[Tensor, " g"], Float[Tensor, "g c"]]:
        """Standardised targets and memberships of graphs that the encoder pooled."""
        embedding = self.encoder.readout(pooled)
        membership = memberships(embedding, self.centroids, self.config.fuzzifier)
        return self.heads(embedding, membership, cost.to(embedding.dtype)), membership


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fitting makes: the network, the target that its heads learnt, and the law for families it did not see;
    beside them the encoder as it was ``pretrained``, which knows no label and tells networks of all families apart."""

    network: FuzzyEnsembleNetwork
    target: FlopsTarget
    law: ScalingLaw
    pretrained: GraphEncoder


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was computed of a set of graphs: the structure, the zero-shot answer, and where clusters lie."""

    structure: Float64[np.ndarray, "g s"]
    pooled: Float64[np.ndarray, "g p"]
    accuracy: Float64[np.ndarray, " g"]
    memberships: Float64[np.ndarray, "g c"]


@dataclass(slots=True)
class _Kept:
    """What was last computed, and of which graphs; copies of a predictor share it."""

    seen: tuple[PackedGraphs, _Seen] | None = None
    known: tuple[PackedGraphs, Known] | None = None


class FuzzyEnsemble(TunablePredictor):
    """A trained network as a predictor.

    Networks like those of the training are answered by the heads, others by the scaling law, and between both in the
    measure of familiarity. After :meth:`fit` a Gaussian process around these answers answers, of the logarithm of the
    error (100 % - accuracy): errors differ by factors, and the worst networks would else decide.

    Computes in double precision and rounds accuracies to 1e-6 percent, so that an answer does not depend on which
    other graphs it was computed with: the same architecture gets the same bytes from any batch.
    """

    def __init__(self, fitted: Fitted, sha256: str) -> None:
        self.network = fitted.network.double().eval()
        self.pretrained = fitted.pretrained.double().eval()
        self.target = fitted.target
        self.law = fitted.law
        self.sha256 = sha256
        self._process: GaussianProcess | None = None
        self._kept = _Kept()

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Accuracy in percent and memberships, see :meth:`TunablePredictor.predict`.

        The deviation, after :meth:`fit`, is half the width of the interval that holds 68 %.
        """
        seen = self._look(graphs)
        if self._process is None:
            return Prediction(np.round(seen.accuracy, 6), seen.memberships)
        mean, spread = self._process.predict(self.describe(graphs))
        error = np.exp(-np.maximum(mean, -_LOG_100))
        deviation = np.minimum(error * np.sinh(np.minimum(spread, 10)), 100)
        return Prediction(np.round(100 - error, 6), seen.memberships, np.round(deviation, 6))

    def fit(self, graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"]) -> FuzzyEnsemble:
        """Fine-tune on labelled networks of the target family, see :meth:`TunablePredictor.fit`; about a second."""
        check_labels(graphs, accuracy)
        self._process = None
        self.sha256 = _renamed(self.sha256.partition("+")[0], graphs, accuracy)
        if len(accuracy):
            self._process = fit_process(self.describe(graphs, keep=False), _log_error(accuracy))
        return self

    def embed(self, graphs: PackedGraphs) -> Float64[np.ndarray, "g d"]:
        """Embeddings of graphs, by the encoder as it was pretrained: labels play no part."""
        with torch.inference_mode():
            pooled = torch.from_numpy(self.describe(graphs).pooled[:, : 2 * self.pretrained.config.hidden])
            return np.asarray(self.pretrained.readout(pooled).numpy())

    def describe(self, graphs: PackedGraphs, keep: bool = True) -> Known:
        """What a Gaussian process is told of graphs, the prior being the negated logarithm of the zero-shot error.

        Without ``keep``, what was computed of other graphs before stays at hand instead.
        """
        if not keep:
            return self._describe(graphs, self._compute(graphs))
        kept = self._kept.known
        if kept is None or kept[0] is not graphs:
            kept = self._kept.known = (graphs, self._describe(graphs, self._look(graphs)))
        return kept[1]

    def _look(self, graphs: PackedGraphs) -> _Seen:
        kept = self._kept.seen
        if kept is None or kept[0] is not graphs:
            kept = self._kept.seen = (graphs, self._compute(graphs))
        return kept[1]

    def _compute(self, graphs: PackedGraphs) -> _Seen:
        _refuse_empty(graphs)
        n, config = len(graphs), self.network.config
        pooled, rows = np.zeros((n, 2 * config.encoder.hidden)), np.zeros((n, config.clusters))
        shape, accuracy = np.zeros((n, len(STRUCTURE))), np.zeros(n)
        with torch.inference_mode():
            for chosen in batches_of_nodes(graphs, _NODES_AT_ONCE):
                part = graphs.take(chosen)
                shape[chosen] = structure(part)
                batch = featurize(part)
                features = self.network.encoder.pool(batch)
                target, membership = self.network.read(features, batch.cost)
                trust = self.network.familiarity(features).numpy()
                by_heads = self.target.invert(target.numpy(), flops(part))
                accuracy[chosen] = trust * by_heads + (1 - trust) * self.law.accuracy(shape[chosen])
                pooled[chosen], rows[chosen] = features.numpy(), membership.numpy()
        return _Seen(shape, pooled, accuracy, np.round(rows, 9))

    def _describe(self, graphs: PackedGraphs, seen: _Seen) -> Known:
        hidden = self.pretrained.config.hidden
        pooled, counts = np.zeros((len(graphs), 2 * hidden)), np.zeros((len(graphs), 1))
        with torch.inference_mode():
            for chosen in batches_of_nodes(graphs, _NODES_AT_ONCE):
                batch = featurize(graphs.take(chosen))
                pooled[chosen] = self.pretrained.pool(batch).numpy()
                counts[chosen, 0] = batch.offsets.diff().numpy()
        totals = np.concatenate([pooled[:, :hidden] * counts, counts], axis=1)
        sizes, ways = seen.structure[:, : len(SIZES)], seen.structure[:, len(SIZES) :]
        return Known(_log_error(seen.accuracy), sizes, ways, np.concatenate([pooled, seen.pooled], axis=1), totals)


def _log_error(accuracy: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
    """The negated logarithm of what is missing to 100 %, of accuracies in percent."""
    return -np.log(np.maximum(100 - accuracy, _LEAST_ERROR))


def _renamed(sha256: str, graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"]) -> str:
    """The name of what a checkpoint becomes by these labels."""
    labels = hashlib.sha256("".join(canonical_hashes(graphs)).encode() + accuracy.tobytes()).hexdigest()
    return f"{sha256}+{labels[:16]}" if len(accuracy) else sha256


def batches_of_nodes(graphs: PackedGraphs, nodes: int) -> Iterator[Int64[np.ndarray, " k"]]:
    """Consecutive indices of graphs that hold about ``nodes`` nodes together, at least one graph each."""
    batch = graphs.node_offsets[:-1] // nodes
    bounds = offsets_of(np.unique(batch, return_counts=True)[1])
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        yield np.arange(start, end)


def _refuse_empty(graphs: PackedGraphs) -> None:
    empty = np.diff(graphs.node_offsets) == 0
    if empty.any():
        raise InvalidGraphError(f"graph {int(np.flatnonzero(empty)[0])} holds no nodes; nothing can be predicted of it")
