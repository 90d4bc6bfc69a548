"""Classification of pairs: which of two networks is the more accurate (GENNAPE; AceNAS before it)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional

from gennape.predictors.bounds import Finite, Size
from gennape.predictors.ensemble.cluster_regression import train_heads
from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.least_squares import line
from gennape.predictors.ensemble.member import Member, Progress, parsed
from gennape.predictors.ensemble.settings import HeadTraining
from gennape.predictors.restoring import made_of

#: Networks that a classifier of a whole family compares others with.
ANCHORS = 64
#: For some 50 labels of another family.
FINE_TUNING = HeadTraining(epochs=100, batch=16, learning_rate=3e-3)
_ROWS_AT_ONCE = 128  # a table of all their pairs with the anchors fits a processor's cache
_MIN_DEVIATION = 1e-3


class PairClassifier(nn.Module):
    """Logits that the first of two networks is the more accurate.

    With a and b the embeddings and costs of two networks, standardised, cluster c holds
    g_c(a, b) = second_c . relu(mine_c a + theirs_c b + bias_c), and its logit is g_c(a, b) - g_c(b, a): exchanging the
    networks changes the sign, whatever was learnt. A pair belongs to a cluster as much as its two networks do on
    average, and its logit is the sum over clusters weighted by that. The first layer is applied to networks, not pairs.
    """

    #: Means [d + 1] and deviations [d + 1] of embedding and cost in training.
    known_statistics: Tensor
    #: Embedding and cost [a, d + 1], and memberships [a, c], of the networks that others are compared with.
    anchors: Tensor
    anchor_memberships: Tensor

    def __init__(self, clusters: int, embedding: int, hidden: int, anchors: int = 0) -> None:
        super().__init__()
        width = embedding + 1
        self.register_buffer("known_statistics", torch.tensor([[0.0], [1.0]]).repeat(1, width))
        self.register_buffer("anchors", torch.zeros(anchors, width))
        self.register_buffer("anchor_memberships", torch.zeros(anchors, clusters))
        self.mine = nn.Parameter(torch.empty(clusters, width, hidden))
        self.theirs = nn.Parameter(torch.empty(clusters, width, hidden))
        self.bias = nn.Parameter(torch.zeros(clusters, 1, hidden))
        self.second = nn.Parameter(torch.empty(clusters, hidden))
        for weight in (self.mine, self.theirs):
            nn.init.normal_(weight, std=(1 / width) ** 0.5)
        nn.init.normal_(self.second, std=(1 / hidden) ** 0.5)

    def standardise(self, known: Float[Tensor, "a k"]) -> None:
        """Learn means and deviations; what is the same in all networks counts as it is."""
        deviation = known.std(0, correction=0)
        self.known_statistics.copy_(torch.stack([known.mean(0), torch.where(deviation > _MIN_DEVIATION, deviation, 1)]))

    def anchor(self, known: Float[Tensor, "a k"], memberships: Float[Tensor, "a c"]) -> None:
        """Compare with these networks from now on."""
        self.anchors, self.anchor_memberships = known, memberships

    def forward(self, known: Float[Tensor, "g k"], memberships: Float[Tensor, "g c"]) -> Float[Tensor, " g"]:
        """Mean logits against the anchors."""
        return self.between(known, memberships, self.anchors, self.anchor_memberships).mean(1)

    def between(
        self,
        known: Float[Tensor, "a k"],
        memberships: Float[Tensor, "a c"],
        others: Float[Tensor, "b k"],
        their_memberships: Float[Tensor, "b c"],
    ) -> Float[Tensor, "a b"]:
        """Logits of all pairs of two sets, that the one of the first set is the more accurate."""
        mine, theirs = self._layers(known)
        their_mine, their_theirs = self._layers(others)
        logits = self._second(mine, their_theirs) - self._second(their_mine, theirs).transpose(1, 2)
        return (_shared(memberships, their_memberships) * logits).sum(0)

    def within(self, known: Float[Tensor, "a k"], memberships: Float[Tensor, "a c"]) -> Float[Tensor, "a a"]:
        """:meth:`between` of a set and itself, at half the work."""
        found = self._second(*self._layers(known))
        return (_shared(memberships, memberships) * (found - found.transpose(1, 2))).sum(0)

    def _layers(self, known: Float[Tensor, "a k"]) -> tuple[Float[Tensor, "c a h"], Float[Tensor, "c a h"]]:
        standard = ((known - self.known_statistics[0]) / self.known_statistics[1]).expand(len(self.mine), -1, -1)
        return torch.baddbmm(self.bias, standard, self.mine), torch.bmm(standard, self.theirs)

    def _second(self, mine: Float[Tensor, "c a h"], theirs: Float[Tensor, "c b h"]) -> Float[Tensor, "c a b"]:
        hidden = torch.relu(mine[:, :, None] + theirs[:, None])
        return (hidden @ self.second[:, None, :, None]).squeeze(3)


def _shared(mine: Float[Tensor, "a c"], theirs: Float[Tensor, "b c"]) -> Float[Tensor, "c a b"]:
    """How much each pair belongs to each cluster."""
    return (mine.T[:, :, None] + theirs.T[:, None, :]) / 2


@dataclass(frozen=True, slots=True)
class _PairwiseConfig:
    name: str
    clusters: Size
    embedding: Size
    hidden: Size
    anchors: Size
    line: tuple[Finite, Finite]


class Pairwise(Member):
    """A network's score is its mean logit against anchors, networks of known accuracy: a query costs O(anchors).

    After training the anchors are :data:`ANCHORS` networks at evenly spaced quantiles of accuracy, after fine-tuning
    all networks learnt from. The accuracy is the line in the score of least squares on the labels learnt from.

    Logits are averaged, not probabilities of winning: both rank alike within the training family and after fine-tuning,
    but the latter level off where a network beats all anchors or none, as networks of other families may.
    """

    def __init__(self, name: str, classifier: PairClassifier, line: tuple[float, float]) -> None:
        self.name = name
        self.classifier = copy.deepcopy(classifier).float().double().eval()
        self.line = line

    def predict(self, encoded: EncodedGraphs) -> Float64[np.ndarray, " g"]:
        """See :meth:`Member.predict`."""
        slope, intercept = self.line
        return np.round(slope * _scores(self.classifier, encoded) + intercept, 6)

    def tuned(self, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator) -> Pairwise:
        """A copy trained further on all pairs of these networks, its anchors from now on; see :meth:`Member.tuned`."""
        classifier = copy.deepcopy(self.classifier).float()
        _train(classifier, encoded, accuracy, FINE_TUNING, rng, lambda _, __: None)
        return Pairwise(self.name, *_anchored(classifier, encoded, accuracy, np.arange(len(encoded))))

    def config(self) -> dict[str, Any]:
        """See :meth:`Member.config`."""
        clusters, width, hidden = self.classifier.mine.shape
        return asdict(_PairwiseConfig(self.name, clusters, width - 1, hidden, len(self.classifier.anchors), self.line))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Member.state`."""
        return {name: tensor.float() for name, tensor in self.classifier.state_dict().items()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Pairwise:
        """See :meth:`Member.restore`."""
        found = parsed(_PairwiseConfig, config)
        sizes = found.clusters, found.embedding, found.hidden, found.anchors
        classifier = made_of(lambda: PairClassifier(*sizes), tensors, f"member {found.name}")
        return Pairwise(found.name, classifier, found.line)


def fit_pairwise(
    name: str,
    clusters: int,
    hidden: int,
    encoded: EncodedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    training: HeadTraining,
    rng: np.random.Generator,
    progress: Progress,
) -> Pairwise:
    """A classifier trained on a labelled family, ``clusters`` being those of the encoded graphs, or 1."""
    torch.manual_seed(int(rng.integers(2**31)))
    classifier = PairClassifier(clusters, encoded.embedding.shape[1], hidden)
    classifier.standardise(_read(encoded, clusters, torch.float32)[0])
    _train(classifier, encoded, accuracy, training, rng, progress)
    order = np.argsort(accuracy, kind="stable")
    anchors = order[np.round(np.linspace(0, len(order) - 1, min(ANCHORS, len(order)))).astype(np.int64)]
    return Pairwise(name, *_anchored(classifier, encoded, accuracy, anchors))


def _anchored(
    classifier: PairClassifier,
    encoded: EncodedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    rows: Int64[np.ndarray, " a"],
) -> tuple[PairClassifier, tuple[float, float]]:
    """The classifier with some networks as its anchors, and the line from scores to accuracies."""
    classifier.anchor(*_read(encoded.take(rows), len(classifier.second), torch.float32))
    exact = copy.deepcopy(classifier).double()
    return classifier, line(_scores(exact, encoded), accuracy)


def _scores(classifier: PairClassifier, encoded: EncodedGraphs) -> Float64[np.ndarray, " g"]:
    parts = zip(
        *(torch.split(x, _ROWS_AT_ONCE) for x in _read(encoded, len(classifier.second), torch.float64)), strict=True
    )
    with torch.inference_mode():
        return torch.cat([classifier(known, memberships) for known, memberships in parts]).numpy()


def _read(
    encoded: EncodedGraphs, clusters: int, kind: torch.dtype
) -> tuple[Float[Tensor, "g k"], Float[Tensor, "g c"]]:
    memberships = encoded.memberships if clusters > 1 else np.ones((len(encoded), 1))
    known = np.concatenate([encoded.embedding, encoded.cost[:, None]], axis=1)
    return torch.from_numpy(known).to(kind), torch.from_numpy(memberships).to(kind)


def _train(
    classifier: PairClassifier,
    encoded: EncodedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    training: HeadTraining,
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    """Minimise the cross entropy of all pairs of a batch; equally accurate networks have target 1/2."""
    known, memberships = _read(encoded, len(classifier.second), torch.float32)
    labels = torch.from_numpy(accuracy)

    def loss_of(rows: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        better = (torch.sign(labels[rows, None] - labels[rows]).float() + 1) / 2
        return functional.binary_cross_entropy_with_logits(classifier.within(known[rows], memberships[rows]), better)

    train_heads(classifier, loss_of, len(encoded), training, rng, progress)
