"""Random search: the baseline for every searcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gennape.platform.search.searchers.base import Searcher

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64, Int64


class RandomSearch(Searcher):
    """Samples the space at random."""

    name = "random"
    baseline = True

    def ask(self) -> Int64[np.ndarray, "n g"]:
        """A fresh sample."""
        return self.space.sample(self.rng, self.batch)

    def tell(self, genomes: Int64[np.ndarray, "n g"], objectives: Float64[np.ndarray, "n m"]) -> None:
        """Check the objectives and ignore them."""
        self.check(genomes, objectives)
