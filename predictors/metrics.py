"""How well predictions rank and match labels, as the papers measure it (GENNAPE, section 5; AceNAS for NDCG).

Accuracies are in percent; 1 percent is 0.01 of the fractions that the papers compute with. Wherever nothing can be
ranked (fewer than two rows, or a constant on either side) a measure of rank is 0, which ``kendall_tau`` and ``ndcg``
say once more where the published code says otherwise. A label or prediction that is not a number makes every figure
NaN: a report shall not hide that a method gave no answer.
"""

from __future__ import annotations

import numpy as np
import scipy  # which imports scipy.stats when it is first used: predicting needs no statistics
from jaxtyping import Float64, Int32, Int64

_UNIT = 1e-4  # percent: the published code rounds fractions to 1e-6 before it compares them
_PAIRS = 2**21  # compared at a time
_BEST_RELEVANCE = 20.0  # AceNAS


def srcc(accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> float:
    """Spearman's rank correlation, ties at their average rank; 0 where either side is constant."""
    if len(accuracy) < 2 or np.ptp(accuracy) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(accuracy, predicted).statistic)


def kendall_tau(
    accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], least_difference: float = 0.01
) -> float:
    """Kendall's tau over the pairs whose accuracies differ by ``least_difference`` percent or more, as published.

    Both sides are rounded to 1e-4 percent. A pair counts +1 where the better network is predicted no worse, equal
    predictions included, else -1; tau is the mean. With ``least_difference`` 0 all pairs count, equal accuracies in the
    order of the rows. The published code rounds the result to 4 decimals, and calls constant predictions perfect (all
    pairs tie); here they score 0, and so does a set without any pair to count.
    """
    if np.isnan(accuracy).any() or np.isnan(predicted).any():
        return float("nan")
    true, answer = np.round(accuracy / _UNIT), np.round(predicted / _UNIT)
    n = len(true)
    if n < 2 or (answer == answer[0]).all():
        return 0.0
    order = np.argsort(-true, kind="stable")
    descending = -true[order]
    rank = scipy.stats.rankdata(answer, method="dense").astype(np.int32)[order]
    far = round(least_difference / _UNIT, 6)
    # Row i is compared with all rows from first[i] on.
    first = np.searchsorted(descending, descending + far) if far > 0 else np.arange(1, n + 1)
    counted = int((n - first).sum())
    return 2 * _not_worse(rank, first) / counted - 1 if counted else 0.0


