"""Whether chosen labels teach more than random ones: ``python benchmarks/active_selection.py --data DIR``.

DIR holds labelled files as ``gennape evaluate`` takes them. Of each family, networks are drawn as a user would sample
them; 50 are labelled, drawn at random or by ``FuzzyEnsemble.select_informative``, and all other rows are predicted.
Both see the same drawn networks. Figures are means over draws of Spearman's rank correlation, and of what selection
adds, with standard errors.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import numpy as np

from gennape.predictors.evaluation.files import benchmarks_in
from gennape.predictors.evaluation.protocol import BenchmarkRows
from gennape.predictors.evaluation.rows import build_rows, read_rows
from gennape.predictors.metrics import srcc
from gennape.predictors.model.checkpoint import learnt_numbers, load_pretrained
from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble


def compare(
    predictor: FuzzyEnsemble, rows: BenchmarkRows, labels: int, pool: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Rank correlations after labels drawn at random and after chosen ones, on one draw of ``pool`` networks."""
    drawn = rng.permutation(len(rows.accuracy))[:pool]
    found = []
    for labelled in (drawn[:labels], drawn[predictor.select_informative(rows.graphs.take(drawn), labels)]):
        rest = np.setdiff1d(np.arange(len(rows.accuracy)), labelled)
        tuned = copy.copy(predictor).fit(rows.graphs.take(labelled), rows.accuracy[labelled])
        found.append(srcc(rows.accuracy[rest], tuned.predict(rows.graphs).accuracy[rest]))
    return found[0], found[1]


def main() -> None:
    """Print a row per file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled files")
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--pool", type=int, default=1000, help="networks to choose among")
    parser.add_argument("--draws", type=int, default=10)
    a = parser.parse_args()
    predictor = load_pretrained()
    sys.stdout.write("| family | random | chosen | chosen - random |\n|---|---:|---:|---:|\n")
    for benchmark in benchmarks_in(a.data)[1]:
        chosen = read_rows(a.data, benchmark, {"nb101"}, learnt_numbers())
        if not chosen.tuned:
            continue
        rows = build_rows(chosen, lambda _: None)
        if len(rows.accuracy) < 2 * a.labels:
            continue
        found = np.array([compare(predictor, rows, a.labels, a.pool, np.random.default_rng(s)) for s in range(a.draws)])
        gain = found[:, 1] - found[:, 0]
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        means = " | ".join(f"{value:.4f}" for value in found.mean(0))
        sys.stdout.write(f"| {benchmark.name} | {means} | {gain.mean():+.4f} ± {error:.4f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
