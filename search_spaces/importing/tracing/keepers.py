"""Save and restore the state of one Python object.

A keeper takes an object and returns a function that restores it, and the objects it refers to, which are kept in turn.
The object itself is restored, not a copy, and only changes are written, to disturb background threads that use the
object as little as possible.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

#: Restores an object to its saved state.
Restore = Callable[[], None]
_MISSING = object()
#: The type of functions with ``lru_cache``.
CACHED = type(lru_cache(lambda: None))


class Kept(NamedTuple):
    """A function that restores an object, and the objects it refers to."""

    restore: Restore | None
    inside: Iterable[Any] = ()


def keep(x: Any) -> Kept | None:
    """Save the state of ``x``; None if a forward pass cannot change it (numbers, text, services)."""
    for kinds, keeper in _KEEPERS:
        if isinstance(x, kinds):
            return keeper(x)
    return None if _is_opaque(type(x)) else _object(x)


def is_foreign(module: str) -> bool:
    """Whether a Python module belongs to Python itself, to PyTorch or to NumPy."""
    root = module.partition(".")[0]
    return root in ("torch", "numpy") or (root in sys.stdlib_module_names and root != "__main__")


def _is_opaque(kind: type) -> bool:
    """Whether instances hold no state of a network: locks, loggers, streams, sizes."""
    return is_foreign(getattr(kind, "__module__", None) or "")


def _same(now: list[Any], before: list[Any]) -> bool:
    """Whether both hold the same objects in the same order."""
    return len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))


# Containers ----------------------------------------------------------------------------------------------------------


def _dict(x: dict[Any, Any]) -> Kept:
    # Subclasses may override these methods.
    kind: Any = OrderedDict if isinstance(x, OrderedDict) else dict
    before = list(kind.items(x))
    own = _object(x) if type(x) not in (dict, OrderedDict) else Kept(None)
    restore = partial(_restore_dict, kind, x, before)
    return Kept(_both(restore, own.restore), [*(value for _, value in before), *own.inside])


def _restore_dict(kind: Any, x: dict[Any, Any], before: list[tuple[Any, Any]]) -> None:
    now = list(kind.items(x))
    if len(now) != len(before) or any(a is not c or b is not d for (a, b), (c, d) in zip(now, before, strict=True)):
        kind.clear(x)
        kind.update(x, before)


def _list(x: list[Any]) -> Kept:
    before = list.copy(x)
    own = _object(x) if type(x) is not list else Kept(None)
    return Kept(_both(partial(_restore_list, x, before), own.restore), [*before, *own.inside])


def _restore_list(x: list[Any], before: list[Any]) -> None:
    if not _same(x, before):
        list.__setitem__(x, slice(None), before)


def _bag(x: Any) -> Kept:
    """A set or a deque."""
    kind: Any = set if isinstance(x, set) else deque
    before = list(x)
    return Kept(partial(_restore_bag, kind, x, before), before)


def _restore_bag(kind: Any, x: Any, before: list[Any]) -> None:
    if not _same(list(x), before):
        kind.clear(x)
        (kind.update if kind is set else kind.extend)(x, before)


def _bytes(x: bytearray) -> Kept:
    before = bytes(x)

    def restore() -> None:
        if x != before:
            x[:] = before

    return Kept(restore)


def _tuple(x: Any) -> Kept:
    return Kept(None, tuple(x))


def _both(first: Restore, second: Restore | None) -> Restore:
    return first if second is None else partial(_one_by_one, first, second)


def _one_by_one(*restores: Restore) -> None:
    for restore in restores:
        restore()


# Objects -------------------------------------------------------------------------------------------------------------


def _object(x: Any) -> Kept:
    """Attributes of an object, in ``__dict__`` and in slots, and its class."""
    kind = type(x)
    attributes = getattr(x, "__dict__", None)
    kept = _dict(attributes) if type(attributes) is dict else Kept(None)
    slots = [(slot, _slot(slot, x)) for slot in _slots(kind)]
    held = (value for _, value in slots if value is not _MISSING)
    # Classes hold state that their instances share.
    return Kept(
        partial(_restore_object, x, kind, kept.restore, slots),
        [*kept.inside, *held, *(base for base in kind.__mro__ if not _is_opaque(base))],
    )


def _restore_object(x: Any, kind: type, attributes: Restore | None, slots: list[tuple[Any, Any]]) -> None:
    if type(x) is not kind:
        object.__setattr__(x, "__class__", kind)
    if attributes is not None:
        attributes()
    for slot, before in slots:
        if _slot(slot, x) is not before:
            slot.__delete__(x) if before is _MISSING else slot.__set__(x, before)


def _slots(kind: type) -> list[Any]:
    """The descriptors of a class's slots."""
    found = []
    for base in kind.__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            # Names with two leading underscores are mangled.
            mangled = f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and name[-2:] != "__" else name
            slot = base.__dict__.get(mangled)
            if slot is not None and name not in ("__dict__", "__weakref__"):
                found.append(slot)
    return found


