"""Sizes of the members of the ensemble, and how they are trained; light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gennape.predictors.encoder.settings import KGnnConfig, KGnnTraining


@dataclass(frozen=True, slots=True)
class HeadTraining:
    """How heads are trained on fixed embeddings."""

    epochs: int = field(
        default=20, metadata={"ge": 1, "description": "Epochs of the cluster heads, on fixed embeddings."}
    )
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4


@dataclass(frozen=True, slots=True)
class PairTraining(HeadTraining):
    """The same of pairwise classifiers; all pairs of a batch are compared."""

    epochs: int = field(
        default=20, metadata={"ge": 1, "description": "Epochs of the pairwise classifiers, on fixed embeddings."}
    )
    batch: int = 64


@dataclass(frozen=True, slots=True)
class MembersConfig:
    """Sizes of the members, and how they are trained."""

    regression_hidden: int = 64
    pairwise_hidden: int = 32
    k_gnn: KGnnConfig = field(default_factory=KGnnConfig)
    regression: HeadTraining = field(default_factory=HeadTraining)
    pairwise: HeadTraining = field(default_factory=PairTraining)
    end_to_end: KGnnTraining = field(default_factory=KGnnTraining)

    def steps(self, graphs: int) -> int:
        """The networks that ``fit_members`` tells its ``progress`` of, all together."""
        return graphs * (self.regression.epochs + 2 * self.pairwise.epochs + self.end_to_end.epochs)

    def lasting(self, heads: int, pairs: int, k_gnn: int) -> MembersConfig:
        """The same in so many epochs: of the cluster heads, of the pairwise classifiers, and of the k-GNN."""
        return replace(
            self,
            regression=replace(self.regression, epochs=heads),
            pairwise=replace(self.pairwise, epochs=pairs),
            end_to_end=replace(self.end_to_end, epochs=k_gnn),
        )
