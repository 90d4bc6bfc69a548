"""Learning from a few labels: a Gaussian process around what was predicted without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float64, Int64
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from gennape.errors import CheckpointError

#: Variances of the answer's level and of its slope in the prior prediction, in variances of the labels. The slope is
#: believed to be near a good correlation: a few labels shall not turn round what is known without them.
_LEVEL, _SLOPE, _USUAL_SLOPE = 4.0, 0.05, 0.9
# Parameters are logarithms: variances of the two linear and of the two smooth parts, lengths of the latter, noise.
_START = np.array([-1.0, -1.0, -1.0, -1.0, 0.5, 0.5, -2.0])
_USUAL = np.array([-2.0, -2.0, -1.5, -1.5, 0.7, 0.7, -1.5])
_SPREAD = np.array([1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 1.5])
_BOUNDS = [(-9.0, 5.0)] * len(_START)
_JITTER = 1e-6
_ROWS_AT_ONCE = 4096
#: Variances, lengths and noise are found by so many labels at most: each try costs the cube of their number, and more
#: labels hardly move these seven numbers.
_MOST_TUNED_BY = 500


@dataclass(frozen=True, slots=True)
class Known:
    """What a process knows of networks: ``prior`` prediction, and four descriptions.

    ``sizes`` and ``ways`` are the two parts of :func:`.structure`; ``pooled`` are means and
    maxima over steps, ``totals`` sums over steps, of what an encoder makes of each.
    """

    prior: Float64[np.ndarray, " g"]
    sizes: Float64[np.ndarray, "g s"]
    ways: Float64[np.ndarray, "g w"]
    pooled: Float64[np.ndarray, "g p"]
    totals: Float64[np.ndarray, "g t"]

    def __getitem__(self, rows: slice | Int64[np.ndarray, " r"]) -> Known:
        return Known(*(column[rows] for column in self))

    def __iter__(self) -> Iterator[Float64[np.ndarray, "g ..."]]:
        return iter((self.prior, self.sizes, self.ways, self.pooled, self.totals))


@dataclass(frozen=True, slots=True)
class _Scale:
    """Means and deviations of the labelled networks; what is the same in all of them has an infinite deviation."""

    mean: Known
    deviation: Known

    def __call__(self, known: Known) -> Known:
        return Known(*((x - m) / d for x, m, d in zip(known, self.mean, self.deviation, strict=True)))


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """A fitted process; see :func:`fit_process`."""

    known: Known
    scale: _Scale
    parameters: Float64[np.ndarray, " k"]
    factor: Float64[np.ndarray, "n n"]
    weights: Float64[np.ndarray, " n"]
    level: float
    deviation: float
    slope: float

    def predict(self, known: Known) -> tuple[Float64[np.ndarray, " g"], Float64[np.ndarray, " g"]]:
        """Mean and standard deviation of the label of each network, in the labels' unit; noise counts as uncertain."""
        mean, spread = np.zeros(len(known.prior)), np.zeros(len(known.prior))
        for start in range(0, len(mean), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            part = self.scale(known[rows])
            shared = _covariance(_parts(part, self.known), self.parameters)
            mean[rows] = self.slope * part.prior + shared @ self.weights
            explained = np.einsum("gn,ng->g", shared, cho_solve((self.factor, True), shared.T))
            spread[rows] = np.sqrt(
                np.maximum(_variance(part, self.parameters) - explained, 0) + np.exp(self.parameters[-1])
            )
        return mean * self.deviation + self.level, spread * self.deviation

    def state(self) -> dict[str, Float64[np.ndarray, "..."]]:
        """All numbers of the process by name; :func:`restored` makes it of them again, bit for bit."""
        described = {"known": self.known, "mean": self.scale.mean, "deviation": self.scale.deviation}
        columns = {
            f"{what}.{f.name}": getattr(known, f.name) for what, known in described.items() for f in fields(Known)
        }
        line = np.array([self.level, self.deviation, self.slope])
        return columns | {"parameters": self.parameters, "factor": self.factor, "weights": self.weights, "line": line}


def restored(state: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> GaussianProcess:
    """The process whose :meth:`GaussianProcess.state` this is, ``widths`` being the columns of each description.

    Raises :class:`CheckpointError` for arrays that are missing, of other sizes, or hold what is no number.
    """
    _check_state(state, widths)
    try:
        known, mean, deviation = (
            Known(*(state[f"{what}.{f.name}"] for f in fields(Known))) for what in ("known", "mean", "deviation")
        )
        level, spread, slope = state["line"].tolist()
        arrays = state["parameters"], state["factor"], state["weights"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"what was learnt from labels is incomplete ({error}); fit to the labels anew") from error
    return GaussianProcess(known, _Scale(mean, deviation), *arrays, level, spread, slope)


def _check_state(state: Mapping[str, np.ndarray], widths: Mapping[str, int]) -> None:
    """Raise :class:`CheckpointError` unless all arrays are of one process over descriptions of these widths."""
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


def fit_process(known: Known, labels: Float64[np.ndarray, " n"]) -> GaussianProcess:
    """The process that explains ``labels`` [n] of networks best.

    Its mean is a line in the prior prediction, of a slope that is nearly known; around it vary linear functions of
    sizes and ways and of the totals, and smooth functions of the sizes and of the pooled features. Variances, lengths
    and noise are those of highest posterior probability under log-normal beliefs (Rasmussen and Williams, 2006, ch. 5),
    found by L-BFGS; nothing is random. Of more than 500 labels these are found by 500, spread evenly over their ranks;
    the process then knows all.
    """
    scale = _scale_of(known)
    standard = scale(known)
    level, deviation = float(labels.mean()), float(labels.std())
    slope = _USUAL_SLOPE
    if deviation <= 1e-9 * (1 + abs(level)):  # labels that are all alike tell no unit in which others would differ
        deviation, slope = 1.0, 0.0
    y = (labels - level) / deviation - slope * standard.prior
    parameters = _likeliest(standard, y, labels)
    factor, weights = _solve(_among(standard, parameters), parameters, y)
    return GaussianProcess(standard, scale, parameters, factor, weights, level, deviation, slope)


def _likeliest(
    known: Known, y: Float64[np.ndarray, " n"], labels: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " k"]:
    """The parameters of highest posterior probability."""
    if len(y) > _MOST_TUNED_BY:
        ranked = np.lexsort((y, labels))
        spread = ranked[np.linspace(0, len(y) - 1, _MOST_TUNED_BY).round().astype(np.int64)]
        known, y = known[spread], y[spread]
    parts = _parts(known, known)

    def cost(parameters: Float64[np.ndarray, " k"]) -> float:
        try:
            factor, weights = _solve(_covariance(parts, parameters), parameters, y)
        except np.linalg.LinAlgError:
            return 1e9
        belief = 0.5 * (((parameters - _USUAL) / _SPREAD) ** 2).sum()
        return float(0.5 * y @ weights + np.log(np.diag(factor)).sum() + belief)

    return np.asarray(minimize(cost, _START, method="L-BFGS-B", bounds=_BOUNDS).x)


def _among(known: Known, parameters: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, "n n"]:
    """Covariances of networks with one another, some rows at a time: their parts would take five times the memory."""
    rows = range(0, len(known.prior), _ROWS_AT_ONCE)
    parts = (known[slice(start, start + _ROWS_AT_ONCE)] for start in rows)
    return np.concatenate([_covariance(_parts(part, known), parameters) for part in parts])


def before_labels(known: Known) -> tuple[Float64[np.ndarray, "g g"], float]:
    """What is believed before any label: covariances of these networks' labels, and the variance of noise, both in
    variances of the labels. Descriptions are standardised over these networks."""
    standard = _scale_of(known)(known)
    return _among(standard, _USUAL), float(np.exp(_USUAL[-1]))


def _scale_of(known: Known) -> _Scale:
    return _Scale(Known(*(x.mean(0, keepdims=True) for x in known)), Known(*map(_deviation, known)))


def _deviation(x: Float64[np.ndarray, "g ..."]) -> Float64[np.ndarray, "1 ..."]:
    found = x.std(0, keepdims=True)
    return np.where(found > 1e-9 * (1 + np.abs(x).max(0)), found, np.inf)


def _parts(a: Known, b: Known) -> Float64[np.ndarray, "5 m n"]:
    """Per pair: covariance of the line; products of structures and of totals; squared distances of sizes and pooled."""
    line = _LEVEL + _SLOPE * np.outer(a.prior, b.prior)
    columns = a.sizes.shape[1] + a.ways.shape[1]
    products = (a.sizes @ b.sizes.T + a.ways @ b.ways.T) / columns, a.totals @ b.totals.T / a.totals.shape[1]
    return np.stack([line, *products, _distances(a.sizes, b.sizes), _distances(a.pooled, b.pooled)])


def _distances(a: Float64[np.ndarray, "m d"], b: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "m n"]:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.maximum(squares, 0) / a.shape[1]


def _covariance(
    parts: Float64[np.ndarray, "5 m n"], parameters: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "m n"]:
    linear, linear_totals, smooth, smooth_pooled = np.exp(parameters[:4])
    length, length_pooled = np.exp(2 * parameters[4:6])
    return np.asarray(
        parts[0]
        + linear * parts[1]
        + linear_totals * parts[2]
        + smooth * np.exp(-parts[3] / (2 * length))
        + smooth_pooled * np.exp(-parts[4] / (2 * length_pooled))
    )


def _variance(known: Known, parameters: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " g"]:
    """The covariance of each network with itself."""
    linear, linear_totals, smooth, smooth_pooled = np.exp(parameters[:4])
    structure = np.concatenate([known.sizes, known.ways], axis=1)
    products = linear * (structure**2).mean(1) + linear_totals * (known.totals**2).mean(1)
    return np.asarray(_LEVEL + _SLOPE * known.prior**2 + products + smooth + smooth_pooled)


def _solve(
    covariance: Float64[np.ndarray, "n n"], parameters: Float64[np.ndarray, " k"], y: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, " n"]]:
    """Cholesky factor and weights; the covariance is written over."""
    noise = np.exp(parameters[-1]) + _JITTER
    covariance[np.diag_indices_from(covariance)] += noise
    factor = cho_factor(covariance, lower=True, overwrite_a=True)[0]
    return factor, cho_solve((factor, True), y)
