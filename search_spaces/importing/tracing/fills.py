"""Calls that fill a tensor with one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gennape.search_spaces.importing.tracing.tables import called

_ONES = dict.fromkeys(called("ones", "ones_like", "new_ones"), 1.0)
_ZEROS = dict.fromkeys(called("zeros", "zeros_like", "new_zeros"), 0.0)
#: Position of the number among the arguments.
_PLACES: dict[Callable[..., Any], int] = {
    **dict.fromkeys(called("full", "full_like"), 1),
    **dict.fromkeys(called("new_full"), 2),
}


def fill_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """The number that a call fills its result with; None for other calls."""
    if func in _ZEROS or func in _ONES:
        return 0.0 if func in _ZEROS else 1.0
    place = _PLACES.get(func)
    if place is None:
        return None
    number = args[place] if len(args) > place else kwargs.get("fill_value")
    return float(number) if isinstance(number, int | float) else None
