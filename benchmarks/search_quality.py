"""How good fronts are at equal evaluations: ``python benchmarks/search_quality.py --cache FOLDER``.

Searches of several variants run one after another in this process, zero-shot with the shipped predictor. A variant is
``NAME`` or ``NAME:key=value,key=value`` with settings of a search, such as ``two:islands=2,population=100``. Results
are cached per variant name, space and seed, so that the command goes on where it stopped; give a changed variant
another name, or remove its folder.

Predicted hypervolume: of the objectives accuracy and FLOPs, each scaled to 0..1 between the best and the worst value
among all networks that any variant evaluated on the space, with the worst values as reference point. The table gives it
in percent more than that of ``random``, mean over seeds, and by its standard error behind it.

``--labels DIR`` adds the true hypervolume on ofa_mbv3, ofa_resnet and proxylessnas: of the front as it is predicted, at
the accuracies of the oracle of search_oracle.py, as a share of that of a front that a long search finds on the oracle.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import moocore
import numpy as np
from jaxtyping import Float64, Int64

from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.evaluator import Evaluator
from gennape.platform.search.islands import LocalIslands
from gennape.predictors.model.checkpoint import load_pretrained
from gennape.search_spaces.families.registry import FAMILIES

BASELINE = "random"
VARIANTS = (
    "random:searcher=random,islands=1",
    "nsga2:searcher=nsga2,islands=2",
    "one island:searcher=sms_emoa,islands=1",
    "two islands:searcher=sms_emoa,islands=2",
    "eight islands:searcher=sms_emoa,islands=8",
)
LABELLED = ("ofa_mbv3", "ofa_resnet", "proxylessnas")
REFERENCE_EVALUATIONS = 20_000  # of the search on the oracle, as in search_oracle.py

Points = Float64[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Run:
    """Every network that a search evaluated: its genome, and accuracy and FLOPs, both to be minimised."""

    genomes: Int64[np.ndarray, "n g"]
    points: Points
    seconds: float

    @property
    def front(self) -> np.ndarray:
        """Rows of the predicted front."""
        rows: np.ndarray = np.flatnonzero(moocore.is_nondominated(self.points))
        return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of finished searches")
    parser.add_argument("--spaces", nargs="+", default=[space.name for space in FAMILIES])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=5000)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help="NAME or NAME:key=value,...")
    parser.add_argument("--labels", type=Path, help="folder of labelled architectures, for true hypervolumes")
    options = parser.parse_args(arguments)
    variants = [read_variant(text) for text in options.variants]
    names = [name for name, _ in variants]
    if BASELINE not in names:
        parser.error(f"one variant must be called {BASELINE}, which the others are compared with")
    runs = {
        space: {name: searches(options, space, name, settings) for name, settings in variants}
        for space in options.spaces
    }
    say(f"predicted hypervolume over {BASELINE}, percent; {options.evaluations} evaluations, {options.seeds} seeds")
    table(names, ((space, predicted(runs[space])) for space in options.spaces))
    if options.labels:
        say("true hypervolume of the predicted front / that of a reference front")
        known = [space for space in options.spaces if space in LABELLED]
        table(names, ((space, true(runs[space], space, options)) for space in known), "{:.4f}")


def read_variant(text: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of ``NAME:key=value,key=value``."""
    name, _, rest = text.partition(":")
    pairs = [part.split("=", 1) for part in rest.split(",") if part]
    return name, {key: int(value) if value.isdigit() else value for key, value in pairs}


def searches(options: argparse.Namespace, space: str, name: str, settings: dict[str, Any]) -> list[Run]:
    """The runs of a variant on a space, one per seed, from the cache where they are there."""
    folder = options.cache / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(options.seeds):
        path = folder / f"{space}-{options.evaluations}-{seed}.npz"
        if not path.is_file():
            config = {"space": space, "seed": seed, "evaluations": options.evaluations, **settings}
            run = search(config, predictor())
            np.savez(path, genomes=run.genomes, points=run.points, seconds=run.seconds)
            say(f"{name} {space} seed {seed}: {len(run.points)} networks in {run.seconds:.1f} s", sys.stderr)
        with np.load(path) as stored:
            runs.append(Run(stored["genomes"], stored["points"], float(stored["seconds"])))
    return runs


@cache
def predictor() -> Evaluator:
    """The shipped predictor."""
    return load_pretrained(zero_shot=True)


def search(settings: dict[str, Any], evaluator: Evaluator) -> Run:
    """Run one search in this process."""
    config = search_config(**settings)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = run_search(config, Path(folder), LocalIslands(config, evaluator))
        seconds = time.perf_counter() - began
        rows = result.evaluations[np.isfinite(result.evaluations["accuracy"])]
    points = np.stack([-rows["accuracy"].to_numpy(np.float64), rows["flops"].to_numpy(np.float64)], axis=1)
    return Run(np.array(rows["genome"].tolist(), np.int64), points, seconds)


def hypervolume(points: Points, best: Float64[np.ndarray, " 2"], worst: Float64[np.ndarray, " 2"]) -> float:
    """Of points that are scaled to 0..1 between the best and the worst values."""
    return float(moocore.hypervolume((points - best) / (worst - best), ref=np.ones(2)))


def predicted(runs: dict[str, list[Run]]) -> dict[str, np.ndarray]:
    """Predicted hypervolume of every run, in percent more than the mean of the baseline."""
    points = np.concatenate([run.points for group in runs.values() for run in group])
    best, worst = points.min(0), points.max(0)
    volumes = {name: np.array([hypervolume(run.points, best, worst) for run in group]) for name, group in runs.items()}
    return {name: 100 * (each / volumes[BASELINE].mean() - 1) for name, each in volumes.items()}


def true(runs: dict[str, list[Run]], space: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """True hypervolume of the predicted front of every run, as a share of that of the oracle's front."""
    from search_oracle import truth_of  # noqa: PLC0415 (it needs files of labels, other tables do not)

    truth = truth_of(space, options.labels, REFERENCE_EVALUATIONS)

    def share(run: Run) -> float:
        errors = 100 - truth.oracle.accuracy(run.genomes[run.front])
        return truth.share(np.stack([errors, run.points[run.front, 1]], axis=1))

    return {name: np.array([share(run) for run in group]) for name, group in runs.items()}


def table(names: Sequence[str], rows: Iterable[tuple[str, dict[str, np.ndarray]]], form: str = "{:+.2f}") -> None:
    """One line per space, mean and standard error per variant."""
    width = max(16, *(len(name) + 2 for name in names))
    say(f"{'':14s}" + "".join(f"{name:>{width}s}" for name in names))
    for space, values in rows:
        cells = []
        for each in (values[name] for name in names):
            error = each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else 0.0
            cells.append(f"{form.format(round(each.mean(), 9) + 0.0)} ({error:.2g})")
        say(f"{space:14s}" + "".join(f"{cell:>{width}s}" for cell in cells))


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line at once."""
    print(line, file=stream or sys.stdout, flush=True)


if __name__ == "__main__":
    main()
