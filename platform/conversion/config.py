"""How to convert; light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True)
class ConversionConfig:
    """How to convert. ``timeout_s`` is for each file of others; it alone may differ when a conversion is continued."""

    spectrum: Annotated[int, Field(ge=1, description="Number of Laplacian eigenvalues per graph.")] = 21
    shard_size: Annotated[int, Field(ge=1, description="Rows in one file.")] = 4096
    timeout_s: Annotated[
        float, Field(ge=0.1, le=86_400, description="Timeout for one ONNX file in seconds, at most a day.")
    ] = 60.0
