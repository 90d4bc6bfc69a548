"""One trial of a tuning: pretrain and fit with some settings, by ever larger budgets, and score on validation rows."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gennape.errors import WorkspaceError
from gennape.platform.workspace.run_files import read_json
from gennape.predictors.encoder import pretraining
from gennape.predictors.encoder.clustered import ClusteringConfig
from gennape.predictors.encoder.contrastive import GENERAL, GENNAPE
from gennape.predictors.encoder.encoder import EncoderConfig
from gennape.predictors.encoder.optimisation import chosen_device
from gennape.predictors.ensemble.registry import MembersConfig
from gennape.predictors.metrics import mae, srcc
from gennape.predictors.model import fitting
from gennape.predictors.model.checkpoint import load_checkpoint, save_ensemble
from gennape.search_spaces.files.atomic import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from jaxtyping import Float64

    from gennape.search_spaces.graphs.graph import PackedGraphs

#: In the folder of a tuning: what it is, and a file for each result.
CONFIG, RESULTS = "config.json", "results"
#: Each budget is so many times the one before; so is the number of trials that stop at one to those that go on.
FACTOR = 3
_PAIRS = 2  # networks of a batch of pretraining to those of one of fitting


@dataclass(frozen=True, slots=True)
class Settings:
    """What is tuned, called as the options of ``pretrain`` and ``fit`` are; by default their usual values."""

    config: str = "gennape"
    hidden: int = 64
    layers: int = 4
    embedding: int = 32
    dropout: float = 0.1
    learning_rate: float = 1e-3
    clusters: int = 6
    fuzzifier: float = 1.5

    def options(self) -> dict[str, dict[str, Any]]:
        """By verb."""
        values = asdict(self)
        fit = {name: values.pop(name) for name in ("clusters", "fuzzifier")}
        return {"pretrain": values, "fit": fit}


_DRAWS: dict[str, Callable[[np.random.Generator], Any]] = {
    "config": lambda rng: str(rng.choice(["gennape", "general"])),
    "hidden": lambda rng: int(rng.choice([32, 48, 64, 96, 128])),
    "layers": lambda rng: int(rng.integers(2, 7)),
    "embedding": lambda rng: int(rng.choice([16, 32, 64])),
    "dropout": lambda rng: round(float(rng.uniform(0.0, 0.3)), 3),
    "learning_rate": lambda rng: float(f"{10 ** rng.uniform(-3.5, -2.5):.2e}"),
    "clusters": lambda rng: int(rng.integers(2, 13)),
    "fuzzifier": lambda rng: round(float(rng.uniform(1.1, 2.5)), 2),
}
#: The settings that can be tuned.
NAMES = tuple(field.name for field in fields(Settings))


def draw_settings(count: int, vary: Collection[str], rng: np.random.Generator) -> list[Settings]:
    """The usual settings, then others drawn at random, of which only those of ``vary`` differ from the usual ones.

    The first of more are those of fewer.
    """
    found = [Settings()]
    for _ in range(count - 1):
        drawn = {name: draw(rng) for name, draw in _DRAWS.items()}
        found.append(replace(Settings(), **{name: value for name, value in drawn.items() if name in vary}))
    return found


@dataclass(frozen=True, slots=True)
class Epochs:
    """Of pretraining, of fitting the encoder, and of the members."""

    pretrain: int = 4
    fit: int = 24
    heads: int = 20
    pairs: int = 20
    k_gnn: int = 40

    def part(self, share: float) -> Epochs:
        """A share of each, at least one."""
        return Epochs(*(max(1, math.ceil(share * epochs)) for epochs in asdict(self).values()))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Networks with spectra and accuracies (percent): to train on, to weigh the members by, and to validate on."""

    graphs: PackedGraphs
    spectra: Float64[np.ndarray, "g q"]
    accuracy: Float64[np.ndarray, " g"]
    held_out: tuple[PackedGraphs, Float64[np.ndarray, " h"]]
    validation: tuple[PackedGraphs, Float64[np.ndarray, " j"]]