def _not_worse(rank: Int32[np.ndarray, " n"], first: Int64[np.ndarray, " n"]) -> int:
    """Number of pairs (i, j >= first[i]) with rank[i] >= rank[j]; ``first`` ascends. Memory stays bounded."""
    n, total, start = len(rank), 0, 0
    while start < n and first[start] < n:
        end = min(n, start + max(1, _PAIRS // (n - int(first[start]))))
        column = np.arange(first[start], n)
        reached = column >= first[start:end, None]
        total += int(np.count_nonzero((rank[start:end, None] >= rank[column]) & reached))
        start = end
    return total


def ndcg(accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the ``k`` predicted best; ``k`` below 1 means all.

    Relevance is 20 x (accuracy - lowest) / (highest - lowest), gain linear, discount 1 / log2(rank + 1), and equal
    predictions share the mean of their gains. Networks of equal accuracy cannot be ranked: 0.
    """
    if not np.isfinite(accuracy).all() or np.isnan(predicted).any():
        return float("nan")
    if len(accuracy) < 2 or np.ptp(accuracy) == 0:
        return 0.0
    relevance = _BEST_RELEVANCE * (accuracy - accuracy.min()) / np.ptp(accuracy)
    scores = scipy.stats.rankdata(predicted)  # ranks, so that an infinite prediction is merely the last
    from sklearn.metrics import ndcg_score  # noqa: PLC0415 (see above)

    return float(ndcg_score(relevance[None], scores[None], k=k if k > 0 else None))


def mae(accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> float:
    """Mean absolute error, in the unit of the accuracies (percent)."""
    return float(np.abs(accuracy - predicted).mean())


def mape(actual: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"]) -> float:
    """Mean absolute error in percent of the actual value; infinite where an actual 0 is missed, NaN without rows."""
    if len(actual) == 0:
        return float("nan")
    error = np.abs(actual - predicted)
    share = np.where(np.isnan(error), np.nan, np.where(error > 0, np.inf, 0.0))
    np.divide(error, np.abs(actual), out=share, where=actual != 0)
    return float(100 * share.mean())


def top_k_overlap(accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], k: int) -> float:
    """Share of the ``k`` predicted best that are among the ``k`` best (or as good as the last of these).

    Of equal predictions the worst networks are taken first, so that neither the order of the rows nor a constant helps.
    With fewer than ``k`` rows all are taken; NaN without rows.
    """
    if len(accuracy) == 0 or np.isnan(accuracy).any() or np.isnan(predicted).any():
        return float("nan")
    k = min(k, len(accuracy))
    return float((accuracy[_best(accuracy, predicted, k)] >= np.partition(accuracy, -k)[-k]).mean())


def top_k_regret(accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], k: int) -> float:
    """What is lost by measuring only the ``k`` predicted best: the best accuracy minus the best among these, percent.

    Equal predictions and small sets as in :func:`top_k_overlap`.
    """
    if len(accuracy) == 0 or np.isnan(accuracy).any() or np.isnan(predicted).any():
        return float("nan")
    return float(accuracy.max() - accuracy[_best(accuracy, predicted, min(k, len(accuracy)))].max())


def _best(accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], k: int) -> Int64[np.ndarray, " k"]:
    return np.lexsort((accuracy, -predicted))[:k]


def figures(
    accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], percent: bool = True
) -> dict[str, float]:
    """All figures of one row of a report, by name.

    ``rows``; ``srcc``; ``kendall_tau`` of accuracies that differ by 0.01 percent or more; ``ndcg_k`` for 10 and 50;
    ``overlap_k`` for 5, 10, 25 and 50; ``regret_k`` for 1, 10 and 50; and, where predictions are on the scale of the
    labels, ``mae`` and ``mape``. Pass ``percent=False`` for scores of another scale (FLOPs, proxies): only their
    order counts. Labels must be finite, or all is NaN; an infinite prediction is ranked and has an infinite error.
    """
    if len(accuracy) == 0 or not np.isfinite(accuracy).all() or np.isnan(predicted).any():
        return {**dict.fromkeys(_names(percent), float("nan")), "rows": float(len(accuracy))}
    rank = scipy.stats.rankdata(predicted)
    values = [
        float(len(accuracy)),
        srcc(accuracy, rank),
        kendall_tau(accuracy, predicted if percent else rank),  # ranks are not lost in rounding
        *(ndcg(accuracy, rank, k) for k in _NDCG),
        *(top_k_overlap(accuracy, rank, k) for k in _OVERLAPS),
        *(top_k_regret(accuracy, rank, k) for k in _REGRETS),
        *((mae(accuracy, predicted), mape(accuracy, predicted)) if percent else ()),
    ]
    return dict(zip(_names(percent), values, strict=True))


_NDCG, _OVERLAPS, _REGRETS = (10, 50), (5, 10, 25, 50), (1, 10, 50)


def _names(percent: bool) -> list[str]:
    return [
        *("rows", "srcc", "kendall_tau"),
        *(f"ndcg_{k}" for k in _NDCG),
        *(f"overlap_{k}" for k in _OVERLAPS),
        *(f"regret_{k}" for k in _REGRETS),
        *(("mae", "mape") if percent else ()),
    ]


# How well deviations tell errors --------------------------------------------------------------------------------------


def coverage(
    actual: Float64[np.ndarray, " n"],
    predicted: Float64[np.ndarray, " n"],
    deviation: Float64[np.ndarray, " n"],
    level: float,
) -> float:
    """Percent of rows whose actual value lies in the central interval, ends included, that holds ``level`` percent of a
    normal distribution of mean ``predicted`` and standard deviation ``deviation``; NaN without rows."""
    error = np.abs(actual - predicted)
    if len(error) == 0 or np.isnan(error).any() or np.isnan(deviation).any():
        return float("nan")
    return float(100 * (error <= scipy.stats.norm.ppf(0.5 + level / 200) * deviation).mean())


def crps(
    actual: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], deviation: Float64[np.ndarray, " n"]
) -> float:
    """Mean continuous ranked probability score of normal predictions, in the unit of the labels; the lower the better.

    The integral over x of (F(x) - [x >= actual])^2, F being the predicted distribution; without deviation it is the
    absolute error (Gneiting and Raftery, 2007, section 4.2). NaN without rows.
    """
    if len(actual) == 0:
        return float("nan")
    error = np.abs(actual - predicted)
    z = np.divide(error, deviation, out=np.zeros(len(error)), where=deviation != 0)
    norm = scipy.stats.norm
    spread = deviation * (2 * norm.pdf(z) - 2 * z * norm.sf(z) - 1 / np.sqrt(np.pi))
    return float((error + spread).mean())


def log_normal_crps(
    actual: Float64[np.ndarray, " n"], median: Float64[np.ndarray, " n"], spread: Float64[np.ndarray, " n"]
) -> float:
    """As :func:`crps` of log-normal predictions; ``spread`` [n] is the deviation of the logarithm, ``actual`` is above
    0 (Baran and Lerch, 2015)."""
    if len(actual) == 0:
        return float("nan")
    distance = np.log(actual / median)
    certain = np.where(distance == 0, 0, np.copysign(np.inf, distance))
    z = np.divide(distance, spread, out=certain, where=spread != 0)
    mean = median * np.exp(spread**2 / 2)
    norm = scipy.stats.norm
    score = actual * (2 * norm.cdf(z) - 1) - 2 * mean * (norm.cdf(z - spread) + norm.cdf(spread / np.sqrt(2)) - 1)
    return float(score.mean())


def log_spread(median: Float64[np.ndarray, " n"], deviation: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Deviation [n] of the logarithm of log-normal variables, from their medians and their own deviations."""
    # With w = exp(spread^2), deviation^2 = median^2 w (w - 1): a quadratic, whose root above 1 is 1 + (root - 1) / 2.
    square = (2 * deviation / median) ** 2
    return np.asarray(np.sqrt(np.log1p(square / (2 * (1 + np.sqrt(1 + square))))))


#: Percent that the intervals hold whose coverage is reported.
LEVELS = (50.0, 90.0)


def uncertainty_figures(
    actual: Float64[np.ndarray, " n"],
    predicted: Float64[np.ndarray, " n"],
    deviation: Float64[np.ndarray, " n"],
    log_normal: bool = False,
) -> dict[str, float]:
    """``coverage_50`` and ``coverage_90`` in percent; the mean ``deviation`` and ``crps`` in the unit of the labels.

    Errors are taken for normal; if ``log_normal``, those of logarithms are, ``predicted`` being medians above 0.
    """
    scale = normal_scale(actual, predicted, deviation, log_normal)
    found = {f"coverage_{level:g}": coverage(*scale, level) for level in LEVELS}
    score = log_normal_crps(actual, predicted, scale[2]) if log_normal else crps(actual, predicted, deviation)
    return {**found, "deviation": float(deviation.mean()) if len(deviation) else float("nan"), "crps": score}


def normal_scale(
    actual: Float64[np.ndarray, " n"],
    predicted: Float64[np.ndarray, " n"],
    deviation: Float64[np.ndarray, " n"],
    log_normal: bool,
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """The three on the scale on which errors are normal: as they are, or logarithms."""
    if not log_normal:
        return actual, predicted, deviation
    return np.log(actual), np.log(predicted), log_spread(predicted, deviation)
