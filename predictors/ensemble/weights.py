"""Member weights, from predictions of labelled networks that a member did not learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.special import softmax

from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.member import Member
from gennape.predictors.metrics import kendall_tau


def out_of_fold(
    members: Sequence[Member],
    encoded: EncodedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    folds: int,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "m g"]:
    """Out-of-fold predictions of every member (cross-validation)."""
    member_predictions = np.zeros((len(members), len(encoded)))
    for fold in np.array_split(rng.permutation(len(encoded)), folds):
        rest = np.setdiff1d(np.arange(len(encoded)), fold)
        held_out, learnt = encoded.take(fold), encoded.take(rest)
        for i, member in enumerate(members):
            member_predictions[i, fold] = member.tuned(learnt, accuracy[rest], rng).predict(held_out)
    return member_predictions


def weights_by_rank(
    member_predictions: Float64[np.ndarray, "m g"], accuracy: Float64[np.ndarray, " g"]
) -> Float64[np.ndarray, " m"]:
    """Softmax of every member's Kendall tau (GENNAPE): a perfect member weighs e^2 times as much as one that is always
    wrong."""
    return np.asarray(softmax([kendall_tau(accuracy, row) for row in member_predictions]))
