"""Metrics that tracking plots per island of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int64


def island_metrics(
    asked: Sequence[int],
    evaluations: Int64[np.ndarray, " islands"],
    news: Int64[np.ndarray, " n"],
    front: Int64[np.ndarray, " m"],
) -> dict[str, dict[str, float]]:
    """The metrics of every island after a round, keyed by the name of its child run.

    ``asked``: genomes that each island proposed in this round. ``evaluations``: networks so far that each found first.
    ``news`` and ``front``: which island was the first to find each new network, and each network of the front.
    ``unique_fraction``: new networks per genome asked.
    """
    new, best = (np.bincount(found, minlength=len(asked)) for found in (news, front))
    return {
        f"island-{i}": {
            "evaluations": float(evaluations[i]),
            "front_size": float(best[i]),
            "unique_fraction": float(new[i]) / max(proposed, 1),
        }
        for i, proposed in enumerate(asked)
    }
