"""Own classes on their way to other processes, which may lack the file or module that they came from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from gennape.search_spaces.files.own_code import own_modules

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
#: What every process can import, whatever was defined in its name.
_EVERYWHERE = ("gennape", "builtins")


def carried(things: Sequence[T]) -> Sequence[T]:
    """The same objects or classes; Ray from now on sends them with the code of their modules rather than by name."""
    for thing in things:
        from ray import cloudpickle  # noqa: PLC0415 (it reads the environment as it is imported)

        kind = thing if isinstance(thing, type) else type(thing)
        if kind.__module__ != "__main__":  # what a program defines itself is always sent whole
            for module in own_modules(sys.modules[kind.__module__]):
                if module.__name__ in _EVERYWHERE:
                    continue
                cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    return things
