"""Every registered searcher meets the contract; NSGA-II is checked against what it must achieve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import ConfigError, InvalidDataError
from gennape.platform.search.searchers.base import pack_generator, unpack_generator
from gennape.platform.search.searchers.nsga2 import NSGA2
from gennape.platform.search.searchers.random_search import RandomSearch
from gennape.platform.search.searchers.registry import SEARCHERS, searcher
from gennape.platform.search.searchers.testing import CHECKS, POPULATION, toy_objectives
from gennape.search_spaces.families.registry import family

SPACES = ("hiaml", "ofa_mbv3")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", SEARCHERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, kind, space):
    check(kind, family(space), 3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), stop=st.integers(0, 5), immigrants=st.integers(0, 4))
def test_resume_equals_uninterrupted_after_any_history(seed, stop, immigrants):
    space = family("hiaml")
    whole = NSGA2(space, 2, POPULATION, np.random.default_rng(seed))
    for _ in range(stop):
        genomes = whole.ask()
        whole.tell(genomes, toy_objectives(genomes))
    strangers = space.sample(np.random.default_rng(seed + 1), immigrants)
    whole.immigrate(strangers, toy_objectives(strangers))
    resumed = NSGA2(space, 2, POPULATION, np.random.default_rng(0))
    resumed.restore(whole.state())
    for _ in range(3):
        expected, got = whole.ask(), resumed.ask()
        np.testing.assert_array_equal(expected, got)
        whole.tell(expected, toy_objectives(expected))
        resumed.tell(got, toy_objectives(got))
    for key, array in whole.state().items():
        np.testing.assert_array_equal(array, resumed.state()[key], err_msg=key)


def test_pymoo_never_makes_an_unseeded_generator(monkeypatch):
    nsga2 = NSGA2(family("hiaml"), 2, POPULATION, np.random.default_rng(0))
    original = np.random.default_rng

    def seeded_only(seed=None):
        assert seed is not None, "pymoo drew from an unseeded generator"
        return original(seed)

    monkeypatch.setattr(np.random, "default_rng", seeded_only)
    for _ in range(10):
        genomes = nsga2.ask()
        nsga2.tell(genomes, toy_objectives(genomes))


def test_nsga2_finds_the_corners_that_random_search_misses():
    space = family("ofa_mbv3")

    def best(kind):
        searcher = kind(space, 2, 40, np.random.default_rng(0))
        values = []
        for _ in range(25):
            genomes = searcher.ask()
            objectives = np.stack([genomes[:, 6:].sum(1), -genomes[:, 1:6].sum(1)], axis=1).astype(float)
            searcher.tell(genomes, objectives)
            values.append(objectives)
        return np.concatenate(values).min(0)

    evolved, drawn = best(NSGA2), best(RandomSearch)
    assert evolved[1] == -10, "five units of greatest depth"
    assert evolved[0] < drawn[0]


def test_a_population_that_fills_its_space_asks_nothing_more_and_lives_on():
    class _Tiny(type(family("hiaml"))):
        genes = family("hiaml").genes[:1]

    nsga2 = NSGA2(_Tiny(), 2, 14, np.random.default_rng(0))
    for _ in range(8):
        genomes = nsga2.ask()
        nsga2.tell(genomes, np.stack([genomes[:, 0], -genomes[:, 0]], axis=1).astype(float))
    assert len(nsga2.ask()) == 0
    assert len(np.unique(nsga2.state()["genomes"])) == 14


def test_generator_state_survives_as_bytes():
    rng = np.random.default_rng(7)
    rng.integers(10, dtype=np.int32)  # leaves half of a 64-bit word in the buffer
    copy = unpack_generator(pack_generator(rng))
    assert (rng.integers(2**31, size=9, dtype=np.int32) == copy.integers(2**31, size=9, dtype=np.int32)).all()


def test_unknown_generators_and_searchers_are_refused():
    with pytest.raises(InvalidDataError, match="PCG64"):
        unpack_generator(np.frombuffer(b'{"bit_generator": "MT19937"}', np.uint8))
    with pytest.raises(ConfigError, match="nsga2, random, sms_emoa"):
        searcher("nsga3")
