"""The folder that holds everything gennape writes, and files that are either whole or absent."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gennape.errors import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "gennape-workspace"
VARIABLE = "GENNAPE_WORKSPACE"
_TEMPORARY = ".partial-"


def open_workspace(path: Path | None = None) -> Path:
    """The workspace as an absolute path, made if absent: ``path``, else $GENNAPE_WORKSPACE, else ./gennape-workspace.

    Raises :class:`WorkspaceError` when files cannot be written there (tried, not guessed from permissions).
    """
    folder = (path or Path(os.environ.get(VARIABLE) or DEFAULT)).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=_TEMPORARY):
            pass
    except OSError as error:
        raise WorkspaceError(
            f"cannot write to the workspace {folder} ({error.strerror or error}); "
            f"give another folder with --workspace or ${VARIABLE}"
        ) from error
    return folder


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends, and vanishes when it fails.

    A reader sees the old file or the whole new one, also after a crash. Raises :class:`WorkspaceError` when the file
    cannot be written.
    """
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise WorkspaceError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove_partial_files(folder: Path) -> None:
    """Delete what writers that were killed left in a folder; no writer may be at work in it."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Bring a file's content to the disk before its name, or a power cut could leave a name without content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