@dataclass(frozen=True, slots=True)
class TuningStudy:
    """What all trials share: the folder of their results, whose networks they learn from in how many epochs, in which
    batches, the seed of all of them, and the percentage below which no row is learnt from."""

    folder: Path
    trials: tuple[Settings, ...]
    epochs: Epochs
    rungs: int
    batch: int
    seed: int
    minimum_accuracy: float = 80.0

    @property
    def budgets(self) -> list[int]:
        """1, 3, 9, …: the last is the whole budget."""
        return [FACTOR**rung for rung in range(self.rungs)]

    def options(self, settings: Settings) -> dict[str, dict[str, Any]]:
        """By verb, with all that the settings were found for: with other epochs others may be best."""
        epochs, found = self.epochs, settings.options()
        found["pretrain"] |= {"epochs": epochs.pretrain, "batch": _PAIRS * self.batch}
        found["fit"] |= {"epochs": epochs.fit, "head_epochs": epochs.heads, "pair_epochs": epochs.pairs}
        found["fit"] |= {"k_gnn_epochs": epochs.k_gnn, "batch": self.batch, "minimum_accuracy": self.minimum_accuracy}
        return found

    def result_path(self, trial: int, budget: int) -> Path:
        """Where a result is kept."""
        return self.folder / RESULTS / f"{trial:05d}-{budget:05d}.json"


def run_trial(config: Mapping[str, Any], study: TuningStudy, rows: Rows, device: str | None) -> None:
    """What Ray Tune runs: every budget is a training of its own, since a learning rate falls with the epochs to come.

    ``device``: as :func:`measure` takes it.
    A result that is there already is told again: so a trial, or all of them, may be begun anew at any time.
    """
    from ray import tune  # noqa: PLC0415 (a second)

    trial = int(config["trial"])
    if not (study.folder / CONFIG).is_file():
        raise WorkspaceError(f"{study.folder} is not on every machine; give a workspace that all machines share")
    for budget in study.budgets:
        path = study.result_path(trial, budget)
        if not path.exists():
            part = study.epochs.part(budget / study.budgets[-1])
            write_json(path, measure(study.trials[trial], rows, part, study.batch, study.seed, device))
        tune.report({"trial": trial, "budget": budget, **read_json(path)})


def measure(
    settings: Settings, rows: Rows, epochs: Epochs, batch: int, seed: int, device: str | None = None
) -> dict[str, float]:
    """Rank correlation and mean absolute error (percent) on the validation rows, and the seconds that it took.

    ``device``: ``cpu`` or ``cuda``; by default CUDA where there is a GPU.
    """
    began, rng, where = time.perf_counter(), np.random.default_rng(seed), chosen_device(device)
    contrast = {"gennape": GENNAPE, "general": GENERAL}[settings.config]
    sizes = EncoderConfig(settings.hidden, settings.layers, settings.embedding, settings.dropout)
    how = pretraining.PretrainConfig(epochs.pretrain, _PAIRS * batch, settings.learning_rate, contrast=contrast)
    encoder = pretraining.pretrain(rows.graphs, rows.spectra, sizes, how, rng, _quietly, device=where)
    usual = MembersConfig()
    members = replace(
        usual,
        regression=replace(usual.regression, epochs=epochs.heads),
        pairwise=replace(usual.pairwise, epochs=epochs.pairs),
        end_to_end=replace(usual.end_to_end, epochs=epochs.k_gnn),
    )
    fitted = fitting.fit(
        encoder, rows.graphs, rows.accuracy, ClusteringConfig(sizes, settings.clusters, settings.fuzzifier),
        fitting.FitConfig(epochs=epochs.fit, batch=batch, members=members), rng, _quietly, held_out=rows.held_out,
        device=where,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:  # a predictor as it will be asked
        save_ensemble(Path(folder) / "trial", fitted, {})
        graphs, accuracy = rows.validation
        predicted = load_checkpoint(Path(folder) / "trial").predict(graphs).accuracy
    correlation = srcc(accuracy, predicted)
    return {
        "srcc": correlation if math.isfinite(correlation) else -1.0,  # all answers alike: nothing is ranked
        "mae": mae(accuracy, predicted),
        "seconds": time.perf_counter() - began,
    }


def _quietly(graphs: int, loss: float) -> None:
    """Nobody watches the steps of a trial."""
