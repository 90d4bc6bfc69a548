"""The folder that holds everything gennape writes, and the folders in it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from gennape.errors import WorkspaceError

DEFAULT = "gennape-workspace"
VARIABLE = "GENNAPE_WORKSPACE"
#: Where a workspace keeps its runs.
RUNS = "runs"
#: How to name another workspace.
REMEDY = f"give another folder with --workspace or ${VARIABLE}"
#: Names directly inside a workspace.
_MADE = re.compile(
    r"\.mlflow\.lock|mlflow(-before-\d+)?\.db(-\w+)?|artifacts|runs|tracking|pretraining|tuning|labelling|images"
)


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


def work_folder(parent: Path, out: Path, name: str) -> Path:
    """Where under ``parent`` is kept what is under way for the output ``out``: ``name``, and what tells it from others
    of that name. One for all ways to write the path."""
    return parent.absolute() / f"{name}-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]}"
