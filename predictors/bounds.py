"""Bounds of the numbers that a checkpoint may hold, as types of the fields of its settings."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from gennape.errors import ConfigError

#: A number of a size that predictions in percent can be made of.
Finite = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
#: The same of a scale, which is above 0 and divides.
Scale = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
#: The size of a layer, and how many layers there are.
Size = Annotated[int, Field(ge=1, le=65536)]
Layers = Annotated[int, Field(ge=0, le=1024)]


def require_bounds(settings: Any) -> None:
    """Raise :class:`ConfigError`, naming the option, where a checkpoint of these settings could not be read again."""
    try:
        TypeAdapter(type(settings)).validate_python(asdict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        option, rule = str(first["loc"][-1]).replace("_", "-"), first["msg"].removeprefix("Input should be ")
        raise ConfigError(f"--{option} must be {rule}, got {first['input']}") from error
