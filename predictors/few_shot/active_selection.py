"""Active selection: which networks to label, so that their labels are most informative about the others."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from gennape.errors import InvalidDataError
from gennape.predictors.few_shot.gaussian_process import GPInputs, prior_covariance

#: At most this many candidates: the covariance matrix of all pairs is kept in memory.
MAX_NETWORKS = 4096


def select_informative(inputs: GPInputs, n: int) -> Int64[np.ndarray, " n"]:
    """Select ``n`` rows to label, the most informative first.

    Greedily takes the row whose label reduces the variance summed over all rows most, under the prior covariance of the
    Gaussian process (integrated variance, Cohn 1996; Seo et al. 2000). Nothing is random; ties go to the first row.
    Raises :class:`InvalidDataError` for fewer rows than ``n``, or for more than :data:`MAX_NETWORKS`.
    """
    rows = len(inputs.prior)
    if not 0 <= n <= rows <= MAX_NETWORKS:
        raise InvalidDataError(
            f"cannot choose {n} of {rows} networks; choose at most as many as there are, among at most {MAX_NETWORKS} "
            "that were drawn"
        )
    if n == 0:
        return np.zeros(0, np.int64)
    covariance, noise = prior_covariance(inputs)
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
