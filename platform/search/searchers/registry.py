"""The searchers that ship: one line each."""

from __future__ import annotations

from gennape.errors import ConfigError
from gennape.platform.search.searchers.base import Searcher
from gennape.platform.search.searchers.nsga2 import NSGA2
from gennape.platform.search.searchers.random_search import RandomSearch

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
