"""MLflow's server reads and writes files of the workspace alone, whatever its database says of where they lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from mlflow.server import handlers
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracing.utils.artifact_utils import TRACE_DATA_FILE_NAME
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import get_uri_scheme

if TYPE_CHECKING:
    from mlflow.entities import FileInfo

_LOCAL = ("", "file")
#: Addresses that lead to one of the others, by way of the database.
_INDIRECT = ("runs", "models")


def confine(workspace: Path) -> None:
    """Let the MLflow of this process touch no file outside of ``workspace``, by any address, path or link."""
    root = workspace.resolve()

    class Confined(LocalArtifactRepository):
        """Artifacts in the workspace. Their folder may have become a link since, so it is looked at each time."""

        def __init__(self, artifact_uri: str, *args: Any, **kwargs: Any) -> None:
            super().__init__(artifact_uri, *args, **kwargs)
            _require(root, super().artifact_dir)

        @property
        def artifact_dir(self) -> str:
            """The folder, which is in the workspace."""
            found: str = super().artifact_dir
            _require(root, found)
            return found

        def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
            """Without links that lead out of the workspace."""
            found: list[FileInfo] = super().list_artifacts(path)
            return [info for info in found if _inside(root, os.path.join(self.artifact_dir, info.path))]

        def delete_artifacts(self, artifact_path: str | None = None) -> None:
            """What is named, in the workspace."""
            _require(root, os.path.join(self.artifact_dir, artifact_path or ""))
            super().delete_artifacts(artifact_path)

        def download_trace_data(self) -> dict[str, Any]:
            """Of the folder itself."""
            _require(root, os.path.join(self.artifact_dir, TRACE_DATA_FILE_NAME))
            return dict(super().download_trace_data())

    repositories = artifact_repository_registry.get_registered_artifact_repositories()
    for scheme in [scheme for scheme in repositories if scheme not in _INDIRECT]:
        del repositories[scheme]
    repositories.update(dict.fromkeys(_LOCAL, Confined))  # type: ignore[arg-type]  # classes, not instances

    class Store(SqlAlchemyStore):
        """Experiments whose artifacts lie in the workspace."""

        def create_experiment(self, name: str, artifact_location: str | None = None, *args: Any, **kwargs: Any) -> Any:
            """Refuses another place."""
            if artifact_location and (
                get_uri_scheme(artifact_location) not in _LOCAL
                or not _inside(root, local_file_uri_to_path(artifact_location))
            ):
                raise MlflowException(
                    f"artifacts lie in the workspace {root}, got {artifact_location!r}; leave artifact_location out",
                    INVALID_PARAMETER_VALUE,
                )
            return super().create_experiment(name, artifact_location, *args, **kwargs)

    def build(store_uri: str, artifact_uri: str) -> Store:
        return Store(store_uri, artifact_uri)

    handlers._tracking_store_registry.register("sqlite", build)


def _inside(root: Path, path: str) -> bool:
    """Whether a path is in ``root`` once all links are followed."""
    return Path(path).resolve().is_relative_to(root)


def _require(root: Path, path: str) -> None:
    if not _inside(root, path):
        raise MlflowException(f"{path} is outside of the workspace {root}, and is not shown", PERMISSION_DENIED)
