"""The Pareto front of a search, its hypervolume, and the elites that migrate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import moocore
import numpy as np

from gennape.platform.search.evaluations import Evaluations, concatenate, to_frame
from gennape.platform.search.objectives import minimised

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from jaxtyping import Float64

    from gennape.platform.search.objectives import Objective

#: Distance of the reference point from the worst values of the first population, as a fraction of their range.
MARGIN = 0.1


def front_of(evaluations: Evaluations, objectives: Sequence[Objective]) -> Evaluations:
    """The non-dominated rows within the limits, and the first of rows with equal objectives.

    Rows with NaN are ignored.
    """
    rows = np.flatnonzero(evaluations.within)
    points = minimised(evaluations.values[rows], objectives, evaluations.names)
    return evaluations.take(rows[moocore.is_nondominated(points)] if len(rows) else rows)


def extend_front(front: Evaluations, new: Evaluations, objectives: Sequence[Objective]) -> Evaluations:
    """The front of ``front`` and ``new`` together."""
    return front_of(concatenate([front, new]), objectives)


def reference_point(first: Evaluations, objectives: Sequence[Objective]) -> Float64[np.ndarray, " m"]:
    """Worst values of the first population, within the limits or not, plus :data:`MARGIN` of its range, minimised.

    Where all values are equal, the margin is a fraction of the value itself, so that the volume is not zero.
    """
    points = minimised(first.values[first.finite], objectives, first.names)
    worst, best = points.max(0), points.min(0)
    span = np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1))
    reference: Float64[np.ndarray, " m"] = worst + MARGIN * span
    return reference


def hypervolume(front: Evaluations, objectives: Sequence[Objective], reference: Float64[np.ndarray, " m"]) -> float:
    """Volume dominated by the front within the reference point, in the product of the objectives' units."""
    if not len(front):
        return 0.0
    return float(moocore.hypervolume(minimised(front.values, objectives, front.names), ref=reference))


def elites(evaluations: Evaluations, objectives: Sequence[Objective], count: int) -> Evaluations:
    """Up to ``count`` rows of the front, evenly spaced along the first objective, both ends included."""
    front = front_of(evaluations, objectives)
    along = np.argsort(minimised(front.values, objectives, front.names)[:, 0], kind="stable")
    picks = np.unique(np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(np.int64))
    return front.take(along[picks])


def front_frame(front: Evaluations, objectives: Sequence[Objective]) -> pd.DataFrame:
    """The front as a data frame, sorted by the objectives in their order, the best first, and then by hash.

    Columns: ``index`` (0 ..), ``architecture`` (JSON), ``accuracy``, its ``deviation`` (NaN where the predictor gives
    none), ``flops``, ``macs``, ``params``, further measures, all in natural units, and ``hash``.
    """
    points = minimised(front.values, objectives, front.names)
    order = np.lexsort((front.hashes, *points.T[::-1]))
    frame = to_frame(front.take(order))
    frame.insert(0, "index", np.arange(len(frame)))
    accuracy, *others = front.names
    return frame[["index", "architecture", accuracy, "deviation", *others, "hash"]]
