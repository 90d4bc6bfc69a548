"""Malformed architectures, which a family's ``decode`` must refuse with a message."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gennape.search_spaces.families.space import Architecture


def malformed(example: Architecture) -> Iterator[Callable[[], Architecture]]:
    """Makers of architectures that differ from ``example``, which is JSON, in one place: a part is replaced by a value
    of another kind, missing, twice there, or unknown. Some may be architectures all the same."""
    yield from _replaced(example)
    yield from _lacking_or_twice(example)


def junk() -> list[Any]:
    """Values of every JSON type, and of sizes that often break readers."""
    deep: Any = 0
    for _ in range(100):
        deep = [deep]
    numbers = [0, 1, 3, -1, 2**63, 10**400, 1.5, -0.0, 1e308, float("nan"), float("inf")]
    texts = ["", "x", "3", "\N{SUPERSCRIPT THREE}", "\0", "|~0|+|", "x" * 1000]
    lists: list[Any] = [[], [[]], [None], [3], ["x"], [[3, 3]], [{}], deep]
    return [None, True, False, *numbers, *texts, *lists, {}, {"a": 1}, {"depth": 3}, {"": None}]


def _replaced(example: Any) -> Iterator[Callable[[], Architecture]]:
    """Architectures with one part replaced, each made when it is needed."""
    boxed = [example]
    for place in range(len(list(places(boxed)))):
        for value in junk():
            yield partial(_with, boxed, place, value)
    if isinstance(example, str):
        for at in range(len(example)):
            yield partial(str.join, "", [example[:at], example[at + 1 :]])
            yield partial(str.join, "", [example[:at], "9", example[at + 1 :]])


def _with(boxed: list[Any], place: int, value: Any) -> Architecture:
    copied = copy.deepcopy(boxed)
    container, key = list(places(copied))[place]
    container[key] = value
    return copied[0]


def _lacking_or_twice(example: Any) -> Iterator[Callable[[], Architecture]]:
    """Architectures that lack a part, hold one twice, or one that is unknown."""
    boxed = [example]
    for place, (container, _) in enumerate(places(boxed)):
        if container is boxed:
            continue
        yield partial(_without, boxed, place)
        if isinstance(container, list):
            yield partial(_twice, boxed, place)
    if isinstance(example, dict):
        yield lambda: {**copy.deepcopy(example), "unknown": 1}


def _without(boxed: list[Any], place: int) -> Architecture:
    copied = copy.deepcopy(boxed)
    container, key = list(places(copied))[place]
    del container[key]
    return copied[0]


def _twice(boxed: list[Any], place: int) -> Architecture:
    copied = copy.deepcopy(boxed)
    container, key = list(places(copied))[place]
    container.append(copy.deepcopy(container[key]))
    return copied[0]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) within a JSON value."""
    if isinstance(value, list | dict):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])
