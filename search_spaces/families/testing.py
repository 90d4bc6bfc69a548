"""The conformance suite of search spaces: what any :class:`SearchSpace`, shipped or third-party, must hold.

With pytest, a space needs three lines::

    class TestMySpace(SearchSpaceConformance):
        @pytest.fixture
        def space(self):
            return MySpace()

Without it, ``check_search_space(MySpace())`` runs the same checks once. Needs the ``test`` extra.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gennape.search_spaces.families.checks import (
    check_bad_architecture,
    check_bad_architectures,
    check_bad_genomes,
    check_canonical,
    check_graphs,
    check_module,
    check_samples,
    check_search_space,
    check_variation,
)
from gennape.search_spaces.families.malformed import places
from gennape.search_spaces.families.space import Architecture, SearchSpace

__all__ = ["SearchSpaceConformance", "check_search_space"]

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _property(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Settings of the suite: no deadline, as a graph may take long, and any class may inherit the tests."""
    allowed = (HealthCheck.differing_executors, HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
    return settings(max_examples=examples, deadline=None, suppress_health_check=allowed)


_SEEDS = st.integers(0, 2**32 - 1)


class SearchSpaceConformance:
    """Tests to inherit; the fixture ``space`` gives the search space under test."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        """The search space under test."""
        raise NotImplementedError("override the fixture `space` to return the search space under test")

    @_property(examples=15)
    @given(seed=_SEEDS, n=st.integers(0, 40))
    def test_samples(self, space: SearchSpace, seed: int, n: int) -> None:
        """See :func:`check_samples`."""
        check_samples(space, seed, n)

    @_property(examples=15)
    @given(seed=_SEEDS)
    def test_canonical(self, space: SearchSpace, seed: int) -> None:
        """See :func:`check_canonical`."""
        check_canonical(space, seed, 24)

    @_property(examples=15)
    @given(seed=_SEEDS)
    def test_variation(self, space: SearchSpace, seed: int) -> None:
        """See :func:`check_variation`."""
        check_variation(space, seed, 24)

    @_property(examples=15)
    @given(seed=_SEEDS)
    def test_bad_genomes(self, space: SearchSpace, seed: int) -> None:
        """See :func:`check_bad_genomes`."""
        check_bad_genomes(space, seed)

    @_property(examples=50)
    @given(junk=_JSON, seed=_SEEDS)
    def test_bad_architectures(self, space: SearchSpace, junk: Any, seed: int) -> None:
        """See :func:`check_bad_architecture`."""
        check_bad_architecture(space, junk)
        check_bad_architecture(space, _corrupt(space, junk, seed))

    def test_malformed_architectures(self, space: SearchSpace) -> None:
        """See :func:`check_bad_architectures`."""
        check_bad_architectures(space, 0)

    @_property(examples=8)
    @given(seed=_SEEDS)
    def test_graphs(self, space: SearchSpace, seed: int) -> None:
        """See :func:`check_graphs`."""
        check_graphs(space, seed, 4)

    def test_module(self, space: SearchSpace) -> None:
        """See :func:`check_module`."""
        check_module(space, 0, 64)


def _corrupt(space: SearchSpace, junk: Any, seed: int) -> Architecture:
    """An architecture of the space with one part of it replaced by ``junk``."""
    rng = np.random.default_rng(seed)
    architecture = json.loads(json.dumps([space.encode(space.sample(rng, 1)[0])]))
    found = list(places(architecture))
    container, key = found[int(rng.integers(len(found)))]
    container[key] = junk
    return architecture[0]
