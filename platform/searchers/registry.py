"""The searchers that ship: one line each."""

from __future__ import annotations

from gennape.errors import ConfigError
from gennape.platform.searchers.nsga2 import NSGA2
from gennape.platform.searchers.random_search import RandomSearch
from gennape.platform.searchers.searcher import Searcher

SEARCHERS: tuple[type[Searcher], ...] = (
    NSGA2,
    RandomSearch,
)


def searcher(name: str) -> type[Searcher]:
    """The searcher called ``name``; raises :class:`ConfigError` that lists the known ones."""
    for candidate in SEARCHERS:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in SEARCHERS)
    raise ConfigError(f"unknown searcher {name!r}; known are {known}")
