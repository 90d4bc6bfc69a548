"""``gennape ui``: MLflow's web interface on the runs of a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gennape.errors import ServiceError


def ui(
    workspace: Annotated[
        Path | None, typer.Option(help="Folder of the runs.  [default: $GENNAPE_WORKSPACE or ./gennape-workspace]")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 5000,
) -> None:
    """Open MLflow on the runs of a workspace, until Ctrl-C."""
    from rich.console import Console

    from gennape.platform.tracking_ui import serve_ui
    from gennape.platform.workspace import open_workspace

    out = Console(highlight=False, markup=False, soft_wrap=True)
    folder = open_workspace(workspace)
    out.print(f"opening the runs of {folder} ...")
    with serve_ui(folder, port) as (address, process):
        out.print(f"MLflow: {address}  (Ctrl-C stops it)")
        status = process.wait()
    raise ServiceError(f"MLflow's interface ended by itself with status {status}")
