"""Read pickles as data: their stack operations are executed, but can only create inert values.

Python's own reader calls whatever a pickle names, so a file from elsewhere can run anything. Here nothing is imported
and nothing of the file's choosing is called: numbers, text, containers and numeric arrays come out as such, objects of
classes that the caller lists as :class:`Record`, and any other name is an error.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from struct import error as StructError
from typing import Any

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.restricted_pickle.inert import INERT
from gennape.search_spaces.files.restricted_pickle.machine import FORGOTTEN, Limits, Machine, Record, Rules
from gennape.search_spaces.files.restricted_pickle.opcodes import OPCODES

_TABLE = [OPCODES.get(bytes([code])) for code in range(256)]
_STOP = ord(".")
#: What steps raise on values of the wrong kind; :meth:`Machine.refuse` says where.
_WRONG = (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError, MemoryError, StructError)

__all__ = ["FORGOTTEN", "Limits", "Record", "Rules", "read_pickle"]


def read_pickle(
    stream: io.BufferedReader, where: str, rules: Rules | None = None, limits: Limits | None = None
) -> object:
    """Read the pickle at the stream's position, and leave the position after its end.

    ``stream`` as :func:`gennape.search_spaces.files.bounded.bounded` makes it; ``where`` names the file in errors;
    ``rules`` add to what every pickle may hold. Raises :class:`InvalidDataError` with the byte of what is wrong.
    """
    extra = rules or Rules({})
    machine = Machine(stream, where, replace(extra, calls={**INERT, **extra.calls}), limits or Limits())
    try:
        value = _run(machine)
    except InvalidDataError as error:
        if str(error).startswith(where):
            raise
        raise machine.refuse(str(error)) from error
    except _WRONG as error:
        raise machine.refuse(f"not a pickle, or a damaged one ({type(error).__name__}: {error})"[:200]) from error
    _check_depth(value, machine)
    return value


def _run(machine: Machine) -> Any:
    read, table = machine.read, _TABLE
    while True:
        for _ in range(1 << 14):
            code = read(1)
            if not code:
                raise machine.refuse("it ends before its end; fetch it again")
            if code[0] == _STOP:
                machine.check_size()
                if len(machine.stack) != 1 or machine.marks:
                    raise machine.refuse(f"{len(machine.stack)} values at its end, must be one")
                return machine.stack.pop()
            step = table[code[0]]
            if step is None:
                raise machine.refuse(f"unknown opcode {code!r}; this is no pickle")
            step(machine)
        machine.check_size()


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return chain(value.keys(), value.values())
    if isinstance(value, Record):
        return (value.args, value.state)
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def _check_depth(value: object, machine: Machine) -> None:
    """Refuse values that contain themselves or nest deeper than the limit, since traversing them would fail."""
    depth: dict[int, int] = {}
    open_: set[int] = set()
    path = [(value, iter(_inside(value)), 0)]
    while path:
        holder, parts, deepest = path.pop()
        if id(holder) in open_:
            open_.discard(id(holder))
        for part in parts:
            if not isinstance(part, list | tuple | dict | set | frozenset | Record):
                continue
            if id(part) in open_ or part is holder:
                raise machine.refuse("a value that contains itself")
            if (known := depth.get(id(part))) is not None:
                deepest = max(deepest, known + 1)
                continue
            open_.add(id(holder))
            path += [(holder, parts, deepest), (part, iter(_inside(part)), 0)]
            break
        else:
            depth[id(holder)] = deepest
            if deepest > machine.limits.depth:
                raise machine.refuse(f"values nested deeper than {machine.limits.depth}")
            if path:
                above, rest, known = path.pop()
                path.append((above, rest, max(known, deepest + 1)))
        if len(path) > machine.limits.depth + 1:
            raise machine.refuse(f"values nested deeper than {machine.limits.depth}")
