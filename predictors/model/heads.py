"""Heads: measures learnt from a few networks, which an ensemble predicts beside accuracy with the same encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gennape.errors import CheckpointError, InvalidDataError
from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
from gennape.predictors.model.latency import LatencyPredictor
from gennape.predictors.predictor import Prediction, Predictor
from gennape.search_spaces.graphs.graph import PackedGraphs

_SEPARATOR = "/"


class HeadedPredictor(Predictor):
    """An ensemble with heads: the graphs of a call are encoded once for all of them.

    Args:
        ensemble: The predictor of accuracies.
        heads: What predicts each further measure, by the measure's name.
    """

    def __init__(self, ensemble: FuzzyEnsemble, heads: Mapping[str, LatencyPredictor]) -> None:
        self.ensemble = ensemble
        self.heads = dict(heads)

    @property
    def sha256(self) -> str:  # type: ignore[override]
        """The name of the ensemble."""
        return self.ensemble.sha256

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Accuracies as of the ensemble, and ``heads``, the median of every further measure."""
        prediction = self.ensemble.predict(graphs)
        return replace(prediction, heads={name: head.predict(graphs).milliseconds for name, head in self.heads.items()})


def fit_heads(
    ensemble: FuzzyEnsemble, measured: Mapping[str, tuple[PackedGraphs, Float64[np.ndarray, " g"]]]
) -> HeadedPredictor:
    """Learn a head for every measure from its networks and their values, which are above 0; nothing is random."""
    if not isinstance(ensemble, FuzzyEnsemble):
        raise InvalidDataError("only an ensemble that `fit` made can learn further measures; give such a --checkpoint")
    return HeadedPredictor(
        ensemble, {name: LatencyPredictor(ensemble).fit(graphs, values) for name, (graphs, values) in measured.items()}
    )


def pack_heads(predictor: HeadedPredictor) -> bytes:
    """The heads of a predictor as the bytes of a safetensors file; equal heads give equal bytes."""
    return save(
        {
            f"{name}{_SEPARATOR}{key}": np.ascontiguousarray(array)
            for name, head in predictor.heads.items()
            for key, array in head.state().items()
        }
    )


def unpack_heads(ensemble: FuzzyEnsemble, packed: bytes) -> HeadedPredictor:
    """The ensemble with the heads that :func:`pack_heads` packed.

    Raises :class:`CheckpointError` for bytes that are no heads, or heads of another encoder.
    """
    try:
        arrays = load(packed)
    except SafetensorError as error:
        raise CheckpointError(f"the learnt measures cannot be read ({error}); restore them from a copy") from error
    states: dict[str, dict[str, np.ndarray]] = {}
    for path, array in arrays.items():
        name, _, key = path.partition(_SEPARATOR)
        states.setdefault(name, {})[key] = array
    return HeadedPredictor(
        ensemble, {name: LatencyPredictor.restored(ensemble, state) for name, state in sorted(states.items())}
    )
