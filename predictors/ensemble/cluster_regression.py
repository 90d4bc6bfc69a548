"""Regression by MLP heads on the embedding: one per fuzzy cluster, weighted by membership, or a single one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from gennape.predictors.bounds import Size
from gennape.predictors.encoder.optimisation import adam, optimiser_step
from gennape.predictors.ensemble.heads import ClusterHeads
from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.member import Member, Progress, parsed
from gennape.predictors.ensemble.settings import HeadTraining
from gennape.predictors.restoring import made_of
from gennape.predictors.target import FlopsTarget, fit_target

#: For some 50 labels of another family.
FINE_TUNING = HeadTraining(epochs=100, batch=16, learning_rate=1e-2)


@dataclass(frozen=True, slots=True)
class _ClusterRegressionConfig:
    name: str
    clusters: Size
    embedding: Size
    hidden: Size
    target: FlopsTarget


class ClusterRegression(Member):
    """Heads whose target is relative to FLOPs (GENNAPE, Eq. 5); a single head ignores memberships."""

    def __init__(self, name: str, heads: ClusterHeads, target: FlopsTarget) -> None:
        self.name = name
        self.heads = copy.deepcopy(heads).float().double().eval()
        self.target = target

    def predict(self, encoded: EncodedGraphs) -> Float64[np.ndarray, " g"]:
        """See :meth:`Member.predict`."""
        with torch.inference_mode():
            targets = self.heads(*_read(encoded, len(self.heads.first), torch.float64)).numpy()
        return np.round(self.target.invert(targets, encoded.flops), 6)

    def tuned(
        self, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator
    ) -> ClusterRegression:
        """A copy whose target is standardised by these labels, its heads trained further; see :meth:`Member.tuned`."""
        heads = copy.deepcopy(self.heads).float()
        target = fit_target(accuracy, encoded.flops)
        heads.start(encoded.cost, target.transform(accuracy, encoded.flops), target.unit(encoded.flops))
        _train(heads, target, encoded, accuracy, FINE_TUNING, rng, lambda _, __: None)
        return ClusterRegression(self.name, heads, target)

    def config(self) -> dict[str, Any]:
        """See :meth:`Member.config`."""
        clusters, known, hidden = self.heads.first.shape
        return asdict(_ClusterRegressionConfig(self.name, clusters, known - 1, hidden, self.target))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Member.state`."""
        return {name: tensor.float() for name, tensor in self.heads.state_dict().items()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ClusterRegression:
        """See :meth:`Member.restore`."""
        found = parsed(_ClusterRegressionConfig, config)
        sizes = found.clusters, found.embedding, found.hidden
        heads = made_of(lambda: ClusterHeads(*sizes), tensors, f"member {found.name}")
        return ClusterRegression(found.name, heads, found.target)


def fit_regression(
    name: str,
    single: ClusterRegression,
    encoded: EncodedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    training: HeadTraining,
    rng: np.random.Generator,
    progress: Progress,
) -> ClusterRegression:
    """Copies of one head, one for each fuzzy cluster, trained apart on the family of that head."""
    clusters, (_, known, hidden) = encoded.memberships.shape[1], single.heads.first.shape
    heads = ClusterHeads(clusters, known - 1, hidden)
    heads.copy_from(single.heads)
    _train(heads, single.target, encoded, accuracy, training, rng, progress)
    return ClusterRegression(name, heads, single.target)


def _read(
    encoded: EncodedGraphs, clusters: int, kind: torch.dtype
) -> tuple[Float[Tensor, "g d"], Float[Tensor, "g c"], Float[Tensor, " g"]]:
    memberships = encoded.memberships if clusters > 1 else np.ones((len(encoded), 1))
    embedding, weights, cost = (torch.from_numpy(x).to(kind) for x in (encoded.embedding, memberships, encoded.cost))
    return embedding, weights, cost


def _train(
    heads: ClusterHeads,
    target: FlopsTarget,
    encoded: EncodedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    training: HeadTraining,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    """Minimise the absolute error in percent of accuracy, quadratic below half a percent (smooth L1)."""
    known = _read(encoded, len(heads.first), torch.float32)
    wanted, unit = (
        torch.from_numpy(x).float() for x in (target.transform(accuracy, encoded.flops), target.unit(encoded.flops))
    )

    def loss_of(rows: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        error = (heads(*(x[rows] for x in known)) - wanted[rows]) * unit[rows]
        return functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.5)

    train_heads(heads, loss_of, len(encoded), training, rng, progress)


def train_heads(
    heads: nn.Module,
    loss_of: Callable[[Int64[Tensor, " b"]], Float[Tensor, ""]],
    n: int,
    training: HeadTraining,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    """Train ``heads`` on batches of ``n`` networks; ``loss_of`` returns the loss of some of their rows."""
    parameters, batches = list(heads.parameters()), -(-n // training.batch)
    optimizer, schedule = adam(parameters, training.learning_rate, training.weight_decay, training.epochs * batches)
    for chosen in _shuffled(n, batches, training.epochs, rng):
        rows = torch.from_numpy(chosen)
        loss = loss_of(rows)
        optimiser_step(loss, parameters, optimizer, schedule)
        progress(len(rows), float(loss.detach()))


def _shuffled(n: int, batches: int, epochs: int, rng: np.random.Generator) -> Iterator[Int64[np.ndarray, " b"]]:
    """Indices in ``batches`` of about equal size, each epoch in a new order."""
    for _ in range(epochs):
        yield from np.array_split(rng.permutation(n), batches)
