"""Connections of the HTTP server: their number is limited, and idle ones are closed."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

    from gennape.platform.serving.config import RequestLimits

PER_REQUEST = 4  # connections per admitted request, since most clients keep theirs open


class Connection(H11Protocol):
    """A connection that is closed if the head of a request does not arrive within ``head_timeout_s``.

    Beyond ``most`` connections the one that has been idle longest is closed. Connections with a request in progress are
    never closed; if all have one, the newest connection is closed.
    """

    most: ClassVar[int]
    head_timeout_s: ClassVar[float]
    waiting: ClassVar[dict[Connection, None]]  # idle ones, the longest first

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._follow(timed=True)
        if len(self.connections) > self.most:
            next(iter(self.waiting))._end()

    def data_received(self, data: bytes) -> None:
        """Some of a request has arrived."""
        super().data_received(data)
        self._follow(timed=True)

    def on_response_complete(self) -> None:
        """A request is answered. The server's keep-alive limits the time until the next one."""
        super().on_response_complete()
        self._follow(timed=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, whoever ended it."""
        super().connection_lost(exc)
        self._leave()

    def _follow(self, timed: bool) -> None:
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._leave()
            return
        self.waiting.setdefault(self)
        if timed and self._timer is None:
            self._timer = self.loop.call_later(self.head_timeout_s, self._end)

    def _leave(self) -> None:
        self.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._leave()
        self.transport.abort()


def bounded(limits: RequestLimits) -> type[Connection]:
    """A connection class with these limits. Half of the process's file descriptors are left for other uses."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    class Bounded(Connection):
        most = min(PER_REQUEST * limits.max_requests, files // 2 if files > 0 else 2**31)
        head_timeout_s = limits.head_timeout_s
        waiting: ClassVar[dict[Connection, None]] = {}

    return Bounded
