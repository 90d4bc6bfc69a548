"""Search spaces and searchers that are named on the command line: by name, or as an own class of a file or module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.config_options import field_option
from gennape.search_spaces.files.own_code import is_address, load_class, parts_of, sources_of

if TYPE_CHECKING:
    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.searchers.base import Searcher
    from gennape.search_spaces.families.space import SearchSpace


@dataclass(frozen=True, slots=True)
class _Own:
    """An own class, and the address that it was named by, for commands that are to be typed again."""

    address: str
    kind: type


#: By name; a space and a searcher may have the same.
_SPACES: dict[str, _Own] = {}
_SEARCHERS: dict[str, _Own] = {}


def space_option(help_text: str, *names: str, show_default: bool | str = True) -> Any:
    """The option that names a search space; with an own class of a file or module, ``file.py:Class``, registered."""
    names = names or ("--space", "--family")
    return typer.Option(
        *names, metavar="SPACE", callback=_named(_space, _SPACES), help=help_text, show_default=show_default
    )


def searcher_option(config: type) -> Any:
    """The option that names a searcher, in the same way: the field ``searcher`` of a configuration."""
    return field_option(config, "searcher", metavar="SEARCHER", callback=_named(_searcher, _SEARCHERS))


def typed(space: str) -> str:
    """How a search space has to be named on the command line: as it was."""
    return _SPACES[space].address if space in _SPACES else space


def own_sources(words: Sequence[str]) -> list[Path]:
    """The files and packages behind the own classes that a command names; its options have been read before."""
    named = {own.kind for own in _all() if any(own.address in _values(word) for word in words)}
    return sorted({path for kind in named for path in sources_of(sys.modules[kind.__module__])})


def there(words: Sequence[str]) -> list[str]:
    """The words of a command where its own files lie in the folder that it starts in."""
    moved = {}
    for own in _all():
        where, name = parts_of(own.address)
        if where.endswith(".py"):
            moved[own.address] = f"{Path(where).name}:{name}" if name else Path(where).name
    return [_moved(word, moved) for word in words]


def _all() -> list[_Own]:
    return [*_SPACES.values(), *_SEARCHERS.values()]


def _values(word: str) -> tuple[str, str]:
    """A word of a command, and its value where it is ``--option=value``."""
    return word, word.partition("=")[2]


def _moved(word: str, moved: Mapping[str, str]) -> str:
    option, equals, value = word.partition("=")
    if word in moved:
        return moved[word]
    return f"{option}{equals}{moved[value]}" if value in moved else word


def refuse_another_space(found: str, run: str, space: str | None) -> None:
    """Raise :class:`ConfigError` where ``space`` is given and not the one that a run was a search of."""
    if space not in (None, found):
        raise ConfigError(f"--run {run} is a search of {found}, got --space {typed(space)}; leave --space out")


def own_settings(space: SearchSpace, searcher: type[Searcher]) -> dict[str, str]:
    """What a run notes of an own space and an own searcher, so that it can say what it needs to go on."""
    from gennape.platform.search.config import space_sha256
    from gennape.platform.search.searchers.registry import REGISTRY as SEARCHERS
    from gennape.search_spaces.families.registry import REGISTRY as SPACES

    noted: dict[str, str] = {}
    if space in SPACES.registered:
        noted |= {"space_from": _origin(_SPACES, type(space), space.name), "space_sha256": space_sha256(space)}
    if searcher in SEARCHERS.registered:
        noted |= {"searcher_from": _origin(_SEARCHERS, searcher, searcher.name)}
    return noted


def own_options(config: SearchConfig) -> dict[str, str]:
    """The options by which a run is given its own space and searcher again."""
    given = {"--space": _SPACES.get(config.space), "--searcher": _SEARCHERS.get(config.searcher)}
    return {option: own.address for option, own in given.items() if own is not None}


def own_addresses() -> dict[str, str]:
    """What the own search spaces of this command were given as, by their names."""
    return {name: own.address for name, own in _SPACES.items()}


def _origin(known: Mapping[str, _Own], kind: type, name: str) -> str:
    return known[name].address if name in known else f"{kind.__module__}:{kind.__qualname__}"


def _named(register: Callable[[str], tuple[str, type]], known: dict[str, _Own]) -> Callable[[Any], Any]:
    """A callback of the command line: addresses become names, of one value or of several."""

    def resolve(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [resolve(one) for one in value]
        if not isinstance(value, str) or not is_address(value):
            return value
        name, kind = register(value)
        known[name] = _Own(value, kind)
        return name

    return resolve


def _space(address: str) -> tuple[str, type]:
    from gennape.search_spaces.families.registry import register_space
    from gennape.search_spaces.families.space import SearchSpace

    kind = load_class(address, SearchSpace, "search space")
    return register_space(kind).name, kind


def _searcher(address: str) -> tuple[str, type]:
    from gennape.platform.search.searchers.base import Searcher
    from gennape.platform.search.searchers.registry import register_searcher

    kind = load_class(address, Searcher, "searcher")
    return register_searcher(kind).name, kind
