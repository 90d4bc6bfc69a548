"""How the tests check shapes: functions that name a shape, by jaxtyping, with beartype, from their first call on.

mypy checks types everywhere. Checking them again in functions without a shape cost a quarter of the tests' time, and so
did decorating functions that no test calls.
"""

from __future__ import annotations

import re
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, AbstractDtype, install_import_hook

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z_]\w*")
_by_jaxtyping = jaxtyping.jaxtyped


def check_shapes(*packages: str) -> None:
    """Check the shapes of every function and dataclass that is imported from these packages from now on."""
    jaxtyping.jaxtyped = _where_shaped
    install_import_hook(list(packages), "typechecking.checked")


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


def _where_shaped(*, typechecker: Any) -> Callable[[Any], Any]:
    """What the import hook puts at every function and class."""
    decorate = _by_jaxtyping(typechecker=typechecker)

    def decorated(item: Any) -> Any:
        return decorate(item) if isinstance(item, type) or names_a_shape(item) else item

    return decorated


def names_a_shape(function: Any) -> bool:
    """Whether an annotation has a name that stands for an array type, or for an alias of one."""
    names = {name for text in function.__annotations__.values() for name in _NAME.findall(str(text))}
    return any(_is_array_type(function.__globals__.get(name)) for name in names)


def _is_array_type(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, (AbstractArray, AbstractDtype))
