"""Options of a verb from a file, such as ``gennape tune`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.input_files import require_file
from gennape.jobs.shared.json_output import AS_JSON
from gennape.search_spaces.files.bounded import read_regular

SettingsFile = Annotated[
    Path | None,
    typer.Option(help="JSON file of options, as `gennape tune` writes it. Options given here take precedence."),
]


def run_with(context: typer.Context, path: Path) -> Any:
    """Run the verb again with the options that ``path`` says for it, wherever none was given; returns its result.

    The file is a JSON object that holds, under the name of the verb, an object of options. Raises :class:`ConfigError`
    for a file that is none, an option that the verb does not have, or a value that it does not take.
    """
    verb = str(context.command.name)
    known: dict[str, Any] = {}  # by every name of an option: `space` and `family` are one
    for parameter in context.command.params:
        known |= dict.fromkeys([str(parameter.name), *map(_as_key, parameter.opts)], parameter)
    found: dict[str, Any] = {}
    for name, value in _section(path, verb).items():
        if name not in known or name == "settings":
            raise ConfigError(f"{path}: `gennape {verb}` has no option {name!r} that a file may set")
        parameter = known[name]
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name != "DEFAULT":
            continue
        try:
            found[parameter.name] = parameter.process_value(context, _as_typed(value))
        except typer.BadParameter as error:
            raise ConfigError(f"{path}: {name} is {value!r}: {error.message}") from error
        except TypeError as error:
            raise ConfigError(f"{path}: {name} is {json.dumps(value)}, which is no value of an option") from error
    callback: Any = context.command.callback
    return callback(**{**context.params, **found, "settings": None, AS_JSON: False})  # whoever called prints it


def _as_key(option: str) -> str:
    """``--judge-space`` as ``judge_space``."""
    return option.removeprefix("--").replace("-", "_")


def _as_typed(value: Any) -> Any:
    """A value as it would be typed, so that an option takes of it what it takes there: 2.7 is no number of epochs.

    Raises :class:`TypeError` for what cannot be typed.
    """
    if isinstance(value, list):
        return [_as_typed(part) for part in value]
    if not isinstance(value, str | int | float):
        raise TypeError(value)
    return str(value)


def _section(path: Path, verb: str) -> dict[str, Any]:
    require_file(path)
    try:
        content = json.loads(read_regular(path, 1 << 24))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read the settings {path}: {error}") from error
    section = content.get(verb) if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise ConfigError(f'{path} says nothing of {verb}; it is a JSON object such as {{"{verb}": {{"seed": 1}}}}')
    return section
