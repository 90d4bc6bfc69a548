"""The settings of a search: names, ranges, usual values and what each means, for Python and the command line alike.

It imports nothing of searchers and families, so that the command line answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from gennape.platform.search.objectives import Objective

#: Smallest share of a population that an island evaluates per generation, unless told otherwise.
MIN_SHARE = 8


class SearchConfig(BaseModel):
    """Everything that decides a search's result. Frozen, JSON-able; build it with :func:`search_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)  # built when first used

    space: str = Field(description="Search space: a name, or your own (file.py:Class).")
    objectives: str = Field(
        "accuracy:max,flops:min",
        description="Objectives, comma-separated: accuracy, flops, macs or params, each with :max or :min.",
    )
    evaluations: int = Field(5000, ge=1, description="Number of unique networks to evaluate.")
    islands: int = Field(2, ge=1, le=1024, description="Number of populations that evolve in parallel.")
    population: int = Field(100, ge=2, le=100_000, description="Networks that each island keeps.")
    batch: int = Field(
        0, ge=0, description="Networks that an island evaluates per generation; 0 shares the population among islands."
    )
    migration_every: int = Field(2, ge=0, description="Generations between migrations; 0 turns migration off.")
    migrants: int = Field(50, ge=0, description="New elites of all other islands that an island receives at most.")
    seed: int = Field(0, ge=0, description="Random seed. The same seed gives the same front.")
    searcher: str = Field(
        "nsga2", description="Search algorithm: nsga2, sms_emoa, random, or your own (file.py:Class)."
    )
    space_from: str = Field("", description="What an own search space was given as; for people, never read again.")
    space_sha256: str = Field("", description="Hash of the genes and some graphs of an own search space.")
    searcher_from: str = Field("", description="What an own searcher was given as; for people, never read again.")
    patience: int = Field(25, ge=1, description="Generations without any new network after which the search ends.")
    asynchronous: bool = Field(False, description="Run islands without a barrier between generations.")
    checkpoint: str | None = Field(None, description="Folder of a predictor checkpoint; none for the shipped one.")
    checkpoint_sha256: str = Field("", description="Hash of the predictor's weights.")

    @property
    def share(self) -> int:
        """Networks that an island evaluates per generation, never more than it keeps."""
        return min(self.population, self.batch or max(MIN_SHARE, -(-self.population // self.islands)))

    @property
    def directed(self) -> tuple[Objective, ...]:
        """The objectives, parsed."""
        from gennape.platform.search.objectives import parse_objectives  # noqa: PLC0415 (NumPy, see above)

        return parse_objectives(self.objectives)
