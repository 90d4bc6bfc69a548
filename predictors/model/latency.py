"""Latency on a device: what the encoder sees of networks, and a few measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from gennape.errors import InvalidDataError
from gennape.predictors.few_shot.gaussian_process import GaussianProcess, GPInputs, fit_process, restored
from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble, input_widths
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.graphs.graph import PackedGraphs

_DIGITS = 9  # kept of logarithms, so that an answer does not depend on which others it was computed with


@dataclass(frozen=True, slots=True)
class Latencies:
    """One row per graph: ``milliseconds`` [g], as probably exceeded as not; ``deviation`` [g] in milliseconds, how
    uncertain that is."""

    milliseconds: Float64[np.ndarray, " g"]
    deviation: Float64[np.ndarray, " g"]


class LatencyPredictor:
    """Predicts the latency of networks on one device, learnt from some measurements there.

    The logarithm of latency is a Gaussian process around a line in the logarithm of FLOPs. Its inputs are the structure
    of the networks and what the encoder of ``ensemble`` pools of them. The ensemble stays as it is. Predictors for many
    devices can share one, and then compute each set of graphs once.

    Args:
        ensemble: The predictor whose encoder is used, such as :func:`load_pretrained` gives.

    Example:
        >>> import gennape as gp
        >>> space = gp.family("ofa_mbv3")
        >>> graphs = space.graphs(space.sample(np.random.default_rng(0), 60))
        >>> few = graphs.take(np.arange(50))
        >>> milliseconds = 2 + gp.flops(few) / 1e8  # your measurements
        >>> device = gp.LatencyPredictor(gp.load_pretrained()).fit(few, milliseconds)
        >>> latencies = device.predict(graphs)
        >>> latencies.milliseconds.shape, bool((latencies.deviation > 0).all())
        ((60,), True)
    """

    def __init__(self, ensemble: FuzzyEnsemble) -> None:
        self._ensemble = ensemble
        self._process: GaussianProcess | None = None
        self._measured = 0

    def __repr__(self) -> str:
        """How much it has learnt."""
        return f"LatencyPredictor({self._measured} measured networks, encoder of {self._ensemble!r})"

    def fit(self, graphs: PackedGraphs, milliseconds: Float64[np.ndarray, " g"]) -> LatencyPredictor:
        """Learn from measured networks; takes about a second for 50.

        Earlier calls are forgotten, and nothing is random.

        Args:
            graphs: The measured networks, g of them.
            milliseconds: float64 [g], their latencies.

        Returns:
            This predictor.

        Raises:
            InvalidDataError: There is no measurement, not one per network, or one that is not finite and above 0.
            InvalidGraphError: A graph holds no nodes.
        """
        check_latencies(graphs, milliseconds)
        inputs = _described(graphs, self._ensemble.describe(graphs, keep=False))
        self._process, self._measured = fit_process(inputs, np.log(milliseconds)), len(milliseconds)
        return self

    def predict(self, graphs: PackedGraphs) -> Latencies:
        """Predict latencies. The row of a graph does not depend on the other graphs in the set.

        Args:
            graphs: Any networks, g of them.

        Returns:
            ``milliseconds`` [g], the medians, and ``deviation`` [g], in milliseconds.

        Raises:
            InvalidDataError: :meth:`fit` was not called before.
            InvalidGraphError: A graph holds no nodes.
        """
        if self._process is None:
            raise InvalidDataError(
                "this latency predictor has learnt from no measurement, and knows no device; call "
                "fit(graphs, milliseconds) with some networks (50 do much) measured on yours"
            )
        mean, deviation = self._process.predict(_described(graphs, self._ensemble.describe(graphs)))
        mean, variance = np.round(mean, _DIGITS), np.round(deviation, _DIGITS) ** 2
        return Latencies(np.exp(mean), np.exp(mean + variance / 2) * np.sqrt(np.expm1(variance)))

    def state(self) -> dict[str, Float64[np.ndarray, "..."]]:
        """All arrays of what was learnt, by name; :meth:`restored` makes the same predictor of them, bit for bit.

        Raises:
            InvalidDataError: :meth:`fit` was not called before.
        """
        if self._process is None:
            raise InvalidDataError("this latency predictor has learnt from no measurement; call fit first")
        return self._process.state()

    @classmethod
    def restored(cls, ensemble: FuzzyEnsemble, state: Mapping[str, np.ndarray]) -> LatencyPredictor:
        """The predictor whose :meth:`state` this is, on the encoder that it was learnt with.

        Raises:
            CheckpointError: Arrays are missing, of other sizes, or hold NaN or infinity.
        """
        made = cls(ensemble)
        made._process = restored(state, input_widths(ensemble.pretrained.config.hidden))
        made._measured = len(made._process.weights)
        return made


def _described(graphs: PackedGraphs, inputs: GPInputs) -> GPInputs:
    return replace(inputs, prior=np.log1p(flops(graphs).astype(np.float64)))


def check_latencies(graphs: PackedGraphs, milliseconds: Float64[np.ndarray, " g"]) -> None:
    """Raise :class:`InvalidDataError` unless there are latencies, one per graph, all finite and above 0."""
    if len(milliseconds) != len(graphs):
        raise InvalidDataError(f"{len(milliseconds)} latencies for {len(graphs)} networks; give one per network")
    if len(milliseconds) == 0:
        raise InvalidDataError("no latencies; measure some networks on the device, 50 do much")
    bad = ~(np.isfinite(milliseconds) & (milliseconds > 0))
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        raise InvalidDataError(
            f"latency {where} is {milliseconds[where]} ms; must be above 0 and finite, so leave out networks without"
        )
