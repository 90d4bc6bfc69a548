"""What each opcode of pickle protocols 0 to 5 does to the machine (meanings as documented in Python's pickletools)."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from struct import Struct

from gennape.search_spaces.files.restricted_pickle.inert import set_state
from gennape.search_spaces.files.restricted_pickle.machine import Machine, Record

_U2, _U4, _U8 = Struct("<H").unpack, Struct("<I").unpack, Struct("<Q").unpack
_I4, _F8 = Struct("<i").unpack, Struct(">d").unpack
#: Maximum length of an integer, in bytes and in digits: Python converts longer ones slowly or refuses to.
_MAX_INTEGER_BYTES, _MAX_DIGITS = 512, 1200


def _push(value: object) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        m.stack.append(value)

    return step


def _new(make: Callable[[], object]) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        m.held += 1
        m.stack.append(make())

    return step


def _refused(what: str) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        raise m.refuse(f"{what}, which are not allowed")

    return step


# Numbers and text -----------------------------------------------------------------------------------------------------


# The most common ones read without `take`; missing bytes still make them fail.
def _binfloat(m: Machine) -> None:
    m.stack.append(_F8(m.read(8))[0])


def _binint(m: Machine) -> None:
    m.stack.append(_I4(m.read(4))[0])


def _binint1(m: Machine) -> None:
    m.stack.append(m.read(1)[0])


def _binint2(m: Machine) -> None:
    m.stack.append(_U2(m.read(2))[0])


def _long(m: Machine, n: int) -> None:
    if n > _MAX_INTEGER_BYTES:
        raise m.refuse(f"an integer of {n} bytes, more than {_MAX_INTEGER_BYTES}")
    m.stack.append(int.from_bytes(m.take(n), "little", signed=True))


def _decimal(m: Machine, line: bytes) -> int:
    if len(line) > _MAX_DIGITS:
        raise m.refuse(f"an integer of {len(line)} digits, more than {_MAX_DIGITS}")
    return int(line)


_BOOLEANS = {b"00": False, b"01": True}


def _int(m: Machine) -> None:
    line = m.line()
    m.stack.append(_BOOLEANS[line] if line in _BOOLEANS else _decimal(m, line))


def _short_unicode(m: Machine) -> None:
    n = m.read(1)[0]
    data = m.read(n)
    known = m.strings.get(data)
    m.stack.append(m.text(m.whole(data, n)) if known is None else known)


def _string(m: Machine) -> None:
    line = m.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise m.refuse("a string without quotes")
    m.stack.append(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))


# Containers -----------------------------------------------------------------------------------------------------------


def _mark(m: Machine) -> None:
    m.marks.append(m.stack)
    m.stack = []
    if len(m.marks) > m.limits.depth:
        m.check_size()


def _tuple(m: Machine) -> None:
    values = m.pop_mark()
    m.stack.append(tuple(values))


def _tuple_of(n: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        if len(m.stack) < n:
            raise m.refuse("a tuple of more values than there are")
        m.held += n
        m.stack[-n:] = [tuple(m.stack[-n:])]

    return step


def _list(m: Machine) -> None:
    values = m.pop_mark()
    m.stack.append(list(values))


def _dict(m: Machine) -> None:
    pairs = m.pop_mark()
    made: dict[object, object] = {}
    m.set_items(made, pairs)
    m.stack.append(made)


def _frozenset(m: Machine) -> None:
    values = m.pop_mark()
    m.check_keys(values)
    m.stack.append(frozenset(values))


def _extend(m: Machine, values: list[object]) -> None:
    target = m.stack[-1]
    if type(target) is not list:
        raise m.refuse(f"items for a {type(target).__name__}")
    target.extend(values)


def _append(m: Machine) -> None:
    m.held += 1
    value = m.stack.pop()
    _extend(m, [value])


def _add_items(m: Machine) -> None:
    values, target = m.pop_mark(), m.stack[-1]
    if type(target) is not set:
        raise m.refuse(f"items for a {type(target).__name__}")
    m.check_keys(values)
    target.update(values)


def _set_item(m: Machine) -> None:
    m.held += 2
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items(m.stack[-1], [key, value])


def _set_items(m: Machine) -> None:
    pairs = m.pop_mark()
    m.set_items(m.stack[-1], pairs)


# Objects --------------------------------------------------------------------------------------------------------------


def _global(m: Machine) -> None:
    module, name = m.line().decode(), m.line().decode()
    m.stack.append(m.find(module, name))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise m.refuse("a name that is not text")
    m.stack.append(m.find(module, name))


def _reduce(m: Machine) -> None:
    args, function = m.stack.pop(), m.stack.pop()
    m.stack.append(m.call(function, args))


def _new_with_keywords(m: Machine) -> None:
    keywords, args, function = m.stack.pop(), m.stack.pop(), m.stack.pop()
    if keywords:
        raise m.refuse("an object made with keywords")
    m.stack.append(m.call(function, args))


def _obj(m: Machine) -> None:
    function, *args = m.pop_mark()
    m.stack.append(m.call(function, tuple(args)))


def _inst(m: Machine) -> None:
    module, name = m.line().decode(), m.line().decode()
    args = m.pop_mark()
    m.stack.append(m.call(m.find(module, name), tuple(args)))


def _build(m: Machine) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    if isinstance(target, Record):
        target.state = state
    else:
        set_state(target, state)
        m.grew(target)


def _persistent(m: Machine) -> None:
    key = m.stack.pop()
    if m.rules.persistent is None:
        raise m.refuse("a value that lies outside the file")
    m.stack.append(m.rules.persistent(key))


# Stack and memo -------------------------------------------------------------------------------------------------------


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.pop_mark()


def _pop_mark(m: Machine) -> None:
    m.pop_mark()


def _memoize(m: Machine) -> None:
    value = m.stack[-1]
    m.memo.append(value)
    if type(value) is not str:
        m.held += 1


def _get(m: Machine) -> None:
    m.stack.append(m.memo[m.read(1)[0]])


def _proto(m: Machine) -> None:
    version = m.take(1)[0]
    if version > 5:
        raise m.refuse(f"pickle protocol {version}; 0 to 5 are known")


def _frame(m: Machine) -> None:
    m.take(8)  # how much is worth reading at a time, which is not needed here


#: Every opcode but ``.``, which ends a pickle.
OPCODES: dict[bytes, Callable[[Machine], None]] = {
    b"N": _push(None), b"\x88": _push(True), b"\x89": _push(False), b")": _push(()),
    b"]": _new(list), b"}": _new(dict), b"\x8f": _new(set),
    b"I": _int, b"L": lambda m: m.stack.append(_decimal(m, m.line().rstrip(b"L"))),
    b"F": lambda m: m.stack.append(float(m.line())),
    b"J": _binint, b"K": _binint1, b"M": _binint2, b"G": _binfloat,
    b"\x8a": lambda m: _long(m, m.take(1)[0]), b"\x8b": lambda m: _long(m, _U4(m.take(4))[0]),
    b"S": _string, b"V": lambda m: m.stack.append(m.line().decode("raw-unicode-escape")),
    b"T": lambda m: m.stack.append(m.take(_U4(m.take(4))[0]).decode("latin-1")),
    b"U": lambda m: m.stack.append(m.take(m.take(1)[0]).decode("latin-1")),
    b"\x8c": _short_unicode, b"X": lambda m: m.stack.append(m.text(m.take(_U4(m.take(4))[0]))),
    b"\x8d": lambda m: m.stack.append(m.text(m.take(_U8(m.take(8))[0]))),
    b"C": lambda m: m.stack.append(m.take(m.take(1)[0])), b"B": lambda m: m.stack.append(m.take(_U4(m.take(4))[0])),
    b"\x8e": lambda m: m.stack.append(m.take(_U8(m.take(8))[0])),
    b"\x96": lambda m: m.stack.append(bytearray(m.take(_U8(m.take(8))[0]))),
    b"(": _mark, b"t": _tuple, b"\x85": _tuple_of(1), b"\x86": _tuple_of(2), b"\x87": _tuple_of(3),
    b"l": _list, b"d": _dict, b"\x91": _frozenset, b"a": _append, b"e": lambda m: _extend(m, m.pop_mark()),
    b"s": _set_item, b"u": _set_items, b"\x90": _add_items,
    b"c": _global, b"\x93": _stack_global, b"R": _reduce, b"\x81": _reduce, b"\x92": _new_with_keywords,
    b"o": _obj, b"i": _inst, b"b": _build, b"Q": _persistent, b"P": _refused("values outside the file, by text"),
    b"\x82": _refused("extension codes"), b"\x83": _refused("extension codes"), b"\x84": _refused("extension codes"),
    b"\x97": _refused("buffers outside the file"), b"\x98": _refused("buffers outside the file"),
    b"0": _pop, b"1": _pop_mark, b"2": lambda m: m.stack.append(m.stack[-1]),
    b"p": lambda m: m.put(_decimal(m, m.line())), b"q": lambda m: m.put(m.read(1)[0]),
    b"r": lambda m: m.put(_U4(m.take(4))[0]), b"\x94": _memoize,
    b"g": lambda m: m.get(_decimal(m, m.line())), b"h": _get, b"j": lambda m: m.stack.append(m.memo[_U4(m.read(4))[0]]),
    b"\x80": _proto, b"\x95": _frame,
}  # fmt: skip
