"""The HTTP server itself: the health that it watches, and connections from which nothing comes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http.client import HTTPResponse
from typing import TYPE_CHECKING

import pytest
from http_cases import LIMITS, ONE, service_of, sizes_of

from gennape.errors import ServiceError
from gennape.platform.serving.answers import Answer, OverloadedError
from gennape.platform.serving.config import RequestLimits
from gennape.platform.serving.http import server as http_server
from gennape.platform.serving.http.app import create_api
from gennape.platform.serving.http.connections import PER_REQUEST, bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gennape.platform.serving.http.service import HttpService
    from gennape.search_spaces.graphs.graph import PackedGraphs


@pytest.mark.parametrize(
    ("error", "healthy", "logged"),
    [
        (OverloadedError("much is asked"), True, 0),
        (ServiceError("7 replicas were lost"), False, 0),
        (TimeoutError(), False, 0),
        (RuntimeError("a bug"), False, 1),
    ],
)
def test_health_is_what_the_last_probe_found(
    error: Exception, healthy: bool, logged: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "PROBE_EVERY_S", 0)
    seen: list[bool] = []  # before each probe

    async def ask(graphs: PackedGraphs) -> Answer:
        seen.append(service.healthy)
        if len(seen) <= 3:
            raise error
        return await sizes_of(graphs)

    async def watch() -> None:
        async with asyncio.timeout(5), http_server._watching(service):
            while len(seen) < 5:
                await asyncio.sleep(0)

    service = service_of(ask)
    asyncio.run(watch())
    assert seen == [True, healthy, healthy, healthy, True]
    assert caplog.text.count("RuntimeError: a bug") == logged  # not at every probe


# Connections ---------------------------------------------------------------------------------------------------------

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


@contextmanager
def served(service: HttpService) -> Iterator[Callable[[], socket.socket]]:
    """Serve; gives what makes connections, which are closed at the end."""
    with ExitStack() as stack:
        bound = stack.enter_context(http_server.bound_socket("127.0.0.1", 0))
        stack.enter_context(http_server.listening(create_api(service), bound))
        yield lambda: stack.enter_context(socket.create_connection(bound.getsockname(), timeout=20))


def status_of(connection: socket.socket) -> int:
    """Of the answer that comes next."""
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side ends the connection without a word, soon."""
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_connections_without_a_request_make_room_for_others() -> None:
    begun, go = threading.Event(), threading.Event()

    async def held(graphs: PackedGraphs) -> Answer:
        if len(graphs) == 2:  # not the probe
            begun.set()
            await asyncio.to_thread(go.wait, 20)
        return await sizes_of(graphs)

    limits = replace(LIMITS, head_timeout_s=60)
    with served(service_of(held, limits=limits)) as connect:
        body = json.dumps({"space": ONE["space"], "architectures": [ONE["architecture"]] * 2}).encode()
        asking = connect()
        head = ["POST /predict HTTP/1.1", "host: localhost", "content-type: application/json"]
        asking.sendall("\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body)
        assert begun.wait(20)
        silent = [connect() for _ in range(5 * PER_REQUEST * limits.max_requests)]
        for one in silent[::2]:
            with suppress(OSError):  # it may have ended already
                one.sendall(HEALTH[:30])
        late = connect()
        late.sendall(HEALTH)
        assert status_of(late) == 200
        assert has_ended(silent[0])
        go.set()
        assert status_of(asking) == 200


def test_a_head_has_to_arrive_in_time() -> None:
    with served(service_of(limits=replace(LIMITS, head_timeout_s=0.3))) as connect:
        silent, slow, patient = connect(), connect(), connect()
        patient.sendall(HEALTH)
        assert status_of(patient) == 200
        began = time.monotonic()
        with suppress(ConnectionError):
            for byte in HEALTH * 9:
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - began < 5
        assert has_ended(silent)
        patient.sendall(HEALTH)  # kept alive, for it was answered
        assert status_of(patient) == 200
        patient.sendall(HEALTH[:20])
        assert has_ended(patient)


def test_a_server_leaves_half_of_the_files_to_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gennape.platform.serving.http.connections.resource.getrlimit", lambda _: (200, 200))
    assert bounded(RequestLimits()).most == 100
    assert bounded(LIMITS).most == PER_REQUEST * LIMITS.max_requests
