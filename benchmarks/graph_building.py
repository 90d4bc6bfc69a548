"""Graphs per second that each family builds on one core: ``python benchmarks/graph_building.py``.

The process is pinned to one core and its processor time is counted, so that other work on the machine matters little.
Each round builds fresh genomes, after one population has filled the fragment caches as it does in a search; the median
round is reported. "and hashed" adds the canonical hash by which a search recognises equal networks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.graphs.canonical import canonical_hashes

if TYPE_CHECKING:
    from jaxtyping import Int64

    from gennape.search_spaces.families.space import SearchSpace

WARM_UP = 200


def rate(work: Callable[[Int64[np.ndarray, "n g"]], object], rounds: list[Int64[np.ndarray, "n g"]]) -> float:
    """Genomes per second of processor time in the median round."""
    rates = []
    for genomes in rounds:
        start = time.process_time()
        work(genomes)
        rates.append(len(genomes) / (time.process_time() - start))
    return statistics.median(rates)


def row(space: SearchSpace, graphs: int, rounds: int) -> str:
    """One line of the table."""
    rng = np.random.default_rng(0)
    warm = space.graphs(space.sample(rng, WARM_UP))
    build = rate(space.graphs, [space.sample(rng, graphs) for _ in range(rounds)])
    whole = rate(lambda g: canonical_hashes(space.graphs(g)), [space.sample(rng, graphs) for _ in range(rounds)])
    return f"{space.name:<12} {len(warm.nodes) / WARM_UP:>12.0f} {build:>10,.0f} {whole:>16,.0f}\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=500, help="graphs per round (default 500)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per family (default 7)")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.stdout.write(f"{'family':<12} {'nodes/graph':>12} {'graphs/s':>10} {'and hashed':>16}\n")
    for space in FAMILIES:
        sys.stdout.write(row(space, arguments.graphs, arguments.rounds))


if __name__ == "__main__":
    main()
