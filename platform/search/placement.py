"""Where the islands of a search run: in this process, or as actors on Ray. The result is the same."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gennape.errors import ConfigError
from gennape.platform.cluster.connection import connected

if TYPE_CHECKING:
    from gennape.platform.search.config import SearchConfig

#: Evaluations that one process makes while Ray and the served predictor start and end, measured on two cores.
WHILE_RAY_STARTS = 12_000
#: What an island and the replica that answers it keep busy.
_CORES_PER_ISLAND = 2


@dataclass(frozen=True, slots=True)
class Placement:
    """Whether a search runs in this process, and why, for people; ``why`` is empty where the user said so."""

    local: bool
    why: str = ""


def refuse_two_places(address: str | None, local: bool | None) -> None:
    """Raise :class:`ConfigError` for a search in this process on a cluster elsewhere."""
    if local and address is not None:
        raise ConfigError(
            f"a search in this process uses no Ray cluster, got the address {address!r}; leave out one of the two"
        )


def placement_of(
    config: SearchConfig, address: str | None = None, local: bool | None = None, cores: int | None = None
) -> Placement:
    """Where a search runs: as the user said, on the Ray that is named or already in use, else where it ends sooner.

    Args:
        config: The settings of the search.
        address: A Ray cluster.
        local: What the user said; None leaves it to this function.
        cores: Of this machine; None counts them.
    """
    refuse_two_places(address, local)
    if local is not None:
        return Placement(local)
    if address is not None or connected():
        return Placement(False)
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    abreast = min(config.islands, cores // _CORES_PER_ISLAND)
    islands, evaluations = _counted(config.islands, "island"), f"{config.evaluations:,} evaluations"
    if abreast < 2:
        return Placement(True, f"{islands} on {_counted(cores, 'core')} would gain nothing from Ray")
    if config.evaluations * (1 - 1 / abreast) <= WHILE_RAY_STARTS:
        return Placement(True, f"{evaluations} by {islands} take no longer than starting Ray")
    return Placement(False, f"{evaluations} by {islands} take longer than starting Ray, on {_counted(cores, 'core')}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
