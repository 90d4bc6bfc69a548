"""What tracking plots of each island of a search, beside the search as a whole."""

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
    """The metrics of every island after a round, by the name of its child run.

    ``asked``: genomes that each island proposed in it. ``evaluations``: networks so far that each found first.
    ``news`` and ``front``: by which island each new network, and each of the front, was found first.
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
