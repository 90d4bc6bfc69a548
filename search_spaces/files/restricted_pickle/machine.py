"""The stack machine that executes pickles, with limits. It loads no classes and calls no functions of the file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.restricted_pickle.inert import Dtype


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function in a pickle. Nothing is imported."""

    module: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Record:
    """An object whose class is not loaded: the name of the class, its arguments and its state."""

    key: str
    args: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one pickle.

    ``items``, values held at a time in containers, on the stack and among distinct strings; ``memo``, values numbered
    for reuse; ``depth`` of containers in containers; ``text`` bytes of one string.
    """

    items: int = 30_000_000
    memo: int = 400_000_000
    depth: int = 64
    text: int = 2**30


class Forgotten:
    """Placeholder of a part that was dropped to save memory, in case the file refers to it again."""


FORGOTTEN = Forgotten()
_CONTAINERS = (list, tuple, set, frozenset)
#: Strings up to this length are interned.
_SHORT = 256
Call = Callable[[tuple[Any, ...]], object]


@dataclass(frozen=True, slots=True)
class Rules:
    """Names that a file may use, and how they are replaced.

    ``calls`` by qualified name: our own functions that stand for the file's; ``records``: classes whose objects become
    :class:`Record`; ``shrink`` by dictionary key: what a value set under the key is replaced by as soon as it is
    complete, its parts being forgotten; ``persistent``: what stands for an external value.
    """

    calls: Mapping[str, Call]
    records: frozenset[str] = frozenset()
    shrink: Mapping[str, Callable[[Any], object]] | None = None
    persistent: Callable[[object], object] | None = None


def _length(value: object) -> int:
    """The number of values in a container; sixteen bytes of an array count as one."""
    if isinstance(value, np.ndarray):
        return value.nbytes // 16
    if isinstance(value, bytes | bytearray):
        return len(value) // 16
    return 2 * len(value) if isinstance(value, dict) else len(value) if isinstance(value, _CONTAINERS) else 0


def _simple(value: object) -> bool:
    """A short tuple of names and integers, such as the keys of results are."""
    return type(value) is tuple and len(value) <= 4 and all(type(part) is str or type(part) is int for part in value)


def _reachable(value: object) -> set[int]:
    """Identities of the values in containers in ``value``, and of itself; short strings and names aside."""
    found, waiting = {id(value)}, [value]
    while waiting:
        holder = waiting.pop()
        parts: Iterable[Any] = holder if isinstance(holder, _CONTAINERS) else ()
        if isinstance(holder, dict):
            parts = chain(holder.keys(), holder.values())
        elif isinstance(holder, Record):
            parts = (holder.args, holder.state)
        for part in parts:
            kind = type(part)
            if kind is float or kind is int or part is None or (kind is str and len(part) <= _SHORT):
                continue
            if id(part) not in found and not isinstance(part, Global | Dtype):
                found.add(id(part))
                waiting.append(part)
    return found


class Machine:
    """Stack, marks and memo of one pickle, read from ``stream``."""

    __slots__ = (
        "held",
        "kept",
        "limits",
        "marks",
        "memo",
        "read",
        "rules",
        "stack",
        "stream",
        "strings",
        "tuples",
        "where",
    )

    def __init__(self, stream: io.BufferedReader, where: str, rules: Rules, limits: Limits) -> None:
        self.stream, self.where, self.rules, self.limits = stream, where, rules, limits
        self.read = stream.read
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        self.strings: dict[bytes, str] = {}
        self.tuples: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.held = 0
        self.kept = 0  # numbers below were gone through by the last `forget`

    def refuse(self, why: str) -> InvalidDataError:
        """The error to raise: what is wrong at the byte reached."""
        return InvalidDataError(f"{self.where}: at byte {self.stream.tell()} of the pickle: {why}")

    def take(self, n: int) -> bytes:
        """Exactly ``n`` bytes."""
        if n > 1 << 16:
            return self.take_many(n)
        return self.whole(self.read(n), n)

    def whole(self, data: bytes, n: int) -> bytes:
        """The bytes, which must be ``n``."""
        if len(data) != n:
            raise self.refuse(f"it ends where {n - len(data)} more bytes should follow; fetch it again")
        return data

    def take_many(self, n: int) -> bytes:
        """Like ``take``, but in parts, so that a wrong length allocates no memory."""
        if n > self.limits.text:
            raise self.refuse(f"a value of {n} bytes, more than {self.limits.text}")
        parts = bytearray()
        while len(parts) < n:
            part = self.read(min(n - len(parts), 1 << 20))
            if not part:
                raise self.refuse(f"it ends where {n - len(parts)} more bytes should follow; fetch it again")
            parts += part
        return bytes(parts)

    def line(self) -> bytes:
        """The bytes up to the next line feed."""
        line = self.stream.readline(1 << 20)
        if not line.endswith(b"\n"):
            raise self.refuse("a line that does not end")
        return line[:-1]

    def text(self, data: bytes) -> str:
        """A string. Short ones are interned, since files repeat the same names millions of times."""
        known = self.strings.get(data)
        if known is None:
            known = data.decode("utf-8", "surrogatepass")
            if len(data) <= _SHORT:
                self.strings[data] = known
                self.held += 1
        return known

    def pop_mark(self) -> list[Any]:
        """The values since the last mark, which they are counted as held."""
        if not self.marks:
            raise self.refuse("the end of a list that never began")
        values = self.stack
        self.stack = self.marks.pop()
        self.held += len(values)
        return values

    def put(self, index: int) -> None:
        """Number the value on top of the stack."""
        memo, value = self.memo, self.stack[-1]
        self.held += type(value) is not str
        if index == len(memo):
            memo.append(value)
        elif 0 <= index < len(memo):
            memo[index] = value
        elif len(memo) < index < len(memo) + 1024:  # some writers leave small gaps
            memo.extend([FORGOTTEN] * (index - len(memo)))
            memo.append(value)
        else:
            raise self.refuse(f"number {index} for a value, out of order")

    def get(self, index: int) -> None:
        """Push the value of a number."""
        if not 0 <= index < len(self.memo):
            raise self.refuse(f"a value numbered {index}, which was never given")
        self.stack.append(self.memo[index])

    def find(self, module: str, name: str) -> Global:
        """The name of something allowed; raises otherwise. Nothing is looked up."""
        found = Global(module, name)
        if found.key not in self.rules.calls and found.key not in self.rules.records:
            raise self.refuse(f"it names {found.key!r}, which is not allowed: it could run code. Not read")
        return found

    def call(self, function: object, args: object) -> object:
        """Call the safe replacement of ``function``."""
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise self.refuse(f"a call of a {type(function).__name__} with a {type(args).__name__}")
        if function.key in self.rules.records:
            return Record(function.key, args)
        made = self.rules.calls[function.key](args)
        self.grew(made)
        return made

    def grew(self, made: object) -> None:
        """Count a value that may copy something large, since a few bytes can request many copies."""
        size = _length(made)
        self.held += 1 + size
        if size > 256:
            self.check_size()

    def set_items(self, target: object, pairs: list[Any]) -> None:
        """``target[pairs[0]] = pairs[1]`` and so on."""
        if not isinstance(target, dict) or len(pairs) % 2:
            raise self.refuse(f"items for a {type(target).__name__}")
        shrink = self.rules.shrink
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is tuple or type(key) is frozenset:
                self.check_key(key)
            if shrink is not None and type(key) is str and key in shrink:
                self.forget(value)
                value = shrink[key](value)  # noqa: PLW2901 - the smaller one takes its place
            target[key] = value

    def check_keys(self, keys: list[Any]) -> None:
        """Refuse keys that are expensive to hash: hashing a tuple visits shared elements again and again."""
        for key in keys:
            if isinstance(key, tuple | frozenset):
                self.check_key(key)

    def check_key(self, key: tuple[Any, ...] | frozenset[Any]) -> None:
        """Like ``check_keys``, for one key."""
        left, waiting = 256, [(part, 1) for part in key]
        while waiting:
            part, depth = waiting.pop()
            left -= 1
            if left < 0 or depth > 8:
                raise self.refuse("a key of many nested values")
            if isinstance(part, tuple | frozenset):
                if len(part) > left:
                    raise self.refuse("a key of many nested values")
                waiting += [(inner, depth + 1) for inner in part]

    def forget(self, value: object) -> None:
        """Drop memo entries of what ``value`` contains, back to the last forgotten value, so that it can be freed.

        Names, short strings and pairs of such are kept: later values refer to them.
        """
        memo, inner = self.memo, _reachable(value)
        for index in range(len(memo) - 1, self.kept - 1, -1):
            part = memo[index]
            if id(part) in inner:
                self.held -= 2 + _length(part)
                inner.discard(id(part))  # a value with two memo entries counts once
                memo[index] = self.known(part) if _simple(part) else FORGOTTEN
            if part is value:
                break
        self.kept = len(memo)
        self.held = max(self.held, len(self.strings) + len(self.tuples))

    def known(self, part: tuple[Any, ...]) -> tuple[Any, ...]:
        """Intern a simple tuple."""
        self.held += part not in self.tuples
        return self.tuples.setdefault(part, part)

    def check_size(self) -> None:
        """Raise if a limit is exceeded."""
        held = self.held + len(self.stack) + sum(map(len, self.marks))
        if held > self.limits.items or len(self.memo) > self.limits.memo or len(self.marks) > self.limits.depth:
            raise self.refuse(
                f"{held} values at a time, {len(self.memo)} of them numbered, {len(self.marks)} lists within lists: "
                f"more than {self.limits.items}, {self.limits.memo} or {self.limits.depth}"
            )
