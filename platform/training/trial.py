"""One trial of a tuning: pretrain and fit with some settings, by ever larger budgets, and score on validation rows."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gennape.errors import WorkspaceError
from gennape.platform.training.settings import BATCH_RATIO, CONFIG, Epochs, Settings, TuningStudy
from gennape.platform.workspace.run_files import read_json
from gennape.predictors.encoder import pretraining
from gennape.predictors.encoder.optimisation import chosen_device
from gennape.predictors.encoder.settings import CONTRASTS, ClusteringConfig, EncoderConfig, PretrainConfig
from gennape.predictors.ensemble.settings import MembersConfig
from gennape.predictors.metrics import mae, srcc
from gennape.predictors.model import fitting
from gennape.predictors.model.checkpoint import load_checkpoint, save_ensemble
from gennape.predictors.model.settings import FitConfig
from gennape.search_spaces.files.atomic import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from jaxtyping import Float64

    from gennape.search_spaces.graphs.graph import PackedGraphs

_DRAWS: dict[str, Callable[[np.random.Generator], Any]] = {
    "config": lambda rng: str(rng.choice(list(CONTRASTS))),
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


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Networks with spectra and accuracies (percent): to train on, to weigh the members by, and to validate on."""

    graphs: PackedGraphs
    spectra: Float64[np.ndarray, "g q"]
    accuracy: Float64[np.ndarray, " g"]
    held_out: tuple[PackedGraphs, Float64[np.ndarray, " h"]]
    validation: tuple[PackedGraphs, Float64[np.ndarray, " j"]]


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
    sizes = EncoderConfig(settings.hidden, settings.layers, settings.embedding, settings.dropout)
    how = PretrainConfig(
        epochs.pretrain, BATCH_RATIO * batch, settings.learning_rate, contrast=CONTRASTS[settings.config]
    )
    encoder = pretraining.pretrain(rows.graphs, rows.spectra, sizes, how, rng, _quietly, device=where)
    members = MembersConfig().lasting(epochs.heads, epochs.pairs, epochs.k_gnn)
    fitted = fitting.fit(
        encoder, rows.graphs, rows.accuracy, ClusteringConfig(sizes, settings.clusters, settings.fuzzifier),
        FitConfig(epochs=epochs.fit, batch=batch, members=members), rng, _quietly, held_out=rows.held_out,
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
