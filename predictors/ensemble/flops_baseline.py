"""Accuracy as a line in the logarithm of FLOPs: the member that cannot overfit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from gennape.errors import CheckpointError
from gennape.predictors.bounds import Finite
from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.least_squares import line
from gennape.predictors.ensemble.member import Member, parsed


@dataclass(frozen=True, slots=True)
class _FlopsLineConfig:
    name: str
    slope: Finite
    intercept: Finite


class FlopsLine(Member):
    """accuracy = slope x log10 FLOPs + intercept, FLOPs being 2 x MACs of the whole graph, by least squares."""

    def __init__(self, name: str, slope: float, intercept: float) -> None:
        self.name = name
        self.slope = slope
        self.intercept = intercept

    def predict(self, encoded: EncodedGraphs) -> Float64[np.ndarray, " g"]:
        """See :meth:`Member.predict`."""
        return np.round(self.slope * _logarithm(encoded.flops) + self.intercept, 6)

    def tuned(self, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator) -> FlopsLine:  # noqa: ARG002
        """A line through these labels alone; see :meth:`Member.tuned`."""
        return FlopsLine(self.name, *line(_logarithm(encoded.flops), accuracy))

    def config(self) -> dict[str, Any]:
        """See :meth:`Member.config`."""
        return asdict(_FlopsLineConfig(self.name, self.slope, self.intercept))

    def state(self) -> dict[str, Tensor]:
        """Nothing; see :meth:`Member.state`."""
        return {}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FlopsLine:
        """See :meth:`Member.restore`."""
        found = parsed(_FlopsLineConfig, config)
        if tensors:
            raise CheckpointError(
                f"member {found.name} has no weights, got {sorted(tensors)[:3]}; copy the checkpoint again"
            )
        return FlopsLine(found.name, found.slope, found.intercept)


def fit_flops(name: str, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"]) -> FlopsLine:
    """The line of a labelled family."""
    return FlopsLine(name, *line(_logarithm(encoded.flops), accuracy))


def _logarithm(flops: Int64[np.ndarray, " g"]) -> Float64[np.ndarray, " g"]:
    return np.log10(np.maximum(flops, 1))
