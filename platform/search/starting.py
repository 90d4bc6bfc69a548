"""Networks that begin a search beside its sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gennape.platform.search.given_starts import given_genomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

    from gennape.platform.search.settings import SearchConfig
    from gennape.search_spaces.families.space import SearchSpace


def starting_genomes(config: SearchConfig, space: SearchSpace, island: int) -> Int64[np.ndarray, "n g"]:
    """Genomes that an island evaluates in its first generation, beside what its searcher asks for.

    Args:
        config: Settings of the search.
        space: The search space, or the part of it that is searched.
        island: Number of the island.

    Returns:
        Canonical genomes.
    """
    return given_genomes(config, space, island)
