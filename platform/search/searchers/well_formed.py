"""Run the conformance suite on an own searcher, on a small space, before a search uses it."""

from __future__ import annotations

from gennape.errors import ConformanceError
from gennape.platform.search.searchers.base import Searcher
from gennape.platform.search.searchers.testing import CHECKS
from gennape.registry import require_name
from gennape.search_spaces.families.nb201 import NasBench201
from gennape.search_spaces.files.own_code import place_of


def well_formed(thing: object) -> type[Searcher]:
    """Return an own subclass of :class:`Searcher` after it has passed the suite.

    Raises :class:`ConformanceError` for anything else, and with the message of the failed check.
    """
    if not (isinstance(thing, type) and issubclass(thing, Searcher)):
        raise ConformanceError(f"got {thing!r}, which is no class of searchers; give a subclass of Searcher")
    if missing := sorted(thing.__abstractmethods__):
        raise ConformanceError(
            f"{thing.__name__} leaves out {', '.join(missing)}; a searcher gives name, ask and tell, see docs/search.md"
        )
    require_name(thing, thing, "hill-climbing")
    for check in CHECKS:
        try:
            check(thing, NasBench201(), 0)
        except AssertionError as error:
            raise ConformanceError(f"{thing.__name__} is not a searcher yet: {error}") from error
        except Exception as error:
            promise = (check.__doc__ or "").strip().rstrip(".")
            raise ConformanceError(
                f"{thing.__name__} is not a searcher yet: {type(error).__name__}: {error}{place_of(error)}; it must "
                f"hold that: {promise}"
            ) from error
    return thing
