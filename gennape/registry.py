"""Registries: things that are found by their names, wherever they come from.

A registry holds what ships with gennape, what installed packages offer under an entry point, and what a program
registered. All of them are found by their ``name``.
"""

from __future__ import annotations

import re
import reprlib
import warnings
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from gennape.errors import ConfigError, ConformanceError, GennapeError
from gennape.search_spaces.files.nearby import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str:
        """Key in files, on the command line and in tracking."""
        ...


T = TypeVar("T", bound=Named)
#: A key of files, of folders and of the command line.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def require_name(thing: object, owner: type, example: str) -> None:
    """Raise :class:`ConformanceError` unless an own thing of the class ``owner`` has a name that can be a key."""
    name = getattr(thing, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConformanceError(
            f"{owner.__name__}.name is {reprlib.repr(name)}; must be a text of letters, digits, _ and -, at most 64, "
            f"that begins with a letter, as in {example!r}"
        )


class Registry(Generic[T]):
    """Everything of one kind, by name.

    Args:
        kind: What it is, for messages: "search space".
        shipped: What comes with gennape.
        group: Entry points that installed packages offer under their thing's name.
        checked: Gives the thing of an own class or object; raises ConformanceError for an ill-made one.
        advice: How to give one's own, for messages.
    """

    def __init__(
        self,
        kind: str,
        shipped: Sequence[T],
        group: str,
        checked: Callable[[object], T],
        advice: str,
    ) -> None:
        self.kind = kind
        self.shipped = tuple(shipped)
        self.group = group
        self.checked = checked
        self.advice = advice
        self._own: dict[str, T] = {}

    def add(self, thing: object) -> T:
        """Check an own thing and make it known by its name; one that was registered under it before is replaced.

        Raises:
            ConformanceError: It is ill-made.
            ConfigError: One that ships has its name.
        """
        return self._known(self.checked(thing))

    def _known(self, made: T) -> T:
        if made.name in (one.name for one in self.shipped):
            raise ConfigError(f"a {self.kind} called {made.name!r} ships with gennape; give yours another name")
        self._own[made.name] = made
        return made

    @property
    def registered(self) -> tuple[T, ...]:
        """What does not ship: other processes do not know it until they :meth:`take` it."""
        return tuple(self._own.values())

    def take(self, things: Iterable[T]) -> None:
        """Make things known that were checked before, in the process that sent them."""
        self._own.update({thing.name: thing for thing in things})

    def find(self, name: str) -> T:
        """The thing called ``name``.

        Raises:
            ConfigError: There is none; the message lists those there are.
            ConformanceError: An installed package offers an ill-made one.
        """
        for thing in (*self.shipped, *self._own.values()):
            if thing.name == name:
                return thing
        offered = {point.name: point for point in entry_points(group=self.group)}
        if name in offered:
            return self._load(offered[name])
        known = sorted({*(one.name for one in (*self.shipped, *self._own.values())), *offered})
        raise ConfigError(
            f"unknown {self.kind} {name!r}; known are {', '.join(known)}; {self.advice}{did_you_mean(name, known)}"
        )

    def all(self) -> tuple[T, ...]:
        """Everything known, what ships first; a package whose offer cannot be loaded is left out with a warning."""
        for point in entry_points(group=self.group):
            if point.name not in self._own:
                try:
                    self._load(point)
                except GennapeError as error:
                    warnings.warn(str(error), stacklevel=2)
        return (*self.shipped, *(self._own[name] for name in sorted(self._own)))

    def _load(self, point: EntryPoint) -> T:
        where = f"the entry point {point.name} = {point.value} of {self.group}"
        try:
            thing = point.load()
        except Exception as error:
            raise ConfigError(
                f"{where} cannot be loaded: {type(error).__name__}: {error}; mend or uninstall its package"
            ) from error
        made = self.checked(thing)
        if made.name != point.name:
            raise ConfigError(f"{where} gives a {self.kind} called {made.name!r}; both names must be the same")
        return self._known(made)
