"""The ensemble: members on a common scale, member weights, and the uncertainty of their weighted mean."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float64
from pydantic import Field
from scipy.optimize import nnls
from scipy.special import ndtri
from torch import Tensor

from gennape.errors import CheckpointError, ConfigError
from gennape.predictors.ensemble.calibration import Curve
from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.least_squares import line
from gennape.predictors.ensemble.member import Member, parsed
from gennape.predictors.ensemble.registry import described, restored
from gennape.predictors.ensemble.uncertainty import Uncertainty, learn_uncertainty, weighted_spread
from gennape.predictors.ensemble.weights import out_of_fold, weights_by_rank
from gennape.predictors.predictor import check_labels

#: Shares of networks below each knot of a zero-shot scale.
_SHARES = (np.arange(33) + 0.5) / 33
_FOLDS = 3
#: With fewer labels no member is fine-tuned.
FEWEST_LABELS = 8
#: Members with a lower weight within their training family are left out there.
MIN_WEIGHT = 0.05


@dataclass(frozen=True, slots=True)
class _EnsembleConfig:
    members: list[dict[str, Any]]
    weights: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    scales: tuple[Curve, ...]
    answer: Curve
    uncertainty: Uncertainty


@dataclass(frozen=True, slots=True, eq=False)
class MemberEnsemble:
    """accuracy = calibrate(sum over members of weight x scale(prediction)), in percent. Made by :func:`zero_shot`.

    Scales are bounded curves, so that no member dominates the others when it extrapolates. They are fixed before any
    query, so that a network's row does not depend on the other networks in the set. Weights sum to 1. Accuracies are
    not clipped, because the labels may be in another unit.
    """

    members: tuple[Member, ...]
    weights: tuple[float, ...]
    scales: tuple[Curve, ...]
    calibrate: Curve
    uncertainty: Uncertainty

    def predict(self, encoded: EncodedGraphs) -> tuple[Float64[np.ndarray, " g"], Float64[np.ndarray, " g"]]:
        """Accuracies and standard deviations [g], both in percent, rounded to 1e-6.

        Zero-shot deviations are calibrated within the training family. Elsewhere they grow with the members'
        disagreement, which does not cover errors that all members share.
        """
        accuracy, spread = self._combine(self._member_predictions(encoded))
        return np.round(accuracy, 6), np.round(self.uncertainty(spread), 6)

    def per_member(self, encoded: EncodedGraphs) -> dict[str, Float64[np.ndarray, " g"]]:
        """The predictions [g] of each member by name, in percent on the common scale."""
        predictions = np.round(self._calibrated(self._member_predictions(encoded)), 6)
        return {member.name: row for member, row in zip(self.members, predictions, strict=True)}

    def each(self, encoded: EncodedGraphs) -> dict[str, Float64[np.ndarray, " g"]]:
        """The former name of :meth:`per_member`."""
        warnings.warn("each is now per_member", DeprecationWarning, stacklevel=2)
        return self.per_member(encoded)

    def tuned(
        self, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator
    ) -> MemberEnsemble:
        """A copy fine-tuned on labelled networks of a family, ``accuracy`` [g] in percent.

        Members are fine-tuned, and least-squares lines map each to the scale of the labels (a constant where a member
        ranks in reverse). Weights, the softmax of Kendall's tau, and the uncertainty come from out-of-fold predictions:
        on the networks it was fine-tuned on, a member that memorises them has a tau near 1.
        Fewer than :data:`FEWEST_LABELS` labels only move the level. Equal labels and generators give equal ensembles.
        Raises :class:`gennape.errors.InvalidDataError` for labels that do not match the graphs or are not finite.
        """
        check_labels(encoded.graphs, accuracy)
        if len(accuracy) < FEWEST_LABELS:
            return self._moved(encoded, accuracy)
        members = tuple(member.tuned(encoded, accuracy, rng) for member in self.members)
        outside = out_of_fold(self.members, encoded, accuracy, _FOLDS, rng)
        found = replace(
            self,
            members=members,
            weights=tuple(weights_by_rank(outside, accuracy).tolist()),
            scales=tuple(_rising_line(member.predict(encoded), accuracy) for member in members),
            calibrate=_unchanged(accuracy),
        )
        return found._with_uncertainty(outside, accuracy)

    def without(self, names: Collection[str]) -> MemberEnsemble:
        """The ensemble without these members, weights renormalised, for ablations.

        Raises :class:`ConfigError` where a member is not known or none is left.
        """
        known = [member.name for member in self.members]
        kept = [i for i, name in enumerate(known) if name not in names]
        if not kept or not set(names) <= set(known):
            raise ConfigError(f"cannot leave {sorted(names)} out of the members {known}; leave out some of these")
        total = sum(self.weights[i] for i in kept)
        return replace(
            self,
            members=tuple(self.members[i] for i in kept),
            weights=tuple(self.weights[i] / total for i in kept),
            scales=tuple(self.scales[i] for i in kept),
        )

    def config(self) -> dict[str, Any]:
        """Everything but tensors, for JSON."""
        members = [described(member) for member in self.members]
        return asdict(_EnsembleConfig(members, self.weights, self.scales, self.calibrate, self.uncertainty))

    def state(self) -> dict[str, Tensor]:
        """The tensors of all members in single precision, as ``<member>.<tensor>``."""
        return {f"{member.name}.{name}": tensor for member in self.members for name, tensor in member.state().items()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> MemberEnsemble:
        """The ensemble that both describe; raises :class:`CheckpointError` for what does not fit together."""
        found = parsed(_EnsembleConfig, config)
        if not 1 <= len(found.members) == len(found.weights) == len(found.scales):
            raise CheckpointError(
                f"an ensemble of {len(found.members)} members, {len(found.weights)} weights and {len(found.scales)} "
                "scales; make the checkpoint anew with: gennape fit"
            )
        if abs(sum(found.weights) - 1) > 1e-6:
            raise CheckpointError(
                f"the members' weights add up to {sum(found.weights):g}, should to 1; copy the checkpoint again"
            )
        for curve in (*found.scales, found.answer):
            curve.check()
        members = tuple(restored(member, _below(f"{member.get('name')}.", tensors)) for member in found.members)
        return MemberEnsemble(members, found.weights, found.scales, found.answer, found.uncertainty)

    def _member_predictions(self, encoded: EncodedGraphs) -> Float64[np.ndarray, "m g"]:
        return np.stack([member.predict(encoded) for member in self.members])

    def _scores(self, member_predictions: Float64[np.ndarray, "m g"]) -> Float64[np.ndarray, "m g"]:
        return np.stack([scale(row) for scale, row in zip(self.scales, member_predictions, strict=True)])

    def _calibrated(self, member_predictions: Float64[np.ndarray, "m g"]) -> Float64[np.ndarray, "m g"]:
        return self.calibrate(self._scores(member_predictions))

    def _combine(
        self, member_predictions: Float64[np.ndarray, "m g"]
    ) -> tuple[Float64[np.ndarray, " g"], Float64[np.ndarray, " g"]]:
        """Accuracies, and the weighted spread of the members' calibrated predictions."""
        weights = np.array(self.weights)
        return self.calibrate(weights @ self._scores(member_predictions)), weighted_spread(
            self._calibrated(member_predictions), weights
        )

    def _with_uncertainty(
        self, member_predictions: Float64[np.ndarray, "m g"], accuracy: Float64[np.ndarray, " g"]
    ) -> MemberEnsemble:
        """A copy whose uncertainty is learnt from predictions of networks that no member learnt from."""
        predicted, spread = self._combine(member_predictions)
        return replace(self, uncertainty=learn_uncertainty(spread, accuracy - predicted))

    def _moved(self, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"]) -> MemberEnsemble:
        if len(accuracy) == 0:
            return self
        member_predictions = self._member_predictions(encoded)
        shift = float((accuracy - self._combine(member_predictions)[0]).mean())
        moved = replace(self, calibrate=replace(self.calibrate, y=tuple(y + shift for y in self.calibrate.y)))
        # One label has no error left to learn from.
        return moved._with_uncertainty(member_predictions, accuracy) if len(accuracy) > 1 else moved


def zero_shot(members: Sequence[Member], encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"]) -> MemberEnsemble:
    """An ensemble with equal weights, before it has seen labels of another family.

    ``encoded`` and ``accuracy`` [g] are networks of the training family, preferably held out of training: they set
    scales and uncertainty. A scale maps a member's prediction to the normal score of its rank among these networks;
    the mean of scores is mapped back to the accuracy of that rank. Raises :class:`ConfigError` without members
    or networks, and :class:`gennape.errors.InvalidDataError` for labels that do not match.
    """
    _check(members, encoded, accuracy)
    member_predictions = np.stack([member.predict(encoded) for member in members])
    levels = tuple(ndtri(_SHARES).tolist())
    scales = tuple(Curve(_quantiles(row), levels) for row in member_predictions)
    answer = Curve(levels, _quantiles(accuracy))
    weights = (1 / len(members),) * len(members)
    return MemberEnsemble(tuple(members), weights, scales, answer, Uncertainty(1.0, 0.0))._with_uncertainty(
        member_predictions, accuracy
    )


def stacked(members: Sequence[Member], encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"]) -> MemberEnsemble:
    """Stacked regression (Breiman, 1996): member weights for use within the training family.

    Weights are not negative, sum to 1 and minimise the squared error on ``encoded`` and ``accuracy`` [g], networks of
    the family held out of training. Members below :data:`MIN_WEIGHT` are left out, which saves computing them. Raises
    as :func:`zero_shot` does.
    """
    _check(members, encoded, accuracy)
    member_predictions = np.stack([member.predict(encoded) for member in members])
    kept = np.arange(len(members))
    while True:
        weights = _least_squares(member_predictions[kept], accuracy)
        if (weights >= MIN_WEIGHT).all():
            break
        kept = kept[weights >= MIN_WEIGHT]
    straight = _unchanged(np.concatenate([accuracy, member_predictions[kept].ravel()]))
    chosen = tuple(members[int(i)] for i in kept)
    found = MemberEnsemble(chosen, tuple(weights.tolist()), (straight,) * len(kept), straight, Uncertainty(1.0, 0.0))
    return found._with_uncertainty(member_predictions[kept], accuracy)


def _least_squares(
    member_predictions: Float64[np.ndarray, "m g"], accuracy: Float64[np.ndarray, " g"]
) -> Float64[np.ndarray, " m"]:
    """Non-negative least squares; a heavily weighted row of ones brings the sum of weights to 1."""
    heavy = 1e3 * np.sqrt(len(accuracy)) * max(float(np.abs(member_predictions).max()), 1.0)
    found, _ = nnls(
        np.vstack([member_predictions.T, np.full(len(member_predictions), heavy)]), np.append(accuracy, heavy)
    )
    return np.asarray(found / found.sum())


def _check(members: Sequence[Member], encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"]) -> None:
    check_labels(encoded.graphs, accuracy)
    if not members or not len(encoded):
        raise ConfigError(f"an ensemble needs members and labelled networks, got {len(members)} and {len(encoded)}")


def _quantiles(values: Float64[np.ndarray, " g"]) -> tuple[float, ...]:
    return tuple(np.quantile(values, _SHARES).tolist())


def _rising_line(member_predictions: Float64[np.ndarray, " g"], accuracy: Float64[np.ndarray, " g"]) -> Curve:
    """The line of least squares, between the lowest and the highest prediction; level where it would fall."""
    slope, intercept = line(member_predictions, accuracy)
    ends = (float(member_predictions.min()), float(member_predictions.max()))
    heights = tuple(slope * x + intercept for x in ends) if slope > 0 else (float(accuracy.mean()),) * 2
    return Curve(ends, heights)


def _unchanged(accuracy: Float64[np.ndarray, " g"]) -> Curve:
    """The identity, on a range that holds all values of lines through these accuracies."""
    low, high = float(accuracy.min()), float(accuracy.max())
    room = max(high - low, 1.0)
    return Curve((low - room, high + room), (low - room, high + room))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
