"""Gaussian process regression on a few labels, around the predictions made without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from gennape.errors import CheckpointError

#: Prior variances of the mean's level and of its slope in the prior prediction, in variances of the labels. The prior
#: slope is that of a good correlation, so that a few labels do not reverse the order predicted without them.
_LEVEL, _SLOPE, _PRIOR_SLOPE = 4.0, 0.05, 0.9
# Parameters are logarithms: variances of the two linear and of the two smooth parts, lengths of the latter, noise.
_START = np.array([-1.0, -1.0, -1.0, -1.0, 0.5, 0.5, -2.0])
_PRIOR_MEAN = np.array([-2.0, -2.0, -1.5, -1.5, 0.7, 0.7, -1.5])
_PRIOR_DEVIATION = np.array([1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 1.5])
_BOUNDS = [(-9.0, 5.0)] * len(_START)
_JITTER = 1e-6
_ROWS_AT_ONCE = 4096
#: The hyperparameters are tuned on at most this many labels: each evaluation is cubic in their number, and more labels
#: hardly move these seven numbers.
_MAX_TUNING_LABELS = 500


@dataclass(frozen=True, slots=True)
class GPInputs:
    """Inputs of a Gaussian process, one row per network: the ``prior`` prediction and four feature groups.

    ``sizes`` and ``paths`` are the two parts of :func:`.structure`; ``pooled`` are means and maxima over steps of an
    encoder's features, ``totals`` their sums over steps.
    """

    prior: Float64[np.ndarray, " g"]
    sizes: Float64[np.ndarray, "g s"]
    paths: Float64[np.ndarray, "g w"]
    pooled: Float64[np.ndarray, "g p"]
    totals: Float64[np.ndarray, "g t"]

    def __getitem__(self, rows: slice | Int64[np.ndarray, " r"]) -> GPInputs:
        return GPInputs(*(column[rows] for column in self))

    def __iter__(self) -> Iterator[Float64[np.ndarray, "g ..."]]:
        return iter((self.prior, self.sizes, self.paths, self.pooled, self.totals))


#: Names of the columns of :class:`GPInputs` in a checkpoint, in their order.
_STORED = ("prior", "sizes", "ways", "pooled", "totals")


@dataclass(frozen=True, slots=True)
class _Scale:
    """Means and deviations of the labelled networks; a constant column has an infinite deviation."""

    mean: GPInputs
    deviation: GPInputs

    def __call__(self, inputs: GPInputs) -> GPInputs:
        return GPInputs(*((x - m) / d for x, m, d in zip(inputs, self.mean, self.deviation, strict=True)))


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """A fitted Gaussian process; see :func:`fit_process`."""

    inputs: GPInputs
    scale: _Scale
    parameters: Float64[np.ndarray, " k"]
    factor: Float64[np.ndarray, "n n"]
    weights: Float64[np.ndarray, " n"]
    level: float
    deviation: float
    slope: float

    def predict(self, inputs: GPInputs) -> tuple[Float64[np.ndarray, " g"], Float64[np.ndarray, " g"]]:
        """Mean and standard deviation [g] of each label, in the labels' unit; the deviation includes noise."""
        mean, spread = np.zeros(len(inputs.prior)), np.zeros(len(inputs.prior))
        for start in range(0, len(mean), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            part = self.scale(inputs[rows])
            shared = _kernel(_kernel_terms(part, self.inputs), self.parameters)
            mean[rows] = self.slope * part.prior + shared @ self.weights
            explained = np.einsum("gn,ng->g", shared, cho_solve((self.factor, True), shared.T))
            spread[rows] = np.sqrt(
                np.maximum(_variance(part, self.parameters) - explained, 0) + np.exp(self.parameters[-1])
            )
        return mean * self.deviation + self.level, spread * self.deviation

    def labelled(self) -> GPInputs:
        """The inputs of the labelled networks, as they were given."""
        scaled = zip(self.inputs, self.scale.mean, self.scale.deviation, strict=True)
        return GPInputs(*(m + x * np.where(np.isfinite(d), d, 0) for x, m, d in scaled))

    def state(self) -> dict[str, Float64[np.ndarray, "..."]]:
        """All arrays of the process by name; :func:`restored` rebuilds it from them, bit for bit."""
        groups = {"known": self.inputs, "mean": self.scale.mean, "deviation": self.scale.deviation}
        columns = {
            f"{group}.{name}": column
            for group, inputs in groups.items()
            for name, column in zip(_STORED, inputs, strict=True)
        }
        line = np.array([self.level, self.deviation, self.slope])
        return columns | {"parameters": self.parameters, "factor": self.factor, "weights": self.weights, "line": line}


def restored(state: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> GaussianProcess:
    """The process whose :meth:`GaussianProcess.state` this is; ``widths`` gives the number of columns by stored name.

    Raises :class:`CheckpointError` for arrays that are missing, of other sizes, or that hold NaN or infinity.
    """
    _check_state(state, widths)
    try:
        inputs, mean, deviation = (
            GPInputs(*(state[f"{group}.{name}"] for name in _STORED)) for group in ("known", "mean", "deviation")
        )
        level, spread, slope = state["line"].tolist()
        arrays = state["parameters"], state["factor"], state["weights"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"what was learnt from labels is incomplete ({error}); fit to the labels anew") from error
    return GaussianProcess(inputs, _Scale(mean, deviation), *arrays, level, spread, slope)


def _check_state(state: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> None:
    """Raise :class:`CheckpointError` unless all arrays are those of one process with inputs of these widths."""
    labels = len(state["weights"]) if "weights" in state and state["weights"].ndim else 0
    shapes = {"weights": (labels,), "factor": (labels, labels), "parameters": _START.shape, "line": (3,)}
    for what, rows in (("known", labels), ("mean", 1), ("deviation", 1)):
        shapes |= {f"{what}.{name}": (rows, width) for name, width in widths.items()} | {f"{what}.prior": (rows,)}
    found = {name: (array.shape, str(array.dtype)) for name, array in state.items()}
    asked = {name: (shape, "float64") for name, shape in shapes.items()}
    wrong = sorted(name for name in {*found, *asked} if found.get(name) != asked.get(name))
    if wrong or not labels:
        name = (wrong or ["weights"])[0]
        raise CheckpointError(
            f"what was learnt from labels is incomplete or of other sizes: {name} is {found.get(name)}, should be "
            f"{asked.get(name)}; fit to the labels anew"
        )
    low, high = np.array(_BOUNDS).T
    whole = all(np.isfinite(array).all() or (name.startswith("deviation.") and not np.isnan(array).any())
                for name, array in state.items())  # fmt: skip
    scales = [np.diag(state["factor"]), state["line"][1], *(state[f"deviation.{name}"] for name in ("prior", *widths))]
    if (
        not (whole and all((scale > 0).all() for scale in scales))
        or not ((state["parameters"] >= low) & (state["parameters"] <= high)).all()
    ):
        raise CheckpointError(
            "what was learnt from labels holds numbers that are not finite, or out of bounds; fit to the labels anew"
        )


def fit_process(inputs: GPInputs, labels: Float64[np.ndarray, " n"]) -> GaussianProcess:
    """Fit a Gaussian process to the ``labels`` [n] of networks.

    Its mean is linear in the prior prediction, with a slope that the prior nearly fixes. Around it, the kernel is a sum
    of linear kernels on sizes with path features and on totals, and of squared-exponential kernels on sizes and on
    pooled features. The hyperparameters (variances, length scales, noise) maximise the posterior under log-normal
    priors (Rasmussen and Williams, 2006, ch. 5), found by L-BFGS; nothing is random. With more than 500 labels they are
    tuned on 500, spread evenly over their ranks; the process then conditions on all labels.
    """
    scale = _scale_of(inputs)
    standard = scale(inputs)
    level, deviation = float(labels.mean()), float(labels.std())
    slope = _PRIOR_SLOPE
    if deviation <= 1e-9 * (1 + abs(level)):  # equal labels have no scale
        deviation, slope = 1.0, 0.0
    y = (labels - level) / deviation - slope * standard.prior
    parameters = _maximum_posterior(standard, y, labels)
    factor, weights = _solve(_covariance(standard, parameters), parameters, y)
    return GaussianProcess(standard, scale, parameters, factor, weights, level, deviation, slope)


def _maximum_posterior(
    inputs: GPInputs, y: Float64[np.ndarray, " n"], labels: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " k"]:
    """The hyperparameters of highest posterior probability."""
    if len(y) > _MAX_TUNING_LABELS:
        ranked = np.lexsort((y, labels))
        spread = ranked[np.linspace(0, len(y) - 1, _MAX_TUNING_LABELS).round().astype(np.int64)]
        inputs, y = inputs[spread], y[spread]
    parts = _kernel_terms(inputs, inputs)

    def cost(parameters: Float64[np.ndarray, " k"]) -> float:
        try:
            factor, weights = _solve(_kernel(parts, parameters), parameters, y)
        except np.linalg.LinAlgError:
            return 1e9
        log_prior = -0.5 * (((parameters - _PRIOR_MEAN) / _PRIOR_DEVIATION) ** 2).sum()
        return float(0.5 * y @ weights + np.log(np.diag(factor)).sum() - log_prior)

    return np.asarray(minimize(cost, _START, method="L-BFGS-B", bounds=_BOUNDS).x)


def _covariance(inputs: GPInputs, parameters: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, "n n"]:
    """The covariance matrix of networks, in blocks of rows: all its terms at once would take five times the memory."""
    rows = range(0, len(inputs.prior), _ROWS_AT_ONCE)
    parts = (inputs[slice(start, start + _ROWS_AT_ONCE)] for start in rows)
    return np.concatenate([_kernel(_kernel_terms(part, inputs), parameters) for part in parts])


def prior_covariance(inputs: GPInputs) -> tuple[Float64[np.ndarray, "g g"], float]:
    """Prior covariance [g, g] of these networks' labels, and the noise variance, both in units of the labels' variance.

    Inputs are standardised over these networks."""
    standard = _scale_of(inputs)(inputs)
    return _covariance(standard, _PRIOR_MEAN), float(np.exp(_PRIOR_MEAN[-1]))


def _scale_of(inputs: GPInputs) -> _Scale:
    return _Scale(GPInputs(*(x.mean(0, keepdims=True) for x in inputs)), GPInputs(*map(_deviation, inputs)))


def _deviation(x: Float64[np.ndarray, "g ..."]) -> Float64[np.ndarray, "1 ..."]:
    found = x.std(0, keepdims=True)
    return np.where(found > 1e-9 * (1 + np.abs(x).max(0)), found, np.inf)


def _kernel_terms(a: GPInputs, b: GPInputs) -> Float64[np.ndarray, "5 m n"]:
    """Per pair: covariance of the mean; products of structures and of totals; squared distances of sizes and pooled."""
    line = _LEVEL + _SLOPE * np.outer(a.prior, b.prior)
    columns = a.sizes.shape[1] + a.paths.shape[1]
    products = (a.sizes @ b.sizes.T + a.paths @ b.paths.T) / columns, a.totals @ b.totals.T / a.totals.shape[1]
    return np.stack([line, *products, _distances(a.sizes, b.sizes), _distances(a.pooled, b.pooled)])


def _distances(a: Float64[np.ndarray, "m d"], b: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "m n"]:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.maximum(squares, 0) / a.shape[1]


def _kernel(parts: Float64[np.ndarray, "5 m n"], parameters: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, "m n"]:
    linear, linear_totals, smooth, smooth_pooled = np.exp(parameters[:4])
    length, length_pooled = np.exp(2 * parameters[4:6])
    return np.asarray(
        parts[0]
        + linear * parts[1]
        + linear_totals * parts[2]
        + smooth * np.exp(-parts[3] / (2 * length))
        + smooth_pooled * np.exp(-parts[4] / (2 * length_pooled))
    )


def _variance(inputs: GPInputs, parameters: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " g"]:
    """The diagonal of the covariance matrix."""
    linear, linear_totals, smooth, smooth_pooled = np.exp(parameters[:4])
    structure = np.concatenate([inputs.sizes, inputs.paths], axis=1)
    products = linear * (structure**2).mean(1) + linear_totals * (inputs.totals**2).mean(1)
    return np.asarray(_LEVEL + _SLOPE * inputs.prior**2 + products + smooth + smooth_pooled)


def _solve(
    covariance: Float64[np.ndarray, "n n"], parameters: Float64[np.ndarray, " k"], y: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, " n"]]:
    """Cholesky factor and weights; overwrites the covariance."""
    noise = np.exp(parameters[-1]) + _JITTER
    covariance[np.diag_indices_from(covariance)] += noise
    factor = cho_factor(covariance, lower=True, overwrite_a=True)[0]
    return factor, cho_solve((factor, True), y)
