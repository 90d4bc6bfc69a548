"""MLflow's web interface: ``python -m gennape.platform.tracking.ui.server WORKSPACE SOCKET PIPE EXPERIMENT``.

It listens on a socket that it is handed, writes the path of each link that opens it into a pipe, one a line, and ends
when its standard input does: with the process that started it, however that ends. No secret is in its arguments or
environment.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from gennape.platform.tracking.store import ENVIRONMENT, store_uri
from gennape.platform.tracking.ui.door import Door

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DRAIN_S = 3
#: The page of an experiment's runs, in MLflow's view of trainings; that of traces is another.
HOME = "/#/experiments/{}/runs?workflowType=machine_learning"
_LAST_S = 5.0


def main(workspace: Path, listening: int, told: int, experiment: str) -> None:
    """Serve, and lead to the runs of ``experiment``, until asked to stop, or until nobody is left who could ask."""
    os.umask(0o077)
    door = Door(_application(workspace), lambda link: _tell(told, link), home=HOME.format(experiment))
    config = uvicorn.Config(
        door,
        loop="asyncio",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    with socket.socket(fileno=listening) as bound:
        asyncio.run(_serve(server, bound, door))


def _application(workspace: Path) -> ASGIApp:
    artifacts = (workspace / "artifacts").as_uri()
    os.environ.update(ENVIRONMENT)
    from mlflow.server import constants  # noqa: PLC0415 (it must see the environment)

    os.environ.pop(constants.SERVE_ARTIFACTS_ENV_VAR, None)  # another door to files
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = store_uri(workspace)
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = store_uri(workspace)
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = artifacts
    from mlflow.server.fastapi_app import app  # noqa: PLC0415

    from gennape.platform.tracking.ui.artifacts import confine  # noqa: PLC0415

    confine(workspace)
    return app


async def _serve(server: uvicorn.Server, bound: socket.socket, door: Door) -> None:
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.05)
    if server.started:
        door.open()
    await serving


def _tell(told: int, link: str) -> None:
    os.write(told, f"{link}\n".encode())


def _end_with_parent(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()  # until its end
    server.should_exit = True
    threading.Event().wait(DRAIN_S + _LAST_S)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
