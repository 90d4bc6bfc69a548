"""The predictor: an encoder with fuzzy clusters, members that read both, and the scaling law for other families."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from gennape.errors import InvalidGraphError
from gennape.predictors.calibration.calibration import Calibration, calibrated
from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import batches_of_nodes, featurize
from gennape.predictors.ensemble.ensemble import MemberEnsemble
from gennape.predictors.ensemble.inputs import EncodedGraphs, encode
from gennape.predictors.few_shot.active_selection import select_informative
from gennape.predictors.few_shot.extrapolation import label_trend
from gennape.predictors.few_shot.gaussian_process import GaussianProcess, GPInputs, fit_process
from gennape.predictors.few_shot.scaling_law import ScalingLaw
from gennape.predictors.few_shot.structure import SIZES, STRUCTURE, structure
from gennape.predictors.predictor import Prediction, TunablePredictor, check_labels
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import PackedGraphs
from gennape.search_spaces.graphs.normal_form import normal_form

_LOG_100 = float(np.log(100))
_MIN_ERROR = 0.01  # percent: below, no test set tells networks apart
_NODES_AT_ONCE = 2**15  # more graphs share more of their steps, and tables still fit a processor's cache


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result of fitting: the encoder with its clusters; the ``members`` with equal weights, and with stacked
    weights for use ``within`` their training family; the scaling law for other families; and the ``pretrained``
    encoder, which has seen no labels."""

    network: ClusteredEncoder
    members: MemberEnsemble
    within: MemberEnsemble
    law: ScalingLaw
    pretrained: GraphEncoder


@dataclass(frozen=True, slots=True)
class _ZeroShot:
    """Of graphs in their normal form: the structure, the encoded graphs, and the zero-shot accuracy."""

    structure: Float64[np.ndarray, "g s"]
    encoded: EncodedGraphs
    accuracy: Float64[np.ndarray, " g"]


@dataclass(slots=True)
class _Kept:
    """The latest results with their graphs; copies of a predictor share them."""

    zero_shot: tuple[PackedGraphs, _ZeroShot] | None = None
    inputs: tuple[PackedGraphs, GPInputs] | None = None


