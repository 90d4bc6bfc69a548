"""``gennape ui``: MLflow's web interface on the runs of a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ServiceError
from gennape.jobs.shared.tracked import TrackingUri, Workspace

if TYPE_CHECKING:
    from rich.console import Console


def ui(
    workspace: Workspace = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 5000,
    tracking_uri: TrackingUri = None,
) -> None:
    """Open MLflow on the runs of a workspace. Ctrl-C stops it.

    Values that runs could not send before are sent first.
    """
    from rich.console import Console

    from gennape.platform.tracking.store import server_address
    from gennape.platform.tracking.ui.mlflow import serve_ui
    from gennape.platform.workspace.files import open_workspace

    out = Console(highlight=False, markup=False, soft_wrap=True)
    server, folder = server_address(tracking_uri), open_workspace(workspace)
    _catch_up(folder, out)
    if server is not None:
        out.print(f"MLflow: {server}")
        return
    out.print(f"opening the runs of {folder} ...")
    with serve_ui(folder, port) as ui:
        links = ui.links
        out.print(f"MLflow: {next(links)}  (this link works once; Ctrl-C stops all)")
        for link in links:
            out.print(f"opened; for another browser: {link}")
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
