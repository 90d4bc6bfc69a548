"""Which networks to label: those that tell most about all the others."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from gennape.errors import InvalidDataError
from gennape.predictors.few_shot.gaussian_process import Known, before_labels

#: Networks that can be chosen among: a table of all their pairs is kept.
MOST_NETWORKS = 4096


def choose(known: Known, n: int) -> Int64[np.ndarray, " n"]:
    """``n`` rows to label, the most telling first.

    One after another, the row is taken whose label would most reduce the variance summed over all rows, as a Gaussian
    process expects it that has seen no label yet (integrated variance, Cohn 1996; Seo et al. 2000). Nothing is random;
    of equal rows the first is taken. Raises :class:`InvalidDataError` for fewer rows than ``n``, or for more than
    :data:`MOST_NETWORKS`.
    """
    rows = len(known.prior)
    if not 0 <= n <= rows <= MOST_NETWORKS:
        raise InvalidDataError(
            f"cannot choose {n} of {rows} networks; choose at most as many as there are, among at most {MOST_NETWORKS} "
            "that were drawn"
        )
    if n == 0:
        return np.zeros(0, np.int64)
    covariance, noise = before_labels(known)
    return _greedy(covariance, noise, n)


def _greedy(covariance: Float64[np.ndarray, "g g"], noise: float, n: int) -> Int64[np.ndarray, " n"]:
    left, chosen = covariance.copy(), np.zeros(n, np.int64)
    for i in range(n):
        # Labelling row j reduces the variance of row k by left[j, k]^2 / (left[j, j] + noise).
        gain = np.einsum("jk,jk->j", left, left) / (np.maximum(np.diag(left), 0) + noise)
        gain[chosen[:i]] = -1
        best = chosen[i] = int(gain.argmax())
        left -= np.outer(left[best], left[best]) / (max(left[best, best], 0.0) + noise)
    return chosen
