"""Conformance suite for searchers, and a synthetic predictor to run searches without a trained one.

from gennape.platform.search.searchers.testing import CHECKS

@pytest.mark.parametrize("check", CHECKS)
def test_my_searcher(check):
    check(MySearcher, space, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import InvalidDataError
from gennape.predictors.predictor import Prediction, Predictor
from gennape.search_spaces.families.nb201 import NasBench201
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float64, Int64

    from gennape.platform.search.searchers.base import Searcher
    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.graphs.graph import PackedGraphs

    Check = Callable[[type[Searcher], SearchSpace, int], None]

POPULATION = 12


class SyntheticPredictor(Predictor):
    """Accuracy by a formula: grows with FLOPs, falls with the variance of kernel sizes. Two synthetic clusters."""

    sha256 = "0" * 64

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Predict each graph independently of the others."""
        size = np.log10(cost.flops(graphs).astype(np.float64) + 1)
        kernels = graphs.nodes[:, Column.KERNEL_H].astype(np.float64)
        owner, count = graphs.graph_index, np.diff(graphs.node_offsets)
        mean = np.bincount(owner, kernels, len(graphs)) / count
        spread = np.bincount(owner, kernels**2, len(graphs)) / count - mean**2
        first = 1 / (1 + np.exp(8.5 - size))
        return Prediction(100 * first - spread, np.stack([first, 1 - first], axis=1))


def toy_objectives(genomes: Int64[np.ndarray, "n g"]) -> Float64[np.ndarray, "n 2"]:
    """Two conflicting objectives of a genome, to be minimised."""
    weights = np.arange(1, genomes.shape[1] + 1)
    return np.stack([genomes @ weights, -(genomes @ weights[::-1])], axis=1).astype(np.float64)


def check_genomes_are_valid(kind: type[Searcher], space: SearchSpace, seed: int) -> None:
    """Asked genomes lie in the space, are canonical and not more than the population."""
    searcher = _new(kind, space, seed)
    for _ in range(4):
        genomes = searcher.ask()
        space.validate(genomes)
        _require(genomes.dtype == np.int64, f"genomes must be int64, got {genomes.dtype}")
        _require(0 < len(genomes) <= POPULATION, f"asked {len(genomes)} genomes of a population of {POPULATION}")
        _require(np.array_equal(space.canonical(genomes), genomes), "asked genomes must be canonical")
        searcher.tell(genomes, toy_objectives(genomes))


def check_seed_decides(kind: type[Searcher], space: SearchSpace, seed: int) -> None:
    """Two searchers of one seed ask the same, and numpy's global generator plays no part."""
    first = _run(_new(kind, space, seed), 4)
    np.random.default_rng().random()
    second = _run(_new(kind, space, seed), 4)
    _require(np.array_equal(first, second), "the same seed must give the same genomes")


def check_resume_equals_uninterrupted(kind: type[Searcher], space: SearchSpace, seed: int) -> None:
    """A searcher restored from its state, before the first tell or later, continues bit for bit."""
    for stop in range(5):
        uninterrupted = _new(kind, space, seed)
        _run(uninterrupted, stop)
        state = uninterrupted.state()
        _require(all(a.dtype != object for a in state.values()), "state must be plain arrays: no objects, no pickle")
        resumed = _new(kind, space, seed + 1)
        resumed.restore({key: array.copy() for key, array in state.items()})
        expected, got = _run(uninterrupted, 10), _run(resumed, 10)
        same = np.array_equal(expected, got)
        _require(
            same,
            f"restored after {stop} generations, it must ask the same genomes; state must hold all that the future "
            "depends on, and restore call super().restore(state)",
        )


def check_state_is_a_snapshot(kind: type[Searcher], space: SearchSpace, seed: int) -> None:
    """A state taken earlier does not change when the searcher goes on."""
    searcher = _new(kind, space, seed)
    _run(searcher, 2)
    state = searcher.state()
    before = {key: array.copy() for key, array in state.items()}
    _run(searcher, 2)
    for key, array in before.items():
        _require(np.array_equal(array, state[key]), f"state[{key!r}] changed after it was taken")


def check_subsets_and_immigrants(kind: type[Searcher], space: SearchSpace, seed: int) -> None:
    """It can be told nothing or a part of what it asked, and takes immigrants at any time."""
    searcher = _new(kind, space, seed)
    strangers = space.sample(np.random.default_rng(seed), 3)
    searcher.tell(strangers[:0], toy_objectives(strangers[:0]))
    searcher.immigrate(strangers, toy_objectives(strangers))
    for part in (1, 5, 0, POPULATION):
        genomes = searcher.ask()[:part]
        searcher.tell(genomes, toy_objectives(genomes))
        searcher.immigrate(strangers, toy_objectives(strangers))
    space.validate(searcher.ask())


def check_non_finite_is_refused(kind: type[Searcher], space: SearchSpace, seed: int) -> None:
    """An objective that is NaN or infinite is refused, whether told or brought by immigrants."""
    for bad in (np.nan, np.inf, -np.inf):
        searcher = _new(kind, space, seed)
        genomes = searcher.ask()
        objectives = toy_objectives(genomes)
        objectives[1, 1] = bad
        for take in (searcher.tell, searcher.immigrate):
            try:
                take(genomes, objectives)
            except InvalidDataError:
                continue
            raise AssertionError(f"{kind.name}.{take.__name__} must refuse an objective that is {bad}")


def check_searcher(kind: type[Searcher], space: SearchSpace | None = None, seed: int = 0) -> None:
    """Run every check once, on ``space`` or a small one; raises AssertionError that names what failed."""
    for check in CHECKS:
        check(kind, NasBench201() if space is None else space, seed)


CHECKS: tuple[Check, ...] = (
    check_genomes_are_valid,
    check_seed_decides,
    check_resume_equals_uninterrupted,
    check_state_is_a_snapshot,
    check_subsets_and_immigrants,
    check_non_finite_is_refused,
)


def _new(kind: type[Searcher], space: SearchSpace, seed: int) -> Searcher:
    return kind(space, 2, POPULATION, np.random.default_rng(seed))


def _run(searcher: Searcher, generations: int) -> Int64[np.ndarray, "n g"]:
    """All genomes asked in some generations."""
    asked = [np.zeros((0, len(searcher.space.genes)), np.int64)]
    for _ in range(generations):
        asked.append(searcher.ask())
        searcher.tell(asked[-1], toy_objectives(asked[-1]))
    return np.concatenate(asked)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
