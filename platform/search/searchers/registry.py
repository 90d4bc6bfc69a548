"""The searchers that are known by name: shipped ones, entry points of packages, and registered ones."""

from __future__ import annotations

from gennape.platform.search.searchers.base import Searcher
from gennape.platform.search.searchers.nsga2 import NSGA2
from gennape.platform.search.searchers.random_search import RandomSearch
from gennape.platform.search.searchers.sms_emoa import SmsEmoa
from gennape.registry import Registry

SEARCHERS: tuple[type[Searcher], ...] = (
    NSGA2,
    SmsEmoa,
    RandomSearch,
)


def _well_formed(thing: object) -> type[Searcher]:
    from gennape.platform.search.searchers.well_formed import well_formed  # noqa: PLC0415 (for own searchers only)

    return well_formed(thing)


REGISTRY: Registry[type[Searcher]] = Registry(
    "searcher",
    SEARCHERS,
    "gennape.searchers",
    _well_formed,
    "your own is given as --searcher file.py:Class, or by gp.register",
)


def searcher(name: str) -> type[Searcher]:
    """The searcher called ``name``; raises :class:`ConfigError` that lists the known ones."""
    return REGISTRY.find(name)


def register_searcher(kind: type[Searcher]) -> type[Searcher]:
    """Make a searcher of your own known by its name, in this process and in those that it starts.

    Raises :class:`ConformanceError` for one that fails the conformance suite, :class:`ConfigError` for the name of one
    that ships.
    """
    return REGISTRY.add(kind)
