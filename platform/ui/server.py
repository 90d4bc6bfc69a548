"""The server of the page: a thread of the process that opens it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from gennape.platform.serving.http.auth import require_token
from gennape.platform.serving.http.server import bound_socket, url_of
from gennape.platform.tracking.ui.door import Door
from gennape.platform.ui.app import page_app
from gennape.platform.ui.catalogue import Catalogue
from gennape.platform.ui.gate import TokenGate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from starlette.types import ASGIApp

START_TIMEOUT_S, DRAIN_S = 30.0, 3


@dataclass(slots=True)
class Page:
    """A page that is served: where it listens, and where MLflow is (empty until it is known)."""

    address: str
    mlflow: str = ""


@contextmanager
def serve_page(
    workspace: Path,
    host: str,
    port: int,
    announce: Callable[[str], None],
    *,
    token: str | None = None,
    own_spaces: Mapping[str, str] | None = None,
) -> Iterator[Page]:
    """Serve the page of a workspace for the length of the block.

    On loopback whoever opens a link that ``announce`` is told is let in, once each, as into MLflow's interface; at any
    other address whoever has the ``token``. Nothing is written into the workspace.

    Args:
        workspace: The folder whose runs are shown; runs that begin later appear.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        announce: Is told every address to open: the first one, and the next when one was used.
        token: Needed at an address that other machines reach.
        own_spaces: What own search spaces were given as, by their names.

    Raises:
        ServiceError: The port is in use, or a token is missing.
    """
    require_token(host, token)
    with bound_socket(host, port) as bound:
        page = Page(url_of(bound))
        app = page_app(Catalogue(workspace, own_spaces), lambda: page.mlflow)
        door = None if token is not None else Door(app, lambda link: announce(page.address + link), title="gennape")
        guarded: ASGIApp = door if door is not None else TokenGate(app, str(token))
        config = uvicorn.Config(
            guarded, loop="asyncio", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, ws="none", timeout_graceful_shutdown=DRAIN_S,
        )  # fmt: skip
        server = uvicorn.Server(config)
        run = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="gennape-page", daemon=True)
        run.start()
        try:
            # The socket takes requests already; they wait until the thread answers.
            if door is None:
                announce(page.address)
            else:
                door.open()
            yield page
        finally:
            server.should_exit = True
            run.join(START_TIMEOUT_S)
