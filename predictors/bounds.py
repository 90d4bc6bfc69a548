"""Bounds of the numbers that a checkpoint may hold, as types of the fields of its settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

#: A number of a size that predictions in percent can be made of.
Finite = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
#: The same of a scale, which is above 0 and divides.
Scale = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
#: The size of a layer, and how many layers there are.
Size = Annotated[int, Field(ge=1, le=65536)]
Layers = Annotated[int, Field(ge=0, le=1024)]
