"""How to convert; light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ConversionConfig:
    """How to convert. ``timeout_s`` is for each file of others; it alone may differ when a conversion is continued."""

    spectrum: int = field(default=21, metadata={"ge": 1, "description": "Number of Laplacian eigenvalues per graph."})
    shard_size: int = field(default=4096, metadata={"ge": 1, "description": "Rows in one file."})
    timeout_s: float = field(
        default=60.0,
        metadata={"ge": 0.1, "le": 86_400, "description": "Timeout for one ONNX file in seconds, at most a day."},
    )
