"""Fuzzy c-means: soft clusters of embeddings (Bezdek, 1981)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gennape.errors import ConfigError


def memberships(x: Float[Tensor, "n d"], centroids: Float[Tensor, "c d"], fuzzifier: float) -> Float[Tensor, "n c"]:
    """Degree to which each row belongs to each cluster; rows sum to 1.

    u_ic = d_ic^(-2/(m-1)) / sum_k d_ik^(-2/(m-1)), as a softmax of log distances, so that a point on a centroid belongs
    to it (equally, where several coincide) instead of dividing by zero.
    """
    distance = torch.cdist(x, centroids, compute_mode="donot_use_mm_for_euclid_dist")
    smallest = torch.finfo(x.dtype).tiny ** 0.5
    return torch.softmax(-2 / (fuzzifier - 1) * torch.log(distance.clamp_min(smallest)), dim=1)


def fuzzy_c_means(
    x: Float[Tensor, "n d"],
    clusters: int,
    fuzzifier: float,
    rng: np.random.Generator,
    tolerance: float = 1e-5,
    iterations: int = 300,
    start: Float[Tensor, "c d"] | None = None,
) -> Float[Tensor, "c d"]:
    """Centroids [c, d] that minimise sum_ic u_ic^m |x_i - v_c|^2, by alternating updates until they move < tolerance.

    ``start`` continues from given centroids; otherwise they start at rows drawn far from one another (k-means++).
    Raises :class:`ConfigError` when there are fewer rows than clusters or the fuzzifier is not above 1.
    """
    if not 1 <= clusters <= len(x) or fuzzifier <= 1:
        raise ConfigError(
            f"fuzzy c-means needs 1 <= clusters <= rows and a fuzzifier above 1, got {clusters} clusters, "
            f"{len(x)} rows, fuzzifier {fuzzifier}"
        )
    centroids = _spread(x, clusters, rng) if start is None else start
    for _ in range(iterations):
        weight = memberships(x, centroids, fuzzifier) ** fuzzifier
        moved = (weight.T @ x) / weight.sum(0).clamp_min(torch.finfo(x.dtype).tiny)[:, None]
        shift = float((moved - centroids).norm(dim=1).max())
        centroids = moved
        if shift < tolerance:
            break
    return centroids


def _spread(x: Float[Tensor, "n d"], clusters: int, rng: np.random.Generator) -> Float[Tensor, "c d"]:
    chosen = [int(rng.integers(len(x)))]
    nearest = (x - x[chosen[0]]).square().sum(1)
    for _ in range(clusters - 1):
        total = float(nearest.sum())
        # All rows alike: any row is as good as another.
        weights = (nearest / total).double().numpy() if total > 0 else None
        if weights is not None:
            weights /= weights.sum()
        chosen.append(int(rng.choice(len(x), p=weights)))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen].clone()
