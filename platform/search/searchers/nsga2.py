"""NSGA-II (Deb et al., 2002): survival by rank and crowding distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymoo.algorithms.moo.nsga2 import RankAndCrowdingSurvival

from gennape.platform.search.searchers.evolution import EvolutionarySearcher

if TYPE_CHECKING:
    from pymoo.core.survival import Survival


class NSGA2(EvolutionarySearcher):
    """A population that breeds by binary tournament and survives by rank and crowding distance."""

    name = "nsga2"

    def _survival(self) -> Survival:
        return RankAndCrowdingSurvival()
