"""Send own classes to other processes, which may lack the file or module that defines them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

from gennape.search_spaces.files.own_code import own_modules

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
#: Packages that every process can import.
_EVERYWHERE = ("gennape", "builtins")


def carried(things: Sequence[T]) -> Sequence[T]:
    """Return the same objects or classes; from now on Ray pickles the code of their modules by value."""
    for thing in things:
        from ray import cloudpickle  # noqa: PLC0415 (it reads the environment as it is imported)

        kind = thing if isinstance(thing, type) else type(thing)
        if kind.__module__ != "__main__":  # classes of the main program are always pickled by value
            for module in own_modules(sys.modules[kind.__module__]):
                if module.__name__ in _EVERYWHERE:
                    continue
                cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    return things