def _slot(slot: Any, x: Any) -> Any:
    try:
        return slot.__get__(x)
    except AttributeError:
        return _MISSING


def _class(x: type) -> Kept | None:
    """Attributes of a class that hold state; functions and properties are not searched."""
    if _is_opaque(x):
        return None
    before = dict(vars(x))
    data = [value for value in before.values() if not isinstance(value, FunctionType | property | type)]
    return Kept(partial(_restore_class, x, before), [*data, sys.modules.get(x.__module__)])


def _restore_class(x: type, before: dict[str, Any]) -> None:
    now = dict(vars(x))
    for name in now.keys() | before.keys():
        if name.startswith("__") and name.endswith("__"):
            continue
        if name not in before:
            type.__delattr__(x, name)
        elif now.get(name, _MISSING) is not before[name]:
            type.__setattr__(x, name, before[name])


# Functions and generators --------------------------------------------------------------------------------------------


def _function(x: FunctionType) -> Kept:
    defaults = (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values())
    return Kept(None, [*(x.__closure__ or ()), *defaults, x.__dict__, sys.modules.get(x.__module__)])


def _cell(x: CellType) -> Kept:
    """A variable of a closure, such as a counter in a hook."""
    before = _cell_value(x)
    return Kept(partial(_restore_cell, x, before), () if before is _MISSING else (before,))


def _restore_cell(x: CellType, before: Any) -> None:
    if _cell_value(x) is before:
        return
    if before is _MISSING:
        del x.cell_contents
    else:
        x.cell_contents = before


def _cell_value(x: CellType) -> Any:
    try:
        return x.cell_contents
    except ValueError:
        return _MISSING


def _partial(x: partial[Any]) -> Kept:
    return Kept(None, (x.func, *x.args, *x.keywords.values()))


def _array(x: Any) -> Kept:
    if not x.flags.writeable:
        return Kept(None)
    before = x.copy()

    def restore() -> None:
        if x.dtype.hasobject or x.tobytes() != before.tobytes():
            x[...] = before

    return Kept(restore)


def _generator(x: Any) -> Kept:
    """A random generator of PyTorch or Python."""
    get, put = (x.get_state, x.set_state) if isinstance(x, torch.Generator) else (x.getstate, x.setstate)
    before = get()

    def restore() -> None:
        put(before)

    return Kept(restore)


def _numpy_generator(x: np.random.Generator) -> Kept:
    before = x.bit_generator.state

    def restore() -> None:
        x.bit_generator.state = before

    return Kept(restore)


def _cached(x: Any) -> Kept:
    """A function with a cache: it is cleared if a trace added results."""
    before = x.cache_info().misses

    def restore() -> None:
        if x.cache_info().misses != before:
            x.cache_clear()

    return Kept(restore, (x.__wrapped__,))


PLAIN = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, torch.layout, BuiltinFunctionType)
#: Keepers by type; the first that matches is used.
_KEEPERS: tuple[tuple[Any, Callable[[Any], Kept | None]], ...] = (
    (PLAIN, lambda _: None),
    (nn.Module, _object),
    (type, _class),
    (dict, _dict),
    (list, _list),
    ((set, deque), _bag),
    ((tuple, frozenset), _tuple),
    (bytearray, _bytes),
    (FunctionType, _function),
    (MethodType, lambda x: Kept(None, (x.__self__, x.__func__))),
    (CellType, _cell),
    (partial, _partial),
    (np.ndarray, _array),
    ((torch.Generator, random.Random), _generator),
    (np.random.Generator, _numpy_generator),
    (CACHED, _cached),
)
