"""How the ensemble is fitted, and to which rows of a labelled file; light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from gennape.predictors.ensemble.settings import MembersConfig


@dataclass(frozen=True, slots=True)
class RowsConfig:
    """Which rows of a labelled file are learnt from."""

    minimum_accuracy: float = field(
        default=80.0, metadata={"description": "Leave out rows whose accuracy is below this percentage."}
    )


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Supervised fitting: ``epochs`` of the encoder with one head, then that of the ``members`` on fixed embeddings.

    Every ``regroup`` epochs of the encoder its batches are put together anew, every epoch they are shuffled.
    """

    epochs: int = field(default=24, metadata={"ge": 1, "description": "Epochs of the encoder."})
    batch: int = field(default=128, metadata={"ge": 2, "description": "Networks in one batch."})
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    regroup: int = 12
    members: MembersConfig = field(default_factory=MembersConfig)

    def steps(self, graphs: int) -> int:
        """The networks that ``fit`` tells its ``progress`` of, all together."""
        return graphs * self.epochs + self.members.steps(graphs)
