"""Search spaces and searchers that are named on the command line: by name, or as an own class of a file or module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.config_options import field_option
from gennape.search_spaces.files.own_code import is_address, load_class, sources_of

if TYPE_CHECKING:
    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.searchers.base import Searcher
    from gennape.search_spaces.families.space import SearchSpace

#: What each own class was named by, for commands that are to be typed again.
_TYPED: dict[str, str] = {}
_KINDS: dict[str, type] = {}


def space_option(help_text: str, *names: str, show_default: bool | str = True) -> Any:
    """The option that names a search space; with an own class of a file or module, ``file.py:Class``, registered."""
    names = names or ("--space", "--family")
    return typer.Option(*names, metavar="SPACE", callback=_named(_space), help=help_text, show_default=show_default)


def searcher_option(config: type) -> Any:
    """The option that names a searcher, in the same way: the field ``searcher`` of a configuration."""
    return field_option(config, "searcher", metavar="SEARCHER", callback=_named(_searcher))


def typed(name: str) -> str:
    """How a space or searcher has to be named on the command line: as it was."""
    return _TYPED.get(name, name)


def own_sources(words: Sequence[str]) -> list[Path]:
    """The files and packages behind the own classes that a command names; its options have been read before."""
    named = {name for name, address in _TYPED.items() if any(address in _values(word) for word in words)}
    modules = {sys.modules[_KINDS[name].__module__] for name in named}
    return sorted({path for module in modules for path in sources_of(module)})


def there(words: Sequence[str]) -> list[str]:
    """The words of a command where its own files lie in the folder that it starts in."""
    moved = {}
    for address in _TYPED.values():
        where, colon, name = address.rpartition(":") if ":" in address else (address, "", "")
        if where.endswith(".py"):
            moved[address] = f"{Path(where).name}{colon}{name}"
    return [_moved(word, moved) for word in words]


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
        noted |= {"space_from": _origin(type(space), space.name), "space_sha256": space_sha256(space)}
    if searcher in SEARCHERS.registered:
        noted |= {"searcher_from": _origin(searcher, searcher.name)}
    return noted


def own_options(config: SearchConfig) -> dict[str, str]:
    """The options by which a run is given its own space and searcher again."""
    given = {"--space": config.space, "--searcher": config.searcher}
    return {option: _TYPED[name] for option, name in given.items() if name in _TYPED}


def _origin(kind: type, name: str) -> str:
    return _TYPED.get(name, f"{kind.__module__}:{kind.__qualname__}")


def _named(register: Callable[[str], str]) -> Callable[[Any], Any]:
    """A callback of the command line: addresses become names, of one value or of several."""

    def resolve(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [resolve(one) for one in value]
        if not isinstance(value, str) or not is_address(value):
            return value
        name = register(value)
        _TYPED[name] = value
        return name

    return resolve


def _space(address: str) -> str:
    from gennape.search_spaces.families.registry import register_space
    from gennape.search_spaces.families.space import SearchSpace

    kind = load_class(address, SearchSpace, "search space")
    return _noted(register_space(kind).name, kind)


def _searcher(address: str) -> str:
    from gennape.platform.search.searchers.base import Searcher
    from gennape.platform.search.searchers.registry import register_searcher

    kind = load_class(address, Searcher, "searcher")
    return _noted(register_searcher(kind).name, kind)


def _noted(name: str, kind: type) -> str:
    _KINDS[name] = kind
    return name
