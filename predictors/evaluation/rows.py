"""The labelled files that evaluation knows, and which of their rows count."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from gennape.errors import InvalidDataError
from gennape.predictors.evaluation.protocol import ALL, BenchmarkRows, draw_labelled
from gennape.predictors.model.checkpoint import identity_numbers
from gennape.predictors.proxies.proxies import PROXIES as COMPUTED
from gennape.predictors.proxies.proxies import proxy_scores
from gennape.search_spaces.families.nb201 import OPERATIONS
from gennape.search_spaces.families.registry import family as family_named
from gennape.search_spaces.files.bounded import open_regular
from gennape.search_spaces.graphs.graph import Column, PackedGraphs, concatenate
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.labels.labels import LabelledArchitectures, read_labels, split

#: Zero-cost proxies that a labelled file may hold as columns.
PROXIES = (
    "synflow", "jacov", "fisher", "snip", "grad_norm", "grasp", "nwot", "zen", "epe_nas", "l2_norm", "plain",
)  # fmt: skip
_AT_ONCE = 256
#: Rows of NAS-Bench-101 below this accuracy, in percent, failed to train: the others are a subset of their own.
TRAINED = 80.0
WITH_PROXIES = "with proxies"
#: What evaluation counts on the graph itself.
COSTS = ("flops", "params")


def _without_none(genomes: Int64[np.ndarray, "n g"]) -> Bool[np.ndarray, " n"]:
    return (genomes != OPERATIONS.index("none")).all(1)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A labelled file: the name of its row in reports, its family, the column of its labels (in percent once read; None
    is the usual one), ``keep``, which rows the papers count, ``held_out``, whether only those that are never trained
    on, and ``averaged``, whether the rows of an architecture are trainings of it, whose mean is its label."""

    name: str
    file: str
    family: str
    column: str | None
    keep: Callable[[Int64[np.ndarray, "n g"]], Bool[np.ndarray, " n"]] | None = None
    held_out: bool = False
    averaged: bool = False


BENCHMARKS = (
    Benchmark("nb101", "nb101.csv.gz", "nb101", "val108", held_out=True),
    Benchmark("nb201", "nb201.csv.gz", "nb201", "c10_test200", _without_none),
    Benchmark("nb301", "nb301.csv.gz", "nb301", "acc"),
    Benchmark("proxylessnas", "proxylessnas.csv.gz", "proxylessnas", "acc"),
    Benchmark("ofa_mbv3", "ofa_mbv3_profile.csv.gz", "ofa_mbv3", "acc"),
    Benchmark("ofa_mbv3.csv.gz", "ofa_mbv3.csv.gz", "ofa_mbv3", "acc"),
    Benchmark("ofa_resnet", "ofa_resnet.csv.gz", "ofa_resnet", "acc"),
)
#: Families of the papers that nobody published labels of, and files of labels of one's own, as `gennape label` writes.
UNLABELLED = ("hiaml", "inception", "two_path")
OWN = tuple(Benchmark(f"{name} (own labels)", f"{name}.csv", name, "accuracy", averaged=True) for name in UNLABELLED)


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """The rows of a file that count, in an order of their own; ``left_out`` tells how many do not, by reason."""

    benchmark: Benchmark
    labels: LabelledArchitectures
    left_out: Mapping[str, int]
    sha256: str
    tuned: bool


def learnt_families(provenance: Mapping[str, Any]) -> frozenset[str]:
    """The families whose labels a checkpoint was fitted on, as its provenance says."""
    named = provenance.get("families", provenance.get("family", ()))
    return frozenset([named] if isinstance(named, str) else named)


