"""Options of verbs that are fields of a configuration, where their ranges, usual values and meanings are written."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import typer
from pydantic import BaseModel


def field_option(
    config: Any, name: str, *flags: str, more: str = "", show_default: bool | str | None = None, **other: Any
) -> Any:
    """The option that sets a field: its range, help and usual value are the field's.

    Args:
        config: A pydantic model, or a dataclass whose fields have ``ge``, ``le`` and ``description`` as metadata. A
            dataclass that pydantic reads has under ``option`` what range the command line offers of the field's own.
        name: The field.
        flags: The names of the option; by default that of the parameter.
        more: A sentence that only the command line needs, after the help.
        show_default: What is shown as the default, where it is more than the field's; True where that is the
            parameter's own default, which else is None for an option that is not given.
        other: What else :func:`typer.Option` takes.
    """
    told, usual = _described(config, name)
    shown: Any = {
        "help": f"{told['description']} {more}".rstrip(),
        "min": told.get("ge"),
        "max": told.get("le"),
        "show_default": str(usual) if show_default is None else show_default,
        **other,
    }
    return typer.Option(*flags, **shown)


def help_of(config: Any, name: str) -> str:
    """What a field means, in a sentence or two."""
    return str(_described(config, name)[0]["description"])


def _described(config: Any, name: str) -> tuple[dict[str, Any], Any]:
    """What is told of a field: its range and meaning; and its usual value."""
    if issubclass(config, BaseModel):
        info = config.model_fields[name]
        limits = {key: getattr(part, key) for part in info.metadata for key in ("ge", "le") if hasattr(part, key)}
        return {**limits, "description": info.description}, info.default
    (field,) = (each for each in fields(config) if each.name == name)
    return {**field.metadata, **field.metadata.get("option", {})}, field.default
