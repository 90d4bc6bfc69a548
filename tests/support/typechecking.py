"""The type checker of the tests: beartype, which looks at a function when it is first called.

Decorating every function of two rooms as it is defined takes seconds of each start, and most are never called.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from beartype import beartype

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose arguments and result are checked."""
    compiled: Callable[P, R] | None = None

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal compiled
        if compiled is None:
            compiled = beartype(function)
        return compiled(*args, **kwargs)

    return call
