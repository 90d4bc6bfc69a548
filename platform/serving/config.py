"""The configuration of serving, and the limits of requests over HTTP; light, for the command line.

The metadata of a field say what the command line offers of it: a range in round numbers. From Python any limit may be
set that serving can keep; what it cannot is refused. Options count sizes in MiB, fields in bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from gennape.errors import ServiceError

if TYPE_CHECKING:
    from pathlib import Path


MIB = 2**20
_BATCH = 1024  # graphs that a replica computes at a time


@dataclass(frozen=True)
class RequestLimits:
    """Limits of requests over HTTP.

    ``max_graphs`` networks in one request, ``max_nodes`` operations in one network and ``max_edges_per_node`` times as
    many edges as it has operations; ``max_bytes`` of a JSON body, ``max_onnx_bytes`` of an ONNX file. ``max_requests``
    may be in progress, including waiting ones; further ones are refused at once. The head of a request must arrive
    within ``head_timeout_s``, its body within ``body_timeout_s``; the answer is sent within ``timeout_s``.
    """

    max_graphs: int = field(
        default=256, metadata={"ge": 1, "le": _BATCH, "description": "Networks in one request, at most."}
    )
    max_nodes: int = field(default=5000, metadata={"ge": 1, "description": "Operations in one network, at most."})
    max_bytes: int = field(default=4 * MIB, metadata={"ge": 1, "description": "Size of one JSON body in MiB, at most."})
    max_onnx_bytes: int = field(
        default=128 * MIB, metadata={"ge": 1, "description": "Size of one ONNX file in MiB, at most."}
    )
    max_requests: int = field(
        default=64, metadata={"ge": 1, "description": "Requests in progress, at most. More are refused."}
    )
    max_edges_per_node: int = 16  # a DenseNet with 64 layers per block has about 5
    head_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    timeout_s: float = field(default=30.0, metadata={"ge": 0.1, "description": "Timeout of a request in seconds."})

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not 0 < value < math.inf:
                raise ServiceError(f"{limit.name} must be a positive number, got {value}")


@dataclass(frozen=True)
class ServingConfig:
    """The configuration of serving.

    ``checkpoint`` None serves the shipped one. ``http_port`` None starts no HTTP, 0 takes a free port; ``limits`` bound
    its requests. A ``host`` other than loopback requires a token, which is passed separately. A replica computes one
    batch of up to ``max_batch_graphs`` graphs at a time and waits ``batch_wait_s`` for more requests to join it. When
    ``max_queued_requests`` requests wait, further ones are refused. ``timeout_s`` limits one call of a handle.
    """

    checkpoint: Path | None = field(default=None, metadata={"description": "Folder of a predictor checkpoint."})
    min_replicas: int = field(default=1, metadata={"ge": 1, "description": "Replicas to keep without load."})
    max_replicas: int = field(default=2, metadata={"ge": 1, "description": "Replicas under load, at most."})
    http_port: int | None = field(
        default=None, metadata={"ge": 0, "le": 65535, "description": "HTTP port; 0 picks a free one."}
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"description": "Address to listen on. Any address but loopback needs a token."},
    )
    max_queued_requests: int = 64
    max_batch_graphs: int = _BATCH
    batch_wait_s: float = 0.002
    torch_threads: int = 1
    timeout_s: float = 120.0
    limits: RequestLimits = field(default_factory=RequestLimits)

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ServiceError(
                f"replicas must be 1 <= minimum <= maximum, got {self.min_replicas} and {self.max_replicas}"
            )
        if self.http_port is not None and not 0 <= self.http_port < 65536:
            raise ServiceError(f"the HTTP port must be 0..65535 (0 takes a free one), got {self.http_port}")
        if self.http_port is not None and self.limits.max_graphs > self.max_batch_graphs:
            raise ServiceError(
                f"a request of {self.limits.max_graphs} graphs would not fit a batch of {self.max_batch_graphs}; "
                f"lower max_graphs or raise max_batch_graphs"
            )
