"""The k-GNN as a member: graph convolutions trained on accuracy from end to end, beside the frozen encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from gennape.predictors.encoder.kgnn import FINE_TUNING, KGnn, fine_tune, fit_kgnn, predict_accuracy
from gennape.predictors.encoder.settings import KGnnConfig, KGnnTraining
from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.member import Member, Progress, parsed
from gennape.predictors.restoring import made_of


@dataclass(frozen=True, slots=True)
class _EndToEndConfig:
    name: str
    network: KGnnConfig


class EndToEnd(Member):
    """A :class:`gennape.predictors.encoder.kgnn.KGnn`, which reads the graphs themselves."""

    def __init__(self, name: str, network: KGnn) -> None:
        self.name = name
        self.network = copy.deepcopy(network).float().eval()

    def predict(self, encoded: EncodedGraphs) -> Float64[np.ndarray, " g"]:
        """See :meth:`Member.predict`; raises :class:`gennape.errors.InvalidGraphError` for graphs without nodes."""
        return predict_accuracy(self.network, encoded.graphs)

    def tuned(self, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator) -> EndToEnd:
        """See :meth:`Member.tuned` and :func:`gennape.predictors.encoder.kgnn.fine_tune`."""
        return EndToEnd(
            self.name, fine_tune(self.network, encoded.graphs, accuracy, FINE_TUNING, rng, lambda _, __: None)
        )

    def config(self) -> dict[str, Any]:
        """See :meth:`Member.config`."""
        return asdict(_EndToEndConfig(self.name, self.network.config))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Member.state`."""
        return dict(self.network.state_dict())

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> EndToEnd:
        """See :meth:`Member.restore`."""
        found = parsed(_EndToEndConfig, config)
        network = made_of(lambda: KGnn(found.network), tensors, f"member {found.name}")
        return EndToEnd(found.name, network)


def fit_end_to_end(
    name: str,
    network: KGnnConfig,
    encoded: EncodedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    training: KGnnTraining,
    rng: np.random.Generator,
    progress: Progress,
) -> EndToEnd:
    """A k-GNN trained on a labelled family; raises :class:`gennape.errors.ConfigError` without labels."""
    return EndToEnd(name, fit_kgnn(encoded.graphs, accuracy, network, training, rng, progress))
