"""Who pretrains, what a tuning varies, and how far its trials go; light, for the command line."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gennape.predictors.encoder.settings import (
    USUAL_CONTRAST,
    ClusteringConfig,
    Contrast,
    EncoderConfig,
    PretrainConfig,
)
from gennape.predictors.ensemble.settings import MembersConfig
from gennape.predictors.model.settings import FitConfig, RowsConfig

#: In the folder of a tuning: what it is, and a file for each result.
CONFIG, RESULTS = "config.json", "results"
#: Each budget is so many times the one before; so is the number of trials that stop at one to those that go on.
FACTOR = 3
#: Networks of a batch of pretraining to those of one of fitting.
BATCH_RATIO = 2
_SIZES, _PRETRAIN, _CLUSTERING, _FIT, _MEMBERS = (
    EncoderConfig(), PretrainConfig(), ClusteringConfig(), FitConfig(), MembersConfig(),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """Who pretrains. None of it changes the order of the data, and any of it may differ when training is continued.

    ``minimum``: where fewer than ``workers`` can be had, train on with as few as this; the group grows again as soon
    as there is room. ``gpus_per_worker``: 1, or 0 for processors. ``checkpoint_every``: so many steps.
    ``max_failures``: how many losses of workers a call stands; nodes that a cloud takes back, having said so, are not
    counted.
    """

    workers: int = field(
        metadata={"ge": 1, "description": "Ray worker processes. 1 without --address trains in this process."}
    )
    minimum: int = field(metadata={"ge": 1, "description": "Continue with this many while others are down."})
    gpus_per_worker: int = field(
        default=0, metadata={"ge": 0, "le": 1, "description": "1 trains on one GPU per worker, 0 on CPUs."}
    )
    checkpoint_every: int = field(
        default=20, metadata={"ge": 1, "description": "Steps between checkpoints and logged losses of workers."}
    )
    max_failures: int = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """What is tuned, called as the options of ``pretrain`` and ``fit`` are; by default their usual values."""

    config: Contrast = USUAL_CONTRAST
    hidden: int = _SIZES.hidden
    layers: int = _SIZES.layers
    embedding: int = _SIZES.embedding
    dropout: float = _SIZES.dropout
    learning_rate: float = _PRETRAIN.learning_rate
    clusters: int = _CLUSTERING.clusters
    fuzzifier: float = _CLUSTERING.fuzzifier

    def options(self) -> dict[str, dict[str, Any]]:
        """By verb."""
        values = asdict(self)
        fit = {name: values.pop(name) for name in ("clusters", "fuzzifier")}
        return {"pretrain": values, "fit": fit}


@dataclass(frozen=True, slots=True)
class Epochs:
    """Of pretraining, of fitting the encoder, and of the members."""

    pretrain: int = field(
        default=_PRETRAIN.epochs, metadata={"ge": 1, "description": "Epochs of pretraining, at the full budget."}
    )
    fit: int = field(
        default=_FIT.epochs, metadata={"ge": 1, "description": "Epochs of fitting the encoder, at the full budget."}
    )
    heads: int = _MEMBERS.regression.epochs
    pairs: int = _MEMBERS.pairwise.epochs
    k_gnn: int = _MEMBERS.end_to_end.epochs

    def part(self, share: float) -> Epochs:
        """A share of each, at least one."""
        return Epochs(*(max(1, math.ceil(share * epochs)) for epochs in asdict(self).values()))


@dataclass(frozen=True, slots=True)
class TuningStudy:
    """What all trials share: the folder of their results, whose networks they learn from in how many epochs, in which
    batches, the seed of all of them, and the percentage below which no row is learnt from."""

    folder: Path
    trials: tuple[Settings, ...]
    epochs: Epochs = field(default_factory=Epochs)
    rungs: int = field(
        default=3, metadata={"ge": 1, "le": 5, "description": "Budget levels. Each is a third of the next."}
    )
    batch: int = field(
        default=_FIT.batch,
        metadata={"ge": 2, "description": "Networks in one batch of fitting; pretraining takes twice as many."},
    )
    seed: int = field(default=0, metadata={"ge": 0, "description": "Random seed of settings, rows and trainings."})
    minimum_accuracy: float = RowsConfig().minimum_accuracy

    @property
    def budgets(self) -> list[int]:
        """1, 3, 9, …: the last is the whole budget."""
        return [FACTOR**rung for rung in range(self.rungs)]

    def options(self, settings: Settings) -> dict[str, dict[str, Any]]:
        """By verb, with all that the settings were found for: with other epochs others may be best."""
        epochs, found = self.epochs, settings.options()
        found["pretrain"] |= {"epochs": epochs.pretrain, "batch": BATCH_RATIO * self.batch}
        found["fit"] |= {"epochs": epochs.fit, "head_epochs": epochs.heads, "pair_epochs": epochs.pairs}
        found["fit"] |= {"k_gnn_epochs": epochs.k_gnn, "batch": self.batch, "minimum_accuracy": self.minimum_accuracy}
        return found

    def result_path(self, trial: int, budget: int) -> Path:
        """Where a result is kept."""
        return self.folder / RESULTS / f"{trial:05d}-{budget:05d}.json"
