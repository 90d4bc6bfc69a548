"""The configuration of serving, and the limits of requests over HTTP."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from gennape.errors import ServiceError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class RequestLimits:
    """Limits of requests over HTTP.

    ``max_graphs`` networks in one request, ``max_nodes`` operations in one network and ``max_edges_per_node`` times as
    many edges as it has operations; ``max_bytes`` of a JSON body, ``max_onnx_bytes`` of an ONNX file. ``max_requests``
    may be in progress, including waiting ones; further ones are refused at once. The head of a request must arrive
    within ``head_timeout_s``, its body within ``body_timeout_s``; the answer is sent within ``timeout_s``.
    """

    max_graphs: int = 256
    max_nodes: int = 5000
    max_bytes: int = 4 * 2**20
    max_onnx_bytes: int = 128 * 2**20
    max_requests: int = 64
    max_edges_per_node: int = 16  # a DenseNet with 64 layers per block has about 5
    head_timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    timeout_s: float = 30.0

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

    checkpoint: Path | None = None
    min_replicas: int = 1
    max_replicas: int = 2
    http_port: int | None = None
    host: str = "127.0.0.1"
    max_queued_requests: int = 64
    max_batch_graphs: int = 1024
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
