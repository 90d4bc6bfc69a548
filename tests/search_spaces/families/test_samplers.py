"""Samplers against the distributions that are described of them (families' specification, sections 4 to 9).

Every comparison has a false alarm rate of at most 1e-6, from the number of samples: frequencies are compared by exact
binomial tails, shared out among the values compared; published quantiles by the distribution that the rank of another
sample's order statistic has whatever the common distribution is (beta-binomial); means by their standard error. Seeds
are fixed, so a test that passes does so every time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gennape.search_spaces.families import inception, ofa_resnet, ofa_units, two_path
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs import cost

STATISTICS = Path(__file__).parents[3].parent / "shared" / "fixtures" / "sampler_stats.json"
FALSE_ALARM = 1e-6
N = 20_000
THIRDS = dict.fromkeys(range(3), 1 / 3)


def _uniform(n: int) -> dict[Any, float]:
    return dict.fromkeys(range(n), 1 / n)


def _agree(values: np.ndarray, probabilities: Mapping[Any, float]) -> None:
    """Values are drawn with these probabilities, which sum to one; rows of a matrix are tuples."""
    assert math.isclose(sum(probabilities.values()), 1)
    drawn, counts = np.unique(values, axis=0, return_counts=True)
    keys = [tuple(row) for row in drawn.tolist()] if drawn.ndim > 1 else drawn.tolist()
    found = dict(zip(keys, counts.tolist(), strict=True))
    assert set(found) <= set(probabilities)
    share = FALSE_ALARM / len(probabilities)
    for key, p in probabilities.items():
        count = found.get(key, 0)
        tail = 2 * min(stats.binom.cdf(count, len(values), p), stats.binom.sf(count - 1, len(values), p))
        assert tail > share, f"{key}: {count} of {len(values)}, expected {p * len(values):.0f}"


def _genomes(name: str, seed: int = 0) -> np.ndarray:
    return family(name).sample(np.random.default_rng(seed), N)


# The families with uniform genes --------------------------------------------------------------------------------------


def test_hiaml() -> None:
    genomes = _genomes("hiaml")
    for stage in range(4):
        _agree(genomes[:, stage], _uniform(14))
    _agree(genomes[:, :2], {(a, b): 1 / 196 for a in range(14) for b in range(14)})


@pytest.mark.parametrize("name", ["proxylessnas", "ofa_mbv3"])
def test_ofa_units(name: str) -> None:
    """Depths, expansions, kernels are uniform and independent, resolutions uniform over the studied ones."""
    genomes = _genomes(name)
    _agree(np.array(ofa_units.RESOLUTIONS)[genomes[:, 0]], dict.fromkeys((192, 208, 224), 1 / 3))
    for unit in range(5):
        _agree(genomes[:, 1 + unit], THIRDS)
        for layer in range(4):
            present = genomes[genomes[:, 1 + unit] + 2 > layer]
            _agree(present[:, 6 + 4 * unit + layer], _uniform(9))
    _agree(genomes[:, 1:3], {(a, b): 1 / 9 for a in range(3) for b in range(3)})
    _agree(genomes[:, [6, 7]], {(a, b): 1 / 81 for a in range(9) for b in range(9)})
    if name == "proxylessnas":
        _agree(genomes[:, 26], _uniform(9))


def test_ofa_resnet() -> None:
    """Every field uniform; the two stem widths that are alike count as one."""
    genomes = _genomes("ofa_resnet")
    _agree(np.array(ofa_units.RESOLUTIONS)[genomes[:, 0]], dict.fromkeys((192, 208, 224), 1 / 3))
    _agree(genomes[:, 1], _uniform(2))
    for field in (*range(2, 6), *range(7, 12)):
        _agree(genomes[:, field], THIRDS)
    _agree(genomes[:, 6], {0: 2 / 3, 2: 1 / 3})
    for unit in range(4):
        for block in range(ofa_resnet.SLOTS[unit]):
            present = genomes[genomes[:, 2 + unit] + ofa_resnet.BASE_DEPTHS[unit] > block]
            _agree(present[:, 12 + ofa_resnet.STARTS[unit] + block], THIRDS)


# The families with samplers of their own ------------------------------------------------------------------------------


def _agree_on_lists(ops: np.ndarray, length: int, n_conv: int, n_supp: int) -> None:
    """Lists of one length: one convolution, further draws from all, a second supplementary one redrawn, shuffled."""
    supp = ops >= n_conv
    # None in length - 1 draws, or, each place being as likely, the one at a given place.
    none = (n_conv / (n_conv + n_supp)) ** (length - 1)
    assert (supp.sum(1) <= 1).all()
    place = np.where(supp.any(1), supp.argmax(1), -1)
    expected = {-1: none} | (dict.fromkeys(range(length), (1 - none) / length) if length > 1 else {})
    _agree(place, expected)
    for i in range(length):
        _agree(ops[~supp[:, i], i], _uniform(n_conv))
        if length > 1:
            _agree(ops[supp[:, i], i] - n_conv, _uniform(n_supp))


def test_two_path() -> None:
    paths = _genomes("two_path").reshape(N, 2, 18)
    _agree(paths[:, :, 0], {(a, b): 1 / 9 for a in range(3) for b in range(3)})
    for gene, pairs in enumerate((1, 3, 6)):
        for path in range(2):
            _agree(paths[paths[:, path, 0] == gene, path, 1], _uniform(pairs))
    blocks = paths[:, :, 2:].reshape(2 * N, 4, 4)
    n_blocks = paths[:, :, 0].reshape(2 * N) + 2
    for j in range(4):
        present = blocks[n_blocks > j, j]
        _agree(present[:, 0], THIRDS)
        for length in (1, 2, 3):
            lists = present[present[:, 0] == length - 1, 1 : 1 + length]
            _agree_on_lists(lists, length, len(two_path.CONV), len(two_path.SUPP))


def test_inception_paths() -> None:
    """Stages are alike, so one is looked at in full and the others at their heads."""
    stages = _genomes("inception").reshape(N, 4, 27)
    for stage in range(4):
        _agree(stages[:, stage, :2], {(a, b): 1 / 20 for a in range(5) for b in range(4)})
        three = stages[stages[:, stage, 1] == 2, stage, 2]
        # The first stage's paths all have the least number of channels, whichever is wide.
        _agree(three, THIRDS if stage else {0: 1.0})
    paths = stages[:, 3, 3:].reshape(N, 4, 6)
    for n_paths, shortest in ((1, 1), (2, 1), (3, 2), (4, 2)):
        present = paths[stages[:, 3, 1] == n_paths - 1, :n_paths]
        _agree(present[:, :, 0], _spares(n_paths))
        for length in range(shortest, shortest + 3):
            lists = present[present[:, :, 0] == length - shortest, 1 : 1 + length]
            _agree_on_lists(lists, length, len(inception.CONV), len(inception.SUPP))


def _spares(n_paths: int) -> dict[tuple[int, ...], float]:
    """Operations beyond the shortest, path by path: each uniform over what the paths before it left of two."""
    found = {(): 1.0}
    for _ in range(n_paths):
        found = {(*taken, more): p / (3 - sum(taken)) for taken, p in found.items() for more in range(3 - sum(taken))}
    return found


def test_inception_channels() -> None:
    """Internal channels: same .6, half .3, double .1, where two operations can set them; half of 16 is 16."""
    genomes = _genomes("inception")
    space = family("inception")
    for genome in genomes[:50]:
        assert np.array_equal(space.decode(space.encode(genome)), genome)
    stages = genomes.reshape(N, 4, 27)
    lengths = np.array(inception.SHORTEST)[stages[:, :, 1], None] + stages[:, :, 3:].reshape(N, 4, 4, 6)[..., 0]
    paths = stages[:, :, 3:].reshape(N, 4, 4, 6)
    used = (np.arange(4) <= stages[:, :, 1, None])[..., None] & (np.arange(4) < lengths[..., None])
    pools = [inception.NAMES.index(name) for name in ("avgpool3x3", "maxpool3x3")]
    capable = (used & ~np.isin(paths[..., 1:5], pools)).sum(-1)
    ratios = paths[..., 5]
    _agree(ratios[:, 3][capable[:, 3] > 1], {0: 0.6, 1: 0.3, 2: 0.1})
    _agree(ratios[:, 0, 1:][capable[:, 0, 1:] > 1], {0: 0.9, 2: 0.1})
    assert (ratios[capable < 2] == 0).all()


# Sizes of the networks that the published samplers drew ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["hiaml", "inception", "two_path"])
def test_sizes_of_networks(name: str) -> None:
    if not STATISTICS.exists():
        pytest.skip("the published samplers' statistics are not beside this checkout")
    published = json.loads(STATISTICS.read_text())[name]
    space = family(name)
    graphs = space.graphs(space.sample(np.random.default_rng(1), 800))
    n = published["n"]
    for key, sizes in (("macs_M", cost.macs(graphs) / 1e6), ("params_M", cost.params(graphs) / 1e6)):
        given = published[key]
        for rank, value in ((1, given["min"]), (n, given["max"])):
            _rank_agrees(sizes, value, n, rank, rank)
        for q in (5, 95):
            if f"p{q}" in given:
                # Interpolated between two order statistics.
                rank = 1 + math.floor(q / 100 * (n - 1))
                _rank_agrees(sizes, given[f"p{q}"], n, rank, rank + 1)
        error = sizes.std() * math.sqrt(1 / n + 1 / len(sizes))
        assert abs(sizes.mean() - given["mean"]) < stats.norm.isf(FALSE_ALARM / 2) * error


def _rank_agrees(sizes: np.ndarray, value: float, n: int, lowest: int, highest: int) -> None:
    """A value between two order statistics of a sample of n, both counted from 1, against our sample.

    How many of ours lie below the k-th of n follows, if both are of one distribution, a beta-binomial law with
    parameters k and n + 1 - k; equal values leave the count between "below" and "not above".
    """
    low = stats.betabinom.ppf(FALSE_ALARM / 2, len(sizes), lowest, n + 1 - lowest)
    high = stats.betabinom.isf(FALSE_ALARM / 2, len(sizes), highest, n + 1 - highest)
    assert (sizes <= value + 1e-9).sum() >= low
    assert (sizes < value - 1e-9).sum() <= high
