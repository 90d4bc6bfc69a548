from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gennape.errors import ConfigError
from gennape.predictors.encoder.fuzzy_c_means import fuzzy_c_means, memberships


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(1.1, 4.0))
def test_memberships_sum_to_one_and_lie_between_0_and_1(seed: int, clusters: int, fuzzifier: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    centroids = torch.randn(clusters, 3, generator=generator, dtype=torch.float64)
    u = memberships(torch.cat([x, centroids]), centroids, fuzzifier)
    torch.testing.assert_close(u.sum(1), torch.ones(len(u), dtype=torch.float64))
    assert ((u >= 0) & (u <= 1)).all()


def test_memberships_by_hand() -> None:
    # Distances 1 and 2, m = 2: weights 1 and 1/4.
    u = memberships(torch.tensor([[0.0]]), torch.tensor([[1.0], [-2.0]]), 2.0)
    torch.testing.assert_close(u, torch.tensor([[0.8, 0.2]]))


def test_a_point_on_a_centroid_belongs_to_it() -> None:
    centroids = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    u = memberships(torch.zeros(1, 2), centroids, 2.0)
    torch.testing.assert_close(u, torch.tensor([[0.5, 0.0, 0.5]]))


def test_finds_the_middles_of_separate_clouds() -> None:
    rng = np.random.default_rng(0)
    middles = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = torch.from_numpy(np.concatenate([m + 0.1 * rng.standard_normal((200, 2)) for m in middles]))
    centroids = fuzzy_c_means(x, 3, 2.0, rng).numpy()
    found = centroids[np.lexsort((centroids[:, 1].round(), centroids[:, 0].round()))]
    np.testing.assert_allclose(found, [[0, 0], [0, 10], [10, 0]], atol=0.05)


def test_the_same_generator_state_gives_the_same_centroids() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    first, second = (fuzzy_c_means(x, 4, 1.5, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_equal_rows_are_no_obstacle() -> None:
    assert torch.isfinite(fuzzy_c_means(torch.ones(5, 2), 3, 2.0, np.random.default_rng(0))).all()


@pytest.mark.parametrize(("clusters", "fuzzifier"), [(0, 2.0), (6, 2.0), (2, 1.0)])
def test_refuses_what_cannot_be_clustered(clusters: int, fuzzifier: float) -> None:
    with pytest.raises(ConfigError, match="fuzzy c-means needs"):
        fuzzy_c_means(torch.zeros(5, 2), clusters, fuzzifier, np.random.default_rng(0))
