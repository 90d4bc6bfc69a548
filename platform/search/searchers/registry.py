"""The searchers that ship: one line each."""

from __future__ import annotations

from gennape.errors import ConfigError
from gennape.platform.search.searchers.base import Searcher
from gennape.platform.search.searchers.nsga2 import NSGA2
from gennape.platform.search.searchers.random_search import RandomSearch
from gennape.search_spaces.files.nearby import did_you_mean

SEARCHERS: tuple[type[Searcher], ...] = (
    NSGA2,
    RandomSearch,
)


def searcher(name: str) -> type[Searcher]:
    """The searcher called ``name``; raises :class:`ConfigError` that lists the known ones."""
    for candidate in SEARCHERS:
        if candidate.name == name:
            return candidate
    known = [candidate.name for candidate in SEARCHERS]
    raise ConfigError(f"unknown searcher {name!r}; known are {', '.join(known)}{did_you_mean(name, known)}")
