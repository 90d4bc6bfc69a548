"""Ports of this machine to listen on."""

from __future__ import annotations

import socket

from gennape.errors import ServiceError


def claim_port(host: str, port: int) -> int:
    """``port``, or a free one for 0; raises :class:`ServiceError` when it cannot be bound."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {host} port {port}: {error.strerror}; pass another port, or 0 for a free one"
            ) from error
        return int(probe.getsockname()[1])
