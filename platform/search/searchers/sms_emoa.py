"""SMS-EMOA (Beume et al., 2007): survival by rank and contribution to the hypervolume, a generation at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import moocore
import numpy as np
from pymoo.core.population import Population
from pymoo.core.survival import Survival
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from gennape.platform.search.limits import PENALTY
from gennape.platform.search.searchers.evolution import EvolutionarySearcher

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

#: Reference point of a front that is scaled to 0..1, where objectives are more than two.
_REFERENCE = 2.0
#: From this many objectives on, contributions are slow, and this share of those to remove leaves at once.
_MANY, _AT_ONCE = 4, 0.2


class SmsEmoa(EvolutionarySearcher):
    """A population that covers as much volume as it can: who adds least to that of its front leaves first."""

    name = "sms_emoa"

    def _survival(self) -> Survival:
        return HypervolumeSurvival()


class HypervolumeSurvival(Survival):  # type: ignore[misc]
    """Whole fronts while there is room, then the front without those that contribute least, one after another.

    pymoo's own scales by the whole population, which one bad network would spoil; this one by the front itself.
    """

    def __init__(self) -> None:
        super().__init__(filter_infeasible=False)

    def _do(self, _problem: Any, pop: Population, *_: Any, n_survive: int, **__: Any) -> Population:
        points = pop.get("F").astype(np.float64)
        survivors: list[Population] = []
        room = n_survive
        for rank, rows in enumerate(NonDominatedSorting().do(points, n_stop_if_ranked=n_survive)):
            kept = truncate(points, rows, room)
            front = pop[kept]
            front.set("rank", rank)
            for one, contribution in zip(front, contributions(points[kept]), strict=True):
                one.set("crowding", contribution)
            survivors.append(front)
            room -= len(kept)
            if not room:
                break
        return Population.merge(*survivors) if len(survivors) > 1 else survivors[0]


def truncate(points: Float64[np.ndarray, "n m"], rows: Int64[np.ndarray, " f"], room: int) -> Int64[np.ndarray, " k"]:
    """The rows of a front without those that contribute least, no more than ``room``."""
    kept = rows
    while len(kept) > room:
        surplus = len(kept) - room
        at_once = max(1, int(surplus * _AT_ONCE)) if points.shape[1] >= _MANY else 1
        worst = np.argsort(contributions(points[kept]), kind="stable")[:at_once]
        kept = np.delete(kept, worst)
    return kept


def contributions(front: Float64[np.ndarray, "n m"]) -> Float64[np.ndarray, " n"]:
    """What each of non-dominated points adds to their hypervolume, each objective scaled to 0..1.

    With two objectives the ends count as infinite. Penalised points come after all others, in the order of penalties.
    """
    plain = (np.abs(front) < PENALTY).all(1)
    if plain.any() and not plain.all():
        added = -np.abs(front).max(1)
        added[plain] = contributions(front[plain])
        return added
    low, high = front.min(0), front.max(0)
    scaled = (front - low) / np.where(high > low, high - low, 1)
    if front.shape[1] != 2:
        volumes: Float64[np.ndarray, " n"] = moocore.hv_contributions(scaled, ref=np.full(front.shape[1], _REFERENCE))
        return volumes
    order = np.lexsort(scaled.T[::-1])
    x, y = scaled[order].T
    added = np.full(len(front), np.inf)
    added[order[1:-1]] = np.diff(x)[1:] * -np.diff(y)[:-1]
    return added
