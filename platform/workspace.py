"""The folder that holds everything gennape writes, and files that are either whole or absent."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gennape.errors import WorkspaceError
from gennape.search_spaces.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "gennape-workspace"
VARIABLE = "GENNAPE_WORKSPACE"
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?")  # the names that atomic.replacing makes


def open_workspace(path: Path | None = None) -> Path:
    """The workspace as an absolute path, made if absent: ``path``, else $GENNAPE_WORKSPACE, else ./gennape-workspace.

    Raises :class:`WorkspaceError` when files cannot be written there (tried, not guessed from permissions).
    """
    folder = (path or Path(os.environ.get(VARIABLE) or DEFAULT)).expanduser().absolute()
    make_writable(folder, f"give another folder with --workspace or ${VARIABLE}", "the workspace ")
    return folder


def make_writable(folder: Path, remedy: str, what: str = "") -> None:
    """Make a folder, if absent; raises :class:`WorkspaceError`, which ends in ``remedy``, when it takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WorkspaceError(f"cannot write to {what}{folder} ({error.strerror or error}); {remedy}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """``atomic.replacing`` that holds across a power cut too: the content reaches the disk before the name does.

    Raises :class:`WorkspaceError` when the file cannot be written.
    """
    with replacing(path) as temporary:
        yield temporary
        _flush(temporary)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove_partial_files(folder: Path) -> None:
    """Delete what writers that were killed left in a folder; no writer may be at work in it."""
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
