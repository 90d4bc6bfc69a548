"""The workspace, the folder that holds everything gennape writes, and atomic writing of files."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gennape.errors import WorkspaceError
from gennape.search_spaces.files.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "gennape-workspace"
VARIABLE = "GENNAPE_WORKSPACE"
#: How to name another workspace.
REMEDY = f"give another folder with --workspace or ${VARIABLE}"
#: Names directly inside a workspace.
_MADE = re.compile(
    r"\.mlflow\.lock|mlflow(-before-\d+)?\.db(-\w+)?|artifacts|runs|tracking|pretraining|tuning|labelling|images"
)
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?")  # the names that atomic.replacing makes


def default_workspace() -> Path:
    """The default workspace."""
    return Path(os.environ.get(VARIABLE) or DEFAULT).expanduser()


def find_workspace(path: Path | None = None) -> Path:
    """The workspace to read, as an absolute path: ``path``, else $GENNAPE_WORKSPACE, else ./gennape-workspace.

    Nothing is written there: the workspace may belong to another user or be on a read-only disk.
    """
    return (path or default_workspace()).expanduser().absolute()


def open_workspace(path: Path | None = None) -> Path:
    """The workspace of :func:`find_workspace` for writing; it is created if absent.

    Other users cannot read the workspace, nor anything that this process writes from now on (its umask becomes 077).
    Raises :class:`WorkspaceError` when files cannot be written there, which is tested by writing one.
    """
    folder = find_workspace(path)
    os.umask(0o077)
    make_writable(folder, REMEDY, "the workspace ")
    _tighten(folder)
    return folder


def _tighten(folder: Path) -> None:
    """Remove other users' permissions from what earlier versions of gennape wrote in a workspace; other files stay."""
    ours = [path for path in folder.iterdir() if _MADE.fullmatch(path.name)]
    for path in ours:
        if _close(path) and path.is_dir():  # files inside a closed folder are closed, too
            for parent, folders, files in os.walk(path):
                for name in (*folders, *files):
                    _close(Path(parent, name))
    if folder.name == DEFAULT or (ours and len(ours) == len(list(folder.iterdir()))):
        _close(folder)


def _close(path: Path) -> bool:
    """Remove others' permissions from a file of this user that is no link. Returns whether there were any."""
    with suppress(OSError):
        found = path.lstat()
        if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o077:
            path.chmod(stat.S_IMODE(found.st_mode) & ~0o077)
            return True
    return False


def make_writable(folder: Path, remedy: str, what: str = "") -> None:
    """Make a folder if absent; raises :class:`WorkspaceError`, ending in ``remedy``, when it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WorkspaceError(f"cannot write to {what}{folder} ({error.strerror or error}); {remedy}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """``atomic.replacing`` that also survives a power cut: the content reaches the disk before the name does.

    Raises :class:`WorkspaceError` when the file cannot be written.
    """
    with replacing(path) as temporary:
        yield temporary
        _flush(temporary)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove_partial_files(folder: Path) -> None:
    """Delete partial files of killed writers in a folder. No writer may be at work in it."""
    try:
        for path in folder.iterdir():
            if is_partial(path):
                path.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise WorkspaceError(f"cannot tidy up {error.filename or folder}: {reason}; move it away") from error


def is_partial(path: Path) -> bool:
    """Whether a file is being written, or was left unfinished by a killed writer."""
    return _PARTIAL.fullmatch(path.name) is not None


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
