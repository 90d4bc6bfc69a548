"""SMS-EMOA keeps those that add most to the volume of their front, whatever the scales and penalties."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.searchers.nsga2 import NSGA2
from gennape.platform.search.searchers.sms_emoa import SmsEmoa, contributions, truncate
from gennape.platform.search.searchers.testing import POPULATION, SyntheticPredictor, toy_objectives
from gennape.search_spaces.families.registry import family


def front(seed, n, m):
    """Points of a sphere's positive part, none of which dominates another."""
    points = np.abs(np.random.default_rng(seed).normal(size=(n, m)))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_contributions_of_a_staircase_are_its_rectangles():
    points = np.array([[0.0, 10.0], [1.0, 6.0], [2.0, 5.0], [4.0, 0.0]])
    # Scaled by 4 and 10: (0.25 wide, 0.4 high) and (0.5 wide, 0.1 high).
    assert contributions(points) == pytest.approx([np.inf, 0.25 * 0.4, 0.5 * 0.1, np.inf])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 30))
def test_inner_contributions_are_what_the_hypervolume_loses(seed, n):
    points = front(seed, n, 2)
    scaled = (points - points.min(0)) / (points.max(0) - points.min(0))
    whole = moocore.hypervolume(scaled, ref=[1, 1])
    lost = [whole - moocore.hypervolume(np.delete(scaled, i, 0), ref=[1, 1]) for i in range(n)]
    inner = np.isfinite(contributions(points))
    assert inner.sum() == n - 2
    np.testing.assert_allclose(contributions(points)[inner], np.array(lost)[inner], atol=1e-12)


def test_equal_points_leave_first():
    points = np.array([[0.0, 9.0], [3.0, 5.0], [3.0, 5.0], [5.0, 4.0], [9.0, 0.0]])
    kept = truncate(points, np.arange(5), 4)
    assert len(np.unique(points[kept], axis=0)) == 4


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_a_truncated_front_is_a_part_of_it_and_spreads_better_than_chance(m):
    points = front(1, 60, m)
    kept = truncate(points, np.arange(60), 12)
    assert len(set(kept.tolist())) == 12
    chance = [np.random.default_rng(i).permutation(60)[:12] for i in range(20)]
    volumes = [moocore.hypervolume(points[rows], ref=np.full(m, 1.1)) for rows in (kept, *chance)]
    assert volumes[0] > np.mean(volumes[1:])


def test_penalties_neither_set_the_scale_nor_stay():
    points = front(2, 20, 2)
    penalised = np.array([[1e30, -5.0], [-5.0, 1e31]])  # ends of the front, were they not penalised
    both = np.concatenate([points, penalised])
    assert set(truncate(both, np.arange(22), 10)) == set(truncate(points, np.arange(20), 10))
    assert contributions(both)[20] > contributions(both)[21]


@pytest.mark.parametrize("kind", [NSGA2, SmsEmoa], ids=lambda kind: kind.name)
def test_most_penalised_networks_do_not_keep_a_search_from_its_front(kind):
    """Of nine tenths of a space only penalties are told; the population leaves it."""
    space = family("ofa_mbv3")

    def told(genomes):
        values = toy_objectives(genomes)
        return np.where((genomes[:, 6:].sum(1) > 70)[:, None], 1e30 + values, values)

    searcher = kind(space, 2, 40, np.random.default_rng(0))
    for _ in range(30):
        genomes = searcher.ask()
        searcher.tell(genomes, told(genomes))
    values = searcher.state()["objectives"]
    assert (values < 1e20).all()
    assert len(np.unique(values, axis=0)) > 30


@pytest.mark.parametrize("kind", [NSGA2, SmsEmoa], ids=lambda kind: kind.name)
def test_a_batch_is_what_is_asked_and_the_population_what_is_kept(kind):
    searcher = kind(family("ofa_mbv3"), 2, POPULATION, np.random.default_rng(0))
    searcher.batch = 5
    kept = []
    for _ in range(6):
        genomes = searcher.ask()
        assert len(genomes) == 5
        searcher.tell(genomes, toy_objectives(genomes))
        kept.append(len(searcher.state()["genomes"]))
    assert kept == [5, 10, 12, 12, 12, 12]


@pytest.mark.parametrize("kind", [NSGA2, SmsEmoa], ids=lambda kind: kind.name)
def test_a_nearly_used_up_space_is_sampled_and_a_restored_searcher_knows(kind):
    space = family("nb201")
    searcher, other = (kind(space, 2, POPULATION, np.random.default_rng(0)) for _ in range(2))
    genomes = searcher.ask()
    searcher.tell(genomes, toy_objectives(genomes))
    searcher.novelty = 0.1
    other.restore(searcher.state())
    asked = searcher.ask()
    assert np.array_equal(asked, other.ask())
    everything = np.concatenate([genomes, asked])
    assert len(np.unique(everything, axis=0)) == len(everything) > POPULATION
    drawn = asked[POPULATION - POPULATION // 2 :]
    distances = (drawn[:, None] != genomes[None]).sum(2).min(1)
    assert distances.max() >= 3  # children differ from a parent in fewer genes


def test_a_small_space_is_searched_until_its_evaluations_are_done(tmp_path):
    config = search_config(space="nb201", evaluations=2500, population=50)
    result = run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()))
    assert result.reason == "all 2,500 evaluations are done"
    assert result.evaluations["generation"].max() < 150
