"""``gennape ui``: the runs of a workspace in a browser, and MLflow beside them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ServiceError
from gennape.jobs.shared.own_code import own_addresses, space_option
from gennape.jobs.shared.tracked import TrackingUri, Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from gennape.platform.ui import Page


def ui(
    workspace: Workspace = None,
    host: Annotated[
        str, typer.Option(help="Address of the page. Any address but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 5000,
    mlflow_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of MLflow, on this machine.", show_default="the one after --port"),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token of the page.", show_default="$GENNAPE_TOKEN, else none")
    ] = None,
    space: Annotated[list[str] | None, space_option("Own search space of runs. May be repeated.")] = None,  # noqa: ARG001
    tracking_uri: TrackingUri = None,
) -> None:
    """Show the runs of a workspace and their fronts, and MLflow. Ctrl-C stops it.

    Values that runs could not send before are sent first. With --tracking-uri it then ends.
    """
    from rich.console import Console

    from gennape.platform.serving.http.auth import read_token, require_token
    from gennape.platform.tracking.store import server_address
    from gennape.platform.workspace.files import open_workspace

    out = Console(highlight=False, markup=False, soft_wrap=True)
    token = read_token(token_file)
    require_token(host, token)
    server, folder = server_address(tracking_uri), open_workspace(workspace)
    if tracking_uri is not None:
        _catch_up(folder, out)
        out.print(f"MLflow: {server}")
        return
    out.print(f"opening the runs of {folder} ...")
    from gennape.platform.ui import serve_page

    with serve_page(folder, host, port, _announce(out, token), token=token, own_spaces=own_addresses()) as page:
        _catch_up(folder, out)
        if server is not None:
            page.mlflow = server
            out.print(f"MLflow: {server}  (Ctrl-C stops the page)")
            threading.Event().wait()
        following = (port + 1) % 65536 if port else 0
        _serve_mlflow(folder, following if mlflow_port is None else mlflow_port, page, token, out)


def _announce(out: Console, token: str | None) -> Callable[[str], None]:
    """Print an address of the page; without a token each works once."""
    note = "the token opens it" if token is not None else "this link works once"
    return lambda address: out.print(f"page: {address}  ({note})")


def _serve_mlflow(folder: Path, port: int, page: Page, token: str | None, out: Console) -> None:
    from gennape.platform.tracking.ui.mlflow import serve_ui

    with serve_ui(folder, port) as ui:
        first = True
        for link in ui.links:
            if token is None:  # who opened the page by a link is on this machine, and may go on to MLflow
                page.mlflow = link
            note = "this link works once; Ctrl-C stops all" if first else "for another browser"
            out.print(f"MLflow: {link}  ({note})")
            first = False
        status = ui.process.wait()
    raise ServiceError(f"MLflow's interface ended by itself with status {status}")


def _catch_up(workspace: Path, out: Console) -> None:
    from gennape.platform.tracking.resend import resend_pending

    for found in resend_pending(workspace):
        where = found.server or "the store of the workspace"
        if found.problem:
            out.print(f"{found.folder} still waits for {where}: {found.problem}")
        elif found.values:
            out.print(f"sent what waited in {found.folder} to {where}: {found.values} values")
