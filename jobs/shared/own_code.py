"""Search spaces, searchers and measures that are named on the command line: by name, or as an own class of a file or
module; and the files that options name, which a job on a cluster needs too."""

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
_MEASURES: dict[str, _Own] = {}
#: By the value of an option that names a file: that file, and the value where the file lies in the current folder.
_FILES: dict[str, tuple[Path, str]] = {}


def space_option(help_text: str, *names: str, show_default: bool | str = True) -> Any:
    """The option that names a search space; with an own class of a file or module, ``file.py:Class``, registered."""
    names = names or ("--space", "--family")
    return typer.Option(
        *names, metavar="SPACE", callback=_named(_space, _SPACES), help=help_text, show_default=show_default
    )


def searcher_option(config: type) -> Any:
    """The option that names a searcher, in the same way: the field ``searcher`` of a configuration."""
    return field_option(config, "searcher", metavar="SEARCHER", callback=_named(_searcher, _SEARCHERS))


def measure_option(config: type) -> Any:
    """The option that names further measures: known ones, own classes, and tables that they are learnt from."""
    named = _named(_measure, _MEASURES, lambda value: "=" not in value)
    more = (
        "Or one of your own (file.py:Class), or one that is learnt from a table (NAME=FILE[:column]). May be repeated."
    )
    return field_option(
        config,
        "measures",
        metavar="MEASURE",
        callback=lambda value: named(_noted(value)),
        more=more,
        show_default="none",
    )


def file_option(help_text: str, *names: str, metavar: str = "FILE", show_default: str = "none") -> Any:
    """An option that names a file, which a job on a cluster is sent: ``FILE``, or ``NAME=FILE[:column]``."""
    return typer.Option(*names, metavar=metavar, callback=_noted, help=help_text, show_default=show_default)


def _noted(value: Any) -> Any:
    """A callback of the command line that notes which files the values of an option name."""
    for text in [value] if isinstance(value, str) else value or []:
        name, equals, rest = text.partition("=")
        for path, column in ((text, ""), (rest, ""), (rest.rpartition(":")[0], f":{rest.rpartition(':')[2]}")):
            if path and Path(path).is_file():
                before = "" if path == text else f"{name}{equals}"
                _FILES[text] = Path(path).absolute(), f"{before}{Path(path).name}{column}"
                break
    return value


def typed(space: str) -> str:
    """How a search space has to be named on the command line: as it was."""
    return _SPACES[space].address if space in _SPACES else space


def own_sources(words: Sequence[str]) -> list[Path]:
    """The files and packages behind own classes that a command names, and files; its options have been read before."""
    named = {own.kind for own in _all() if any(own.address in _values(word) for word in words)}
    files = {path for text, (path, _) in _FILES.items() if any(text in _values(word) for word in words)}
    return sorted(files | {path for kind in named for path in sources_of(sys.modules[kind.__module__])})


def there(words: Sequence[str]) -> list[str]:
    """The words of a command where its own files lie in the folder that it starts in."""
    moved = {text: there for text, (_, there) in _FILES.items()}
    for own in _all():
        where, name = parts_of(own.address)
        if where.endswith(".py"):
            moved[own.address] = f"{Path(where).name}:{name}" if name else Path(where).name
    return [_moved(word, moved) for word in words]


def _all() -> list[_Own]:
    return [*_SPACES.values(), *_SEARCHERS.values(), *_MEASURES.values()]


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


def own_settings(space: SearchSpace, searcher: type[Searcher], measures: Sequence[str] = ()) -> dict[str, Any]:
    """What a run notes of an own space, searcher and measures, so that it can say what it needs to go on."""
    from gennape.platform.search.config import space_sha256
    from gennape.platform.search.measures import REGISTRY as MEASURES
    from gennape.platform.search.searchers.registry import REGISTRY as SEARCHERS
    from gennape.search_spaces.families.registry import REGISTRY as SPACES

    noted: dict[str, Any] = {}
    if space in SPACES.registered:
        noted |= {"space_from": _origin(_SPACES, type(space), space.name), "space_sha256": space_sha256(space)}
    if searcher in SEARCHERS.registered:
        noted |= {"searcher_from": _origin(_SEARCHERS, searcher, searcher.name)}
    own = {one.name: type(one) for one in MEASURES.registered if one.name in measures}
    if own:
        noted |= {"measures_from": tuple(_origin(_MEASURES, kind, name) for name, kind in own.items())}
    return noted


def own_options(config: SearchConfig) -> dict[str, Any]:
    """The options by which a run is given its own space, searcher and measures again."""
    given = {"--space": _SPACES.get(config.space), "--searcher": _SEARCHERS.get(config.searcher)}
    options: dict[str, Any] = {option: own.address for option, own in given.items() if own is not None}
    measures = [_MEASURES[name].address for name in config.measures if name in _MEASURES]
    return options | ({"--measure": measures} if measures else {})


def own_addresses() -> dict[str, str]:
    """What the own search spaces of this command were given as, by their names."""
    return {name: own.address for name, own in _SPACES.items()}


def _origin(known: Mapping[str, _Own], kind: type, name: str) -> str:
    return known[name].address if name in known else f"{kind.__module__}:{kind.__qualname__}"


def _named(
    register: Callable[[str], tuple[str, type]],
    known: dict[str, _Own],
    may_be_own: Callable[[str], bool] = lambda _: True,
) -> Callable[[Any], Any]:
    """A callback of the command line: addresses become names, of one value or of several."""

    def resolve(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [resolve(one) for one in value]
        if not isinstance(value, str) or not may_be_own(value) or not is_address(value):
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


def _measure(address: str) -> tuple[str, type]:
    from gennape.platform.search.measures import Measure, register_measure

    kind = load_class(address, Measure, "measure")
    return register_measure(kind).name, kind
