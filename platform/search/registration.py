"""Registration of own search spaces and searchers under their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gennape.errors import ConformanceError
from gennape.search_spaces.families.registry import FAMILIES, family, register_space
from gennape.search_spaces.families.space import SearchSpace, shown

if TYPE_CHECKING:
    from gennape.platform.search.measures import Measure
    from gennape.platform.search.searchers.base import Searcher


def register(thing: SearchSpace | type[SearchSpace] | type[Searcher] | Measure | type[Measure]) -> Any:
    """Make a search space, a searcher or a measure of your own known by its name, as if it shipped.

    A short form of the conformance suite runs first, in a fraction of a second. What is registered under a name
    replaces what was, so that a cell of a notebook can be run again. Processes that a search, a conversion or a
    labelling starts, on a cluster too, receive it with its code. On the command line, name the class instead:
    ``--space file.py:MySpace``.

    Args:
        thing: A :class:`SearchSpace` or a :class:`Measure`, or its class if that takes no arguments; or a class of
            :class:`Searcher`.

    Returns:
        The search space, the measure, or the class of searchers.

    Raises:
        ConformanceError: It breaks a promise of its base; the message says which.
        ConfigError: Its name is that of one that ships with gennape.

    Example:
        >>> import gennape as gp
        >>> class Mine(type(gp.family("hiaml"))):
        ...     name = "mine"
        >>> gp.register(Mine())
        Mine('mine': 4 genes, 38,416 genomes)
        >>> gp.family("mine").name
        'mine'
    """
    kind = thing if isinstance(thing, type) else type(thing)
    if issubclass(kind, SearchSpace):
        return register_space(thing)  # type: ignore[arg-type]
    from gennape.platform.search.measures import Measure, register_measure  # noqa: PLC0415 (spaces do without)
    from gennape.platform.search.searchers.base import Searcher  # noqa: PLC0415 (spaces do without)
    from gennape.platform.search.searchers.registry import register_searcher  # noqa: PLC0415 (pymoo takes a second)

    if isinstance(thing, type) and issubclass(thing, Searcher):
        return register_searcher(thing)
    if issubclass(kind, Measure):
        return register_measure(thing)  # type: ignore[arg-type]
    raise ConformanceError(
        f"got {shown(thing)}; what is registered is a SearchSpace, a Measure, or a class of Searcher"
    )


def known_space(space: str | SearchSpace) -> SearchSpace:
    """A search space by name or as an object. An object is registered unless it equals one that ships.

    Raises :class:`ConfigError` for an unknown name or the name of another space that ships, and
    :class:`ConformanceError` for an object that fails the conformance suite.
    """
    if isinstance(space, str):
        return family(space)
    same = (one for one in FAMILIES if type(one) is type(space) and vars(one) == vars(space))
    return next(same, None) or register_space(space)


def known_measure(measure: str | Measure | type[Measure]) -> str:
    """The name of a measure, which is registered if it is an object or a class. Raises like :func:`known_space`."""
    from gennape.platform.search.measures import register_measure  # noqa: PLC0415 (spaces do without)

    return measure if isinstance(measure, str) else register_measure(measure).name


def known_searcher(kind: str | type[Searcher]) -> type[Searcher]:
    """A searcher by name or as a class. A class is registered unless it ships. Raises like :func:`known_space`."""
    from gennape.platform.search.searchers.registry import (  # noqa: PLC0415 (pymoo takes a second)
        SEARCHERS,
        register_searcher,
        searcher,
    )

    if isinstance(kind, str):
        return searcher(kind)
    return kind if kind in SEARCHERS else register_searcher(kind)
