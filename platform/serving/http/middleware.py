"""Checks of every HTTP request before it is parsed: token, size, admission and time."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from gennape.addresses import is_loopback
from gennape.platform.serving.answers import OverloadedError
from gennape.platform.serving.http.auth import is_authorised
from gennape.platform.serving.http.metrics import OTHER_PATH
from gennape.search_spaces.families.space import shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gennape.platform.serving.http.service import HttpService

HEALTH, PREDICT, GRAPHS, ONNX, SPACES, METRICS = (
    "/health",
    "/predict",
    "/predict/graphs",
    "/predict/onnx",
    "/spaces",
    "/metrics",
)
GONE = 499  # the status that proxies log for a client that did not wait for its answer


class Guard:
    """ASGI middleware in front of ``app``, which refuses invalid requests and counts all."""

    def __init__(self, app: ASGIApp, service: HttpService, paths: Collection[str]) -> None:
        self._app = app
        self._service = service
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), GONE

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, noting)
        except Exception:
            # The handler that answers 500 is outside of this middleware.
            status = HTTPStatus.INTERNAL_SERVER_ERROR if status == GONE else status
            raise
        finally:
            path = scope["path"] if scope["path"] in self._paths else OTHER_PATH
            self._service.metrics.answered(path, status, time.perf_counter() - started)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        if self._service.token is None and not _is_local(headers.getlist("host")):
            # DNS rebinding: a page of another site, whose name resolves to this machine, sends that name as Host.
            asked = shown(headers.get("host", ""))
            answer = self._service.error(
                403,
                "without a token this service answers to 127.0.0.1, localhost and [::1] alone, and was asked as "
                f"{asked}; serve it with a token",
            )
            await answer(scope, receive, send)
        elif scope["path"] != HEALTH and not is_authorised(headers.get("authorization"), self._service.token):
            answer = self._service.error(
                401,
                "a bearer token is required, and this request carries none or a wrong one; send the header "
                "authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )
            await answer(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
        else:
            await self._in_turn(scope, receive, send, headers)

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        limits = self._service.limits
        most = limits.max_onnx_bytes if scope["path"] == ONNX else limits.max_bytes
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            await self._service.error(413, too_large(most))(scope, receive, send)
            return
        try:
            self._service.gate.enter()
        except OverloadedError as error:
            await self._service.refusal(error)(scope, receive, send)
            return
        try:
            refused = await self._in_time(scope, Body(receive, most, limits.body_timeout_s), send)
        finally:
            self._service.gate.leave()
        if refused is not None:
            await refused(scope, receive, send)

    async def _in_time(self, scope: Scope, body: Body, send: Send) -> Response | None:
        """Run the application until it has answered, times out, or the client disconnects."""
        answering = False

        async def noting(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        work = asyncio.ensure_future(self._app(scope, body.receive, noting))
        gone = asyncio.ensure_future(body.until_gone())
        seconds = self._service.limits.timeout_s
        try:
            await asyncio.wait({work, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            late, left = not work.done(), gone.done()
            gone.cancel()
            if late:
                work.cancel()
            with suppress(asyncio.CancelledError):
                await work
        if not late or left or answering:
            return None
        return self._service.error(
            504, f"no answer within {seconds:g} s, and it is not worked on any more; send fewer networks at a time"
        )


def _is_local(hosts: list[str]) -> bool:
    """Whether a request has exactly one Host header, and it names this machine."""
    try:
        return len(hosts) == 1 and is_loopback(urlsplit(f"//{hosts[0]}").hostname or "")
    except ValueError:
        return False


def _without_body(send: Send) -> Send:
    """Send the answer to GET without its body, for HEAD."""

    async def sending(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sending


class Body:
    """Receives a request's body, limited to ``most`` bytes and ``seconds``."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._seconds = seconds
        self._deadline: float | None = None
        self._size = 0
        self._complete = asyncio.Event()

    async def receive(self) -> Message:
        """The next message; raises an HTTP 413 or 408 beyond the limits."""
        if self._complete.is_set():
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + self._seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, f"the body did not arrive within {self._seconds:g} s; send it faster, or less of it"
            ) from None
        self._size += len(message.get("body", b""))
        if self._size > self._most:
            raise HTTPException(413, too_large(self._most))
        if not message.get("more_body", False):
            self._complete.set()
        return message

    async def until_gone(self) -> None:
        """Wait until the client disconnects, which can be detected once its body is read."""
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def too_large(most: int) -> str:
    """The message for a refused body."""
    return f"the body must be at most {most} bytes; send fewer or smaller networks in one request"
