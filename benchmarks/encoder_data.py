"""What :mod:`encoders` trains and measures on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from gennape.predictors.encoder.contrastive import Views
from gennape.predictors.encoder.features import GraphBatch, featurize
from gennape.predictors.encoder.settings import GENNAPE
from gennape.predictors.evaluation.protocol import BenchmarkRows, draw_labelled
from gennape.predictors.evaluation.rows import BENCHMARKS, TRAINED, build_rows, read_rows
from gennape.predictors.few_shot.structure import structure
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs.graph import PackedGraphs, concatenate
from gennape.search_spaces.graphs.spectrum import laplacian_spectra
from gennape.search_spaces.labels.labels import read_labels, split

SOURCE = "nb101"
TARGETS = ("nb201", "nb301", "proxylessnas", "ofa_mbv3", "ofa_resnet")

Vector = Float64[np.ndarray, " n"]


@dataclass(frozen=True)
class Budget:
    """What every variant gets: networks of a family and epochs to pretrain on, rows of NAS-Bench-101 and epochs to fit
    on, rows of each family to measure on, draws of labels for each seed, networks in a batch."""

    sample: int = 300
    epochs: int = 3
    training_rows: int = 2000
    fitting_epochs: int = 6
    rows: int = 500
    draws: int = 5
    batch: int = 128


@dataclass(frozen=True)
class LabelledGraphs:
    """Networks with their accuracies in percent."""

    graphs: PackedGraphs
    accuracy: Vector


@dataclass(frozen=True)
class Material:
    """What one seed trains and measures all variants on."""

    pretraining: list[tuple[GraphBatch, Views]]
    training: LabelledGraphs
    measured: LabelledGraphs
    targets: dict[str, tuple[BenchmarkRows, Float64[np.ndarray, "g s"]]]


def read(folder: Path, budget: Budget, seed: int) -> Material:
    """Batches to pretrain on, rows of NAS-Bench-101 to fit on and to measure on, and rows of the other families."""
    space = family(SOURCE)
    labels = read_labels(folder / f"{SOURCE}.csv.gz", space, "val108")
    labels = labels.take(np.argsort(labels.identity))
    part = split(labels)
    pool = labels.take((part == 0) & (labels.accuracy >= TRAINED))
    chosen = pool.take(draw_labelled(pool.identity, seed, budget.training_rows))
    held_out = labels.take(np.flatnonzero(part == 1)[: budget.rows])
    training, measured = (LabelledGraphs(space.graphs(some.genomes), some.accuracy) for some in (chosen, held_out))
    rng = np.random.default_rng([seed, 0])
    sets = []
    for each in FAMILIES:
        if each.name == SOURCE:
            genomes = pool.genomes[rng.choice(len(pool.genomes), budget.sample, replace=False)]
        else:
            genomes = np.unique(each.sample(rng, budget.sample), axis=0)
        sets.append(each.graphs(genomes))
    return Material(list(_contrasted(sets, budget, rng)), training, measured, _targets(folder, budget.rows))


@cache
def _targets(folder: Path, rows: int) -> dict[str, tuple[BenchmarkRows, Float64[np.ndarray, "g s"]]]:
    """The first rows of each other family outside its test part, with their structures."""
    found = {}
    for benchmark in BENCHMARKS:
        if benchmark.name in TARGETS:
            chosen = read_rows(folder, benchmark, ())
            few = chosen.labels.take(np.flatnonzero(split(chosen.labels) != 2)[:rows])
            built = build_rows(replace(chosen, labels=few))
            found[benchmark.name] = built, structure(built.graphs)
    return found


def _contrasted(
    sets: list[PackedGraphs], budget: Budget, rng: np.random.Generator
) -> Iterator[tuple[GraphBatch, Views]]:
    """The batches of all epochs, each network twice."""
    graphs, families = concatenate(sets), np.repeat(np.arange(len(sets)), [len(part) for part in sets])
    spectra = torch.from_numpy(laplacian_spectra(graphs, GENNAPE.eigenvalues)).float()
    for _ in range(budget.epochs):
        order = rng.permutation(len(graphs))
        for i in range(len(graphs) // budget.batch):
            rows = np.tile(order[i * budget.batch : (i + 1) * budget.batch], 2)
            views = Views(torch.from_numpy(rows), torch.from_numpy(families[rows]), spectra[rows])
            yield featurize(graphs.take(rows)), views