def read_rows(
    folder: Path, benchmark: Benchmark, learnt: Collection[str], numbers: Int64[np.ndarray, " n"] | None = None
) -> ChosenRows:
    """The rows of a benchmark's file that count.

    Of families that the predictor learnt (``learnt``) count the sampled rows whose architectures had no part in it
    (``numbers``, see :func:`.learnt_numbers`), or, where a checkpoint does not tell them,
    the test part of the split. Of equal architectures one row counts, or the mean of all of them. Rows come in the
    order of their identities, so that nothing depends on that of the file. Raises :class:`InvalidDataError` for an
    unreadable file or row, for a missing column, and for own labels of several recipes or image sets.
    """
    path = folder / benchmark.file
    labels = read_labels(path, family_named(benchmark.family), benchmark.column)
    held_out = benchmark.held_out or benchmark.family in learnt
    left_out = {}
    if held_out:
        labels, left_out["may have been trained on"] = _take(labels, _unseen(labels, numbers))
    if benchmark.keep is not None:
        labels, left_out["not counted by the papers"] = _take(labels, benchmark.keep(labels.genomes))
    if benchmark.averaged:
        _refuse_mixed(path, labels)
        _, which = np.unique(np.array(labels.identity, np.str_), return_inverse=True)
        labels = replace(labels, accuracy=(np.bincount(which, labels.accuracy) / np.bincount(which))[which])
    labels, left_out["the same architecture again"] = _take(labels, _first_of_each(labels))
    with open_regular(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ChosenRows(benchmark, labels, {why: n for why, n in left_out.items() if n}, sha256, not held_out)


def _refuse_mixed(path: Path, labels: LabelledArchitectures) -> None:
    """Labels of several recipes or image sets are no trainings of the same kind, and have no mean."""
    for name in ("recipe", "data"):
        kinds = labels.table[name].nunique(dropna=False) if name in labels.table.columns else 1
        if kinds > 1:
            raise InvalidDataError(
                f"{path}: its rows are of {kinds} kinds of {name}, which cannot be compared; keep those of one"
            )


def _unseen(labels: LabelledArchitectures, numbers: Int64[np.ndarray, " k"] | None) -> Bool[np.ndarray, " n"]:
    if numbers is None or len(numbers) == 0:
        return split(labels) == 2
    return labels.sampled & ~labels.picked & ~np.isin(identity_numbers(labels.identity), numbers)


def _take(
    labels: LabelledArchitectures, rows: Int64[np.ndarray, " k"] | Bool[np.ndarray, " n"]
) -> tuple[LabelledArchitectures, int]:
    kept = labels.take(rows)
    return kept, len(labels.genomes) - len(kept.genomes)


def _first_of_each(labels: LabelledArchitectures) -> Int64[np.ndarray, " k"]:
    identity = np.array(labels.identity, np.str_)
    order = np.lexsort((labels.accuracy, identity))
    return order[np.unique(identity[order], return_index=True)[1]]


def build_rows(chosen: ChosenRows, advance: Callable[[int], None] = lambda _: None) -> BenchmarkRows:
    """Build the graphs of the rows, ``advance`` being told of every few, and find the subsets."""
    benchmark, labels = chosen.benchmark, chosen.labels
    space = family_named(benchmark.family)
    parts = []
    for start in range(0, len(labels.genomes), _AT_ONCE):
        parts.append(space.graphs(labels.genomes[start : start + _AT_ONCE]))
        advance(len(parts[-1]))
    graphs = concatenate(parts)
    columns = {name: _numbers(labels.table[name]) for name in PROXIES if name in labels.table.columns}
    rows = BenchmarkRows(
        benchmark.name, benchmark.file, benchmark.family, labels.identity, graphs, labels.accuracy, {},
        _subsets(graphs, labels.accuracy, benchmark.held_out), chosen.tuned,
    )  # fmt: skip
    return with_proxies(rows, columns)


def with_proxies(rows: BenchmarkRows, columns: Mapping[str, Float64[np.ndarray, " n"]]) -> BenchmarkRows:
    """The rows with more proxies, NaN where unknown. Where any is unknown, the rows that all are known of become a
    subset, so that methods can be compared on the same rows."""
    columns = {**rows.columns, **columns}
    subsets = {name: mask for name, mask in rows.subsets.items() if name != WITH_PROXIES}
    known = np.all([np.isfinite(column) for column in columns.values()], axis=0)
    if columns and not known.all():
        subsets[WITH_PROXIES] = known
    return replace(rows, columns=columns, subsets=subsets)


def computed_proxies(
    rows: BenchmarkRows, count: int, rng: np.random.Generator, advance: Callable[[], None] = lambda: None
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Zero-cost proxies of up to ``count`` rows, those that :func:`draw_labelled` draws last, on random images.

    A name that a column of the file has already gets " (computed)" behind it.
    """
    chosen = draw_labelled(rows.identity, 0, len(rows.identity))[::-1][:count]
    names = [name for name in COMPUTED if name not in COSTS]
    scores = np.full((len(rows.accuracy), len(names)), np.nan)
    seed, wanted = int(rng.integers(2**63)), {name: COMPUTED[name] for name in names}
    for row in chosen:
        one = rows.graphs.take(np.array([row]))
        scores[row] = proxy_scores(one, None, None, np.random.default_rng(seed), wanted)
        advance()
    return {f"{n} (computed)" if n in rows.columns else n: scores[:, i] for i, n in enumerate(names)}


def _numbers(values: pd.Series) -> Float64[np.ndarray, " n"]:
    numbers = pd.to_numeric(pd.Series(list(values)), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _subsets(
    graphs: PackedGraphs, accuracy: Float64[np.ndarray, " n"], failures: bool
) -> dict[str, Bool[np.ndarray, " n"]]:
    """All rows; without ``failures``, those that failed to train; each resolution."""
    subsets = {ALL: np.ones(len(accuracy), bool)}
    if failures and (accuracy < TRAINED).any():
        subsets[f"at least {TRAINED:g} %"] = accuracy >= TRAINED
    resolution = graphs.nodes[graphs.nodes[:, Column.OP] == Op.INPUT, Column.H_OUT]  # one input a graph, in their order
    if len(np.unique(resolution)) > 1:
        subsets |= {f"resolution {r}": resolution == r for r in np.unique(resolution)}
    return subsets
