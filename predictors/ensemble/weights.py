"""How much each member of an ensemble counts, by what it says of labelled networks that it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.special import softmax

from gennape.predictors.ensemble.inputs import View
from gennape.predictors.ensemble.member import Member
from gennape.predictors.metrics import kendall_tau


def out_of_fold(
    members: Sequence[Member], view: View, accuracy: Float64[np.ndarray, " g"], folds: int, rng: np.random.Generator
) -> Float64[np.ndarray, "m g"]:
    """What members say of each network after fine-tuning on the other folds: what they say of one that is new."""
    said = np.zeros((len(members), len(view)))
    for fold in np.array_split(rng.permutation(len(view)), folds):
        rest = np.setdiff1d(np.arange(len(view)), fold)
        asked, learnt = view.take(fold), view.take(rest)
        for i, member in enumerate(members):
            said[i, fold] = member.tuned(learnt, accuracy[rest], rng).predict(asked)
    return said


def weights_by_rank(said: Float64[np.ndarray, "m g"], accuracy: Float64[np.ndarray, " g"]) -> Float64[np.ndarray, " m"]:
    """Softmax of Kendall's tau of every member (GENNAPE): from equal weights to e^2 times as much for a perfect one as
    for one that is always wrong."""
    return np.asarray(softmax([kendall_tau(accuracy, row) for row in said]))
