"""Options of verbs that are fields of a configuration, where their ranges, usual values and meanings are written."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo


def field_option(
    config: Any, name: str, *flags: str, more: str = "", show_default: bool | str | None = None, **other: Any
) -> Any:
    """The option that sets a field: its range, help and usual value are the field's.

    Args:
        config: A pydantic model, or a dataclass whose fields are ``Annotated[int, Field(ge=1, description="...")]``.
        name: The field.
        flags: The names of the option; by default that of the parameter.
        more: A sentence that only the command line needs, after the help.
        show_default: What is shown as the default, where it is more than the field's; True where that is the
            parameter's own default, which else is None for an option that is not given.
        other: What else :func:`typer.Option` takes.
    """
    info = _described(config, name)
    for part in info.metadata:
        for limit, bound in (("min", "ge"), ("max", "le")):
            if hasattr(part, bound):
                other[limit] = getattr(part, bound)
    text, shown = f"{info.description} {more}".rstrip(), str(info.default) if show_default is None else show_default
    told: Any = {"help": text, "show_default": shown, **other}
    return typer.Option(*flags, **told)


def help_of(config: Any, name: str) -> str:
    """What a field means, in a sentence or two."""
    return str(_described(config, name).description)


def _described(config: Any, name: str) -> FieldInfo:
    """What pydantic makes of a field."""
    if issubclass(config, BaseModel):
        return config.model_fields[name]
    (default,) = (field.default for field in fields(config) if field.name == name)
    return FieldInfo.from_annotated_attribute(get_type_hints(config, include_extras=True)[name], default)
