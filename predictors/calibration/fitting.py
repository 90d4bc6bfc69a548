"""Fit a calibration to labelled architectures of a search space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import cho_factor, cho_solve

from gennape.errors import InvalidDataError
from gennape.predictors.calibration.calibration import Calibration, CalibrationRecord, NetworkTable, hash_numbers
from gennape.predictors.calibration.features import FEATURES, features
from gennape.predictors.metrics import mae, srcc
from gennape.search_spaces.families.recognition import READERS
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.files.nearby import did_you_mean
from gennape.search_spaces.graphs.normal_form import normal_form

_MIN_ERROR = 0.01  # percent: below, no test set tells networks apart
#: Noise variances that are tried, and the share of rows that judge: once to choose one, once more to report the error.
_NOISES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_SHARE = 5
_WITHIN = 0.68
_GRAPHS_AT_ONCE = 1024


def fit_calibration(
    space: str,
    genomes: Int64[np.ndarray, "n k"],
    accuracy: Float64[np.ndarray, " n"],
    record: CalibrationRecord,
    rng: np.random.Generator,
    more: tuple[Int64[np.ndarray, "m k"], Float64[np.ndarray, " m"]] | None = None,
) -> Calibration:
    """Kernel ridge regression with a quadratic kernel, written out as the quadratic form that it is.

    ``genomes`` are canonical, and ``accuracy`` is in percent. A fifth of the rows is kept aside to measure the error,
    which goes into the ``record``; a fifth of the others chooses the noise; then the form is fitted to all rows.
    ``more`` are labels of another source, genomes and accuracies, where the first leave out a part of the space: what
    both have in common is learnt from both, and how the sources differ from both, too. Raises
    :class:`InvalidDataError` for a space without features, or fewer than 50 rows.
    """
    if space not in FEATURES:
        raise InvalidDataError(f"no calibration is known of {space!r}{did_you_mean(space, list(FEATURES))}")
    if len(genomes) < 50:
        raise InvalidDataError(f"a calibration takes 50 labels or more, got {len(genomes)}; fine-tune on so few")
    x, y = features(space, genomes), _log_error(accuracy)
    other = None if more is None else (features(space, more[0]), _log_error(more[1]))
    shuffled = rng.permutation(len(y))
    test, rest = np.split(shuffled, [len(y) // _SHARE])
    choosing, train = np.split(rest, [len(rest) // _SHARE])
    noise = min(_NOISES, key=lambda noise: _error(_form(x[train], y[train], noise, other), x[choosing], y[choosing]))
    tried = _calibration(space, record, _form(x[rest], y[rest], noise, other))
    predicted = tried.accuracy(genomes[test])
    known = replace(
        record,
        networks=len(y) + (0 if more is None else len(more[1])),
        held_out=len(test),
        srcc=round(srcc(accuracy[test], predicted), 4),
        mae_percent=round(mae(accuracy[test], predicted), 4),
        deviation=round(float(np.quantile(np.abs(predicted - accuracy[test]), _WITHIN)), 4),
    )
    fitted = _calibration(space, known, _form(x, y, noise, other))
    return fitted if space in READERS else replace(fitted, networks=network_table(space))


_Form = tuple[float, Float64[np.ndarray, " d"], Float64[np.ndarray, "d d"]]


def _log_error(accuracy: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return -np.log(np.maximum(100 - accuracy, _MIN_ERROR))


def _form(
    x: Float64[np.ndarray, "n d"],
    y: Float64[np.ndarray, " n"],
    noise: float,
    other: tuple[Float64[np.ndarray, "m d"], Float64[np.ndarray, " m"]] | None = None,
) -> _Form:
    """Level, linear and quadratic part of the posterior mean under the kernel ``(1 + x.z / scale)^2``.

    Rows of the other source have one more feature, 1 for all: its weights take up how that source differs.
    """
    if other is not None:
        sources = np.repeat([0.0, 1.0], [len(y), len(other[1])])
        both = np.concatenate([np.concatenate([x, other[0]]), sources[:, None]], axis=1)
        level, linear, pairs = _form(both, np.concatenate([y, other[1]]), noise)
        return level, linear[:-1], pairs[:-1, :-1]
    scale, level = float((x**2).sum(1).mean()), float(y.mean())
    kernel = (1 + x @ x.T / scale) ** 2
    kernel[np.diag_indices_from(kernel)] += noise
    weights = cho_solve(cho_factor(kernel, lower=True, overwrite_a=True), y - level)
    linear = 2 * (weights @ x) / scale
    return level + float(weights.sum()), linear, (x * weights[:, None]).T @ x / scale**2


def _calibration(space: str, record: CalibrationRecord, form: _Form) -> Calibration:
    return Calibration(space, record, *form)


def _error(form: _Form, x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, " n"]) -> float:
    level, linear, pairs = form
    return float(np.square(level + ((x @ pairs + linear) * x).sum(1) - y).mean())


def network_table(space: str) -> NetworkTable:
    """All networks of a space that is small enough to list them."""
    genes = family(space).genes
    grid = np.meshgrid(*(np.arange(len(gene.values)) for gene in genes), indexing="ij")
    genomes = np.stack([axis.ravel() for axis in grid], axis=1)
    hashes = np.concatenate([_hashes(space, part) for part in _parts(genomes)])
    found, first = np.unique(hashes, return_index=True)
    return NetworkTable(found, genomes[first])


def _parts(genomes: Int64[np.ndarray, "n k"]) -> Sequence[Int64[np.ndarray, "m k"]]:
    return np.array_split(genomes, 1 + len(genomes) // _GRAPHS_AT_ONCE)


def _hashes(space: str, genomes: Int64[np.ndarray, "n k"]) -> Int64[np.ndarray, " n"]:
    return hash_numbers(normal_form(family(space).graphs(genomes)))
