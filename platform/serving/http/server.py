"""The HTTP server of the ensemble: a thread with its own event loop in the serving process."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import uvicorn

from gennape.errors import GennapeError, ServiceError
from gennape.platform.serving.answers import OverloadedError, probe_graphs
from gennape.platform.serving.http.connections import bounded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fastapi import FastAPI

    from gennape.platform.serving.http.service import HttpService

PROBE_EVERY_S, PROBE_TIMEOUT_S = 5.0, 20.0
KEEP_ALIVE_S = 30
BACKLOG = 512
DRAIN_S = 10  # for requests in progress when the service stops


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a socket to ``host`` and ``port`` (0: a free one); raises :class:`ServiceError` if that fails."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen(BACKLOG)  # at once, since other processes could bind the port until then
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {host} port {port}: {error.strerror}; pass another port, or 0 for a free one"
            ) from error
        yield bound


def url_of(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def listening(api: FastAPI, bound: socket.socket) -> Iterator[None]:
    """Serve ``api`` on ``bound`` for the length of the block. Requests in progress at its end are answered."""
    config = uvicorn.Config(
        api,
        http=bounded(api.state.service.limits),
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=_run, args=(server, bound, api.state.service), name="gennape-http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _run(server: uvicorn.Server, bound: socket.socket, service: HttpService) -> None:
    async def serve() -> None:
        async with _watching(service):
            await server.serve(sockets=[bound])

    asyncio.run(serve())


@asynccontextmanager
async def _watching(service: HttpService) -> AsyncIterator[None]:
    watch = asyncio.create_task(_watch(service))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(service: HttpService) -> None:
    """Keep ``/health`` up to date when there are no requests for predictions."""
    probe, reported = probe_graphs(), False
    while True:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                service.sha256 = (await service.ask(probe)).sha256
            service.healthy = True
        except OverloadedError:
            pass  # a busy service is healthy
        except (GennapeError, TimeoutError):
            service.healthy = False
        except Exception as error:  # if the watch ended, the last state would stay
            service.healthy = False
            if not reported:
                logging.getLogger(__name__).error("the probe of the predictor failed", exc_info=error)
            reported = True
        await asyncio.sleep(PROBE_EVERY_S)
