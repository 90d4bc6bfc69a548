"""What fronts are worth by labels that the predictor has not seen: hypervolume, bias, deviations, best networks.

The oracle of a family is a regression on every second row of its public labels, a predictor that uses these labels is
calibrated on the other rows. A search runs in this process.

    python benchmarks/search_oracle.py --data FOLDER [--predictor calibrated zero-shot tuned] [--space ofa_mbv3 ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import moocore
import numpy as np
from calibrate import PUBLIC, calibration_of
from jaxtyping import Float64, Int64

from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.predictors.calibration.calibration import Calibration
from gennape.predictors.evaluation.protocol import draw_labelled
from gennape.predictors.model.checkpoint import load_checkpoint
from gennape.predictors.predictor import Prediction, Predictor
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.graph import PackedGraphs
from gennape.search_spaces.graphs.normal_form import normal_form
from gennape.search_spaces.labels.labels import read_labels

SPACES = ("ofa_mbv3", "ofa_resnet", "proxylessnas")
LIMIT = 600e6  # FLOPs, which are 2 x MACs
LABELS = 50


class Oracle:
    """The truth of a family, as a predictor of its networks."""

    sha256 = "oracle"

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """True accuracies."""
        accuracy, found = self.calibration.predict(normal_form(graphs))
        return Prediction(np.where(found, accuracy, np.nan), np.ones((len(graphs), 1)))


@dataclass(frozen=True, slots=True)
class Truth:
    """The oracle of a family and the front that a long search on it finds, as (error, FLOPs) to minimise."""

    oracle: Calibration
    reference: Float64[np.ndarray, "n 2"]

    def share(self, points: Float64[np.ndarray, "n 2"]) -> float:
        """The hypervolume of a front as a share of the reference's, up to the corner of the reference."""
        return _hypervolume(points, self.reference) / _hypervolume(self.reference, self.reference)


def _hypervolume(points: Float64[np.ndarray, "n 2"], reference: Float64[np.ndarray, "n 2"]) -> float:
    low, high = reference.min(0), reference.max(0)
    return float(moocore.hypervolume((points - low) / (high - low), ref=np.array([1.0, 1.0])))


@dataclass(frozen=True, slots=True)
class Front:
    """A front: genomes, predicted accuracy and deviation, and FLOPs."""

    genomes: Int64[np.ndarray, "n k"]
    accuracy: Float64[np.ndarray, " n"]
    deviation: Float64[np.ndarray, " n"]
    flops: Float64[np.ndarray, " n"]


def search(space: str, predictor: Predictor | Oracle, evaluations: int, seed: int, **settings: int) -> Front:
    """The front that a search finds by the predictor."""
    config = search_config(space=space, evaluations=evaluations, seed=seed, **settings)
    with tempfile.TemporaryDirectory() as folder:
        front = run_search(config, Path(folder), LocalIslands(config, predictor)).front
    known = family(space)
    genomes = np.array([known.decode(json.loads(text)) for text in front["architecture"]])
    deviation = front["deviation"] if "deviation" in front else np.full(len(front), np.nan)
    return Front(genomes, front["accuracy"].to_numpy(), np.asarray(deviation), front["flops"].to_numpy(np.float64))


def truth_of(space: str, folder: Path, evaluations: int) -> Truth:
    """The oracle of a family, and its front."""
    oracle = calibration_of(space, folder, 0)
    _say(f"{space}: oracle's Spearman on rows kept aside {oracle.record.srcc:.4f}")
    front = search(space, Oracle(oracle), evaluations, 0, islands=1, population=200)
    return Truth(oracle, np.stack([100 - front.accuracy, front.flops], axis=1))


def measures(front: Front, truth: Truth) -> dict[str, float]:
    """The figures of one front."""
    true = truth.oracle.accuracy(front.genomes)
    error, within = front.accuracy - true, front.flops <= LIMIT
    inside = np.abs(error) <= front.deviation
    return {
        "hypervolume": truth.share(np.stack([100 - true, front.flops], axis=1)),
        "bias": float(error.mean()),
        "within": float(inside.mean()) if np.isfinite(front.deviation).any() else np.nan,
        "deviation": float(front.deviation.mean()),
        "size": len(front.flops),
        "best": float(true[np.argmax(front.accuracy)]),
        "best <= 600 M": float(true[within][np.argmax(front.accuracy[within])]) if within.any() else np.nan,
    }


def tuned(space: str, oracle: Calibration, seed: int, n: int = LABELS) -> Predictor:
    """The zero-shot predictor after labels of random networks, by the oracle."""
    known = family(space)
    genomes = known.sample(np.random.default_rng([seed, n]), n)
    return load_checkpoint(zero_shot=True).fit(known.graphs(genomes), oracle.accuracy(genomes))


def tuned_on_rows(space: str, folder: Path, seed: int, n: int = LABELS) -> Predictor:
    """The same after rows of the family's file, which may leave out a part of the space."""
    public = PUBLIC[space]
    rows = read_labels(folder / public.file, space, public.column)
    rows = rows.take(draw_labelled(rows.identity, seed, n))
    return load_checkpoint(zero_shot=True).fit(family(space).graphs(rows.genomes), rows.accuracy)


def predictors(space: str, folder: Path, oracle: Calibration) -> dict[str, Callable[[int], Predictor | Oracle]]:
    """What is compared, by name, each made for a seed."""

    def calibrated(_: int) -> Predictor:
        predictor = load_checkpoint()
        predictor.calibrations = (calibration_of(space, folder, 1),)
        return predictor

    return {
        "oracle": lambda _: Oracle(oracle),
        "calibrated": calibrated,
        "zero-shot": lambda _: load_checkpoint(zero_shot=True),
        "tuned": lambda seed: tuned(space, oracle, seed),
        "tuned-rows": lambda seed: tuned_on_rows(space, folder, seed),
    }


def rows(options: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Mean figures of each predictor on each space."""
    for space in options.space:
        truth = truth_of(space, options.data, options.reference)
        for name in options.predictor:
            make = predictors(space, options.data, truth.oracle)[name]
            found = [
                measures(search(space, make(seed), options.evaluations, seed, islands=options.islands), truth)
                for seed in range(options.first, options.first + options.seeds)
            ]
            yield space, name, {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Print a row for each predictor and space."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--data", type=Path, required=True, help="folder of the labelled files")
    given.add_argument("--space", nargs="+", choices=SPACES, default=list(SPACES))
    given.add_argument("--predictor", nargs="+", default=["calibrated", "zero-shot", "tuned"])
    given.add_argument("--evaluations", type=int, default=5000)
    given.add_argument("--reference", type=int, default=20_000, help="evaluations of the search on the oracle")
    given.add_argument("--seeds", type=int, default=3)
    given.add_argument("--first", type=int, default=0, help="first seed")
    given.add_argument("--islands", type=int, default=2)
    for space, name, values in rows(given.parse_args()):
        _say(f"{space:<13}{name:<11}" + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