class FuzzyEnsemble(TunablePredictor):
    """The predictor: members for networks like those of the training, a scaling law for others.

    Between both, predictions are weighted by the in-distribution score. Networks of search spaces that ``calibrations``
    are of get the accuracy of their calibration instead. After :meth:`fit` a Gaussian process predicts the logarithm of
    the error (100 % - accuracy) around the zero-shot predictions, because errors differ by factors and the worst
    networks would dominate otherwise.

    Computes in double precision and rounds accuracies to 1e-6 percent, so that a prediction does not depend on the
    other graphs in its batch: the same architecture gets the same bytes from any batch.
    """

    #: What :meth:`fit` learnt; None without labels.
    process: GaussianProcess | None
    #: What public labels of search spaces teach; none where the predictor is zero-shot.
    calibrations: tuple[Calibration, ...]

    def __init__(
        self,
        fitted: Fitted,
        sha256: str,
        process: GaussianProcess | None = None,
        calibrations: Sequence[Calibration] = (),
    ) -> None:
        self.network = fitted.network.double().eval()
        self.pretrained = fitted.pretrained.double().eval()
        self.members = fitted.members
        self.within = fitted.within
        self.law = fitted.law
        self.sha256 = sha256
        self.process = process
        self.calibrations = tuple(calibrations)
        self._kept = _Kept()

    def __repr__(self) -> str:
        """Whether it is fine-tuned, its members, and its checkpoint."""
        untuned = f"calibrated on {len(self.calibrations)} spaces" if self.calibrations else "zero-shot"
        kind = untuned if self.process is None else "fine-tuned"
        return f"FuzzyEnsemble({kind}, {len(self.members.members)} members, checkpoint {self.sha256[:12]})"

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Predict accuracies. The row of a graph does not depend on the other graphs in the set.

        Args:
            graphs: The networks, g of them.

        Returns:
            ``accuracy`` [g] in percent; ``memberships`` [g, c] in the c fuzzy clusters, summing to 1; and after
            :meth:`fit` ``deviation`` [g], half the width of the interval that holds 68 %, in percent. Before, a
            predictor with calibrations gives that of the calibration, NaN for networks of other spaces, and
            ``calibration`` [g]; a zero-shot one gives None.

        Raises:
            InvalidGraphError: A graph holds no nodes.
        """
        zero_shot = self._zero_shot(graphs)
        memberships = np.round(zero_shot.encoded.memberships, 9)
        if self.process is None and self.calibrations:
            return self._calibrated(zero_shot, memberships)
        if self.process is None:
            return Prediction(np.round(zero_shot.accuracy, 6), memberships)
        inputs = self.describe(graphs)
        mean, spread = label_trend(self.process).tempered(inputs, *self.process.predict(inputs))
        error = np.exp(-np.maximum(mean, -_LOG_100))
        deviation = np.minimum(error * np.sinh(np.minimum(spread, 10)), 100)
        return Prediction(np.round(100 - error, 6), memberships, np.round(deviation, 6))

    def _calibrated(self, zero_shot: _ZeroShot, memberships: Float64[np.ndarray, "g c"]) -> Prediction:
        accuracy, which = calibrated(self.calibrations, zero_shot.encoded.graphs)
        deviations = np.array([*(one.record.deviation for one in self.calibrations), np.nan])
        accuracy = np.where(which < 0, zero_shot.accuracy, accuracy)
        return Prediction(np.round(accuracy, 6), memberships, deviations[which], calibration=which)

    def fit(self, graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"]) -> FuzzyEnsemble:
        """Fine-tune on labelled networks of a search space; takes about a second for 50.

        Earlier calls are forgotten, and no labels restore the zero-shot predictor.

        Args:
            graphs: The labelled networks, g of them.
            accuracy: float64 [g], in percent.

        Returns:
            This predictor.

        Raises:
            InvalidDataError: Labels do not match the graphs, are not finite, or are no percentages.
            InvalidGraphError: A graph holds no nodes.
        """
        check_labels(graphs, accuracy)
        _refuse_empty(graphs)
        process = fit_process(self.describe(graphs, keep=False), _log_error(accuracy)) if len(accuracy) else None
        name = _renamed(self.sha256.partition("+")[0], graphs, accuracy)
        self.process, self.sha256 = process, name  # both or, where that failed, neither
        return self

    def embed(self, graphs: PackedGraphs) -> Float64[np.ndarray, "g d"]:
        """Embed graphs with the encoder as it was pretrained, without labels.

        Args:
            graphs: The networks, g of them.

        Returns:
            float64 [g, d]; similar networks are close together.
        """
        with torch.inference_mode():
            pooled = torch.from_numpy(self.describe(graphs).pooled)
            return np.asarray(self.pretrained.readout(pooled).numpy())

    def select_informative(self, graphs: PackedGraphs, n: int) -> Int64[np.ndarray, " n"]:
        """Select the networks to label: those whose labels would leave the least uncertainty about all.

        Args:
            graphs: Candidates, at most 4,096, drawn at random.
            n: How many to select.

        Returns:
            int64 [n], indices of ``graphs``.
        """
        return select_informative(self.describe(graphs), n)

    def choose(self, graphs: PackedGraphs, n: int) -> Int64[np.ndarray, " n"]:
        """The former name of :meth:`select_informative`."""
        warnings.warn("choose is now select_informative", DeprecationWarning, stacklevel=2)
        return self.select_informative(graphs, n)

    def describe(self, graphs: PackedGraphs, keep: bool = True) -> GPInputs:
        """The inputs of a Gaussian process, the prior being the negated logarithm of the zero-shot error.

        Without ``keep``, what was computed of other graphs before stays at hand instead.
        """
        if not keep:
            return self._describe(self._compute(graphs))
        kept = self._kept.inputs
        if kept is None or kept[0] is not graphs:
            kept = self._kept.inputs = (graphs, self._describe(self._zero_shot(graphs)))
        return kept[1]

    def _zero_shot(self, graphs: PackedGraphs) -> _ZeroShot:
        kept = self._kept.zero_shot
        if kept is None or kept[0] is not graphs:
            kept = self._kept.zero_shot = (graphs, self._compute(graphs))
        return kept[1]

    def encode(self, graphs: PackedGraphs) -> EncodedGraphs:
        """The encoded graphs that members read."""
        return self._zero_shot(graphs).encoded

    def view(self, graphs: PackedGraphs) -> EncodedGraphs:
        """The former name of :meth:`encode`."""
        warnings.warn("view is now encode", DeprecationWarning, stacklevel=2)
        return self.encode(graphs)

    def _compute(self, graphs: PackedGraphs) -> _ZeroShot:
        _refuse_empty(graphs)
        graphs = normal_form(graphs)
        encoded = encode(self.network, graphs, formed=True)
        shape = np.concatenate([structure(graphs.take(rows), formed=True) for rows in _parts(graphs)])
        accuracy = self.law.accuracy(shape)
        weight = self.network.in_distribution(torch.from_numpy(encoded.pooled)).numpy()
        near = np.flatnonzero(weight)
        if len(near):
            by_members = self.within.predict(encoded.take(near))[0]
            accuracy[near] += weight[near] * (by_members - accuracy[near])
        return _ZeroShot(shape, encoded, accuracy)

    def _describe(self, zero_shot: _ZeroShot) -> GPInputs:
        graphs = zero_shot.encoded.graphs
        hidden = self.pretrained.config.hidden
        pooled, counts = np.zeros((len(graphs), 2 * hidden)), np.zeros((len(graphs), 1))
        with torch.inference_mode():
            for chosen in _parts(graphs):
                batch = featurize(graphs.take(chosen), formed=True)
                pooled[chosen] = self.pretrained.pool(batch).numpy()
                counts[chosen, 0] = batch.offsets.diff().numpy()
        totals = np.concatenate([pooled[:, :hidden] * counts, counts], axis=1)
        sizes, paths = zero_shot.structure[:, : len(SIZES)], zero_shot.structure[:, len(SIZES) :]
        return GPInputs(_log_error(zero_shot.accuracy), sizes, paths, pooled, totals)


def input_widths(hidden: int) -> dict[str, int]:
    """Columns of the inputs of a Gaussian process by stored name, for an encoder of so many hidden features."""
    paths = len(STRUCTURE) - len(SIZES)
    return {"sizes": len(SIZES), "ways": paths, "pooled": 2 * hidden, "totals": hidden + 1}


def _parts(graphs: PackedGraphs) -> Iterator[Int64[np.ndarray, " k"]]:
    """Batches of rows; a single empty one where there are no graphs."""
    return batches_of_nodes(graphs, _NODES_AT_ONCE) if len(graphs) else iter([np.arange(0)])


def _log_error(accuracy: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
    """Negative logarithm of the error (100 - accuracy), both in percent."""
    return -np.log(np.maximum(100 - accuracy, _MIN_ERROR))


def _renamed(sha256: str, graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"]) -> str:
    """The name of a checkpoint fitted to these labels."""
    labels = hashlib.sha256("".join(canonical_hashes(graphs)).encode() + accuracy.tobytes()).hexdigest()
    return f"{sha256}+{labels[:16]}" if len(accuracy) else sha256


def _refuse_empty(graphs: PackedGraphs) -> None:
    empty = np.diff(graphs.node_offsets) == 0
    if empty.any():
        raise InvalidGraphError(f"graph {int(np.flatnonzero(empty)[0])} holds no nodes; nothing can be predicted of it")
