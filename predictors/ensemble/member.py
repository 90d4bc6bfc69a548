"""The interface of an ensemble's members: encoded graphs in, accuracies out, and copies fine-tuned on a few labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from gennape.predictors import restoring
from gennape.predictors.ensemble.inputs import EncodedGraphs

T = TypeVar("T")
#: Called after every step of a training with the number of networks seen and the loss of that step.
Progress = Callable[[int, float], None]


class Member(ABC):
    """One way to predict accuracies of networks. Members are immutable: fine-tuning returns a new one.

    Computes in double precision from single-precision numbers, so that a single-precision checkpoint restores the same
    predictions. Rounds them to 1e-6 percent, so that none depends on the other graphs in the set.
    """

    #: The member's name in reports, unique within an ensemble.
    name: str

    @abstractmethod
    def predict(self, encoded: EncodedGraphs) -> Float64[np.ndarray, " g"]:
        """Accuracies in percent, on the scale of the latest training labels; unbounded far from these."""

    @abstractmethod
    def tuned(self, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator) -> Member:
        """A copy fine-tuned on labelled networks of another family, ``accuracy`` [g] in percent, at least one.

        Equal labels and generators give equal copies, bit for bit.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Everything but tensors, for JSON."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The trained tensors, in single precision."""

    @classmethod
    @abstractmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Member:
        """The member that :meth:`config` and :meth:`state` describe; raises :class:`CheckpointError` for others."""


def parsed(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A dataclass of settings from JSON; raises :class:`CheckpointError` for what does not fit."""
    found: T = restoring.parsed(kind, dict(fields), "a member's ", "make the checkpoint anew with: gennape fit")
    return found
