"""What the verbs that run on Ray and record in MLflow have in common: their options, and registering a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gennape.platform.workspace.hints import command

TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="MLflow server to log to.",
        show_default="$MLFLOW_TRACKING_URI, or the store of the workspace",
    ),
]
Register = Annotated[
    bool, typer.Option("--register", help="Register the result in MLflow as a version of the model `gennape`.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to use.", show_default="a local one")]
Workspace = Annotated[
    Path | None,
    typer.Option(
        help="Workspace: the folder that holds all runs.", show_default="$GENNAPE_WORKSPACE or ./gennape-workspace"
    ),
]


def register_result(checkpoint: Path, verb: str, workspace: Path | None, tracking_uri: str | None) -> None:
    """Register a checkpoint that is written, and say as what; where MLflow does not answer, say what to do."""
    from rich.console import Console

    from gennape.platform.tracking.registration import register_checkpoint
    from gennape.platform.workspace.files import open_workspace

    folder = open_workspace(workspace)
    found = register_checkpoint(checkpoint, folder, verb, tracking_uri)
    screen = Console(highlight=False, soft_wrap=True, markup=False)
    if found.version:
        screen.print(f"registered as {found.name} version {found.version}")
    else:
        again = command("ui", workspace=workspace, tracking_uri=tracking_uri)
        screen.print(f"not registered yet: {found.problem}\nwhere MLflow did not answer, once it does: {again}")


def warn_elsewhere(checkpoint: Path | str | None, *spaces: str) -> None:
    """Say so where a checkpoint was fine-tuned on another family than ``spaces``."""
    from gennape.errors import CheckpointError
    from gennape.predictors.evaluation.scale import scale_of
    from gennape.predictors.model.checkpoint import provenance_of

    try:
        scale = scale_of(provenance_of(None if checkpoint is None else Path(checkpoint)))
    except CheckpointError:  # whoever loads it says so
        return
    if warning := scale.warning(spaces):
        typer.echo(f"gennape: warning: {warning}", err=True)


def refuse_wrong_address(tracking_uri: str | None) -> None:
    """Raise :class:`ConfigError` for what is no address of a server: before training, not after it."""
    from gennape.platform.tracking.store import server_address

    server_address(tracking_uri)
