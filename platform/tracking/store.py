"""Where runs are recorded: the store of a workspace, or an MLflow server; chosen once, and passed on explicitly."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import nullcontext
from typing import TYPE_CHECKING

import gennape
from gennape.addresses import web_address, without_query
from gennape.errors import ConfigError, ServiceError, WorkspaceError
from gennape.platform.tracking.database import NAME, database
from gennape.source import commit

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient

#: What MLflow reads from the environment, here and in the user interface: no telemetry, no job processes, no chatter.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
#: For a client whose caller tries again by itself: an outage shows at once, not after minutes of MLflow's own retries.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
#: Unless the user knows better: how long a server may think, and for others how often is tried, some 10 s.
DEFAULTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT = "gennape"
#: How MLflow's interface shows the experiment: as trainings, not as traces of language models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
#: MLflow's own name of the tag that ties a child run to its parent.
PARENT = "mlflow.parentRunId"


def server_address(given: str | None = None) -> str | None:
    """The MLflow server to record at: ``given``, else $MLFLOW_TRACKING_URI; None for the store of the workspace.

    Raises :class:`ConfigError` for what is no address of a server, and for one that holds a password.
    """
    address = (given if given is not None else os.environ.get(VARIABLE, "")).strip().rstrip("/")
    if not address:
        return None
    what = f"the MLflow server to record at ({'--tracking-uri' if given else '$' + VARIABLE})"
    parts = web_address(
        address,
        what,
        "give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or as MLFLOW_TRACKING_TOKEN",
    )
    if parts.query or parts.fragment:
        raise ConfigError(
            f"{what} has no ? or #, got {without_query(address)!r}; leave it out for the store of the workspace"
        )
    return address


def store_uri(workspace: Path) -> str:
    """MLflow's address of the store of a workspace; raises :class:`WorkspaceError` where MLflow could not open it."""
    path = str((workspace / NAME).absolute())
    if set(path) & set("%?"):
        raise WorkspaceError(
            f"MLflow cannot keep its store under a path with % or ?, got {path}; use another workspace"
        )
    return f"sqlite:///{path}"


def open_store(workspace: Path, server: str | None = None) -> tuple[MlflowClient, str]:
    """A client of the server, or of the workspace's store, and the id of the experiment; made if absent.

    Several processes may do so at once, see :func:`database`. Raises :class:`WorkspaceError` when the store is
    unreadable, not writable, or of another MLflow version, and :class:`ServiceError` when the server does not answer or
    refuses.
    """
    os.environ.update(ENVIRONMENT)
    from mlflow import MlflowClient  # noqa: PLC0415 (2 s, and it must see the environment)
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    uri = server or store_uri(workspace)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        with nullcontext() if server else database(workspace.absolute()):
            # Both named: what is not named MLflow takes from the environment of the process, or from its folder.
            client = MlflowClient(uri, registry_uri=uri)
            return client, _experiment(client, None if server else (workspace / "artifacts").absolute().as_uri())
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        if server:
            raise ServiceError(f"no use of the MLflow server {server}: {brief(error)}; is it running?") from error
        raise WorkspaceError(
            f"cannot open the MLflow store {workspace / NAME}: {brief(error)}; move it away to begin a new one"
        ) from error


def _experiment(client: MlflowClient, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    for _ in range(2):
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=_KIND))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run may have been quicker
                raise
    raise WorkspaceError(f"MLflow's experiment {EXPERIMENT!r} is neither there nor to be made; look at it in MLflow")


def provenance() -> dict[str, str]:
    """Tags that tell which code ran: the version, and in a checkout the git commit (``-dirty`` when changed)."""
    tags = {"gennape.version": gennape.__version__, "mlflow.source.name": "gennape"}
    if (found := commit()) is not None:
        tags["mlflow.source.git.commit"] = found
    return tags


def brief(error: BaseException) -> str:
    """An error in one line, of bounded length."""
    lines = str(error).strip().splitlines()
    return re.sub(r"(?<=.{300}).+", " …", f"{type(error).__name__}: {lines[0] if lines else ''}")
