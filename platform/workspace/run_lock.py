"""Who works in a folder: a lock that goes with its process."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gennape.errors import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

_LOCK = ".lock"
#: :func:`at_work` also holds the lock for a moment, so locking a run is tried several times.
_TRIES, _WAIT_S = 5, 0.1


class RunLock:
    """A run folder that is locked by this process."""

    def __init__(self, folder: Path, file: IO[str]) -> None:
        self._folder = folder
        self._file = file

    def check(self) -> None:
        """Raise :class:`WorkspaceError` if the folder has been deleted or moved."""
        mine = os.fstat(self._file.fileno())
        try:
            there = (self._folder / _LOCK).stat()
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise WorkspaceError(
                f"the folder of the run was deleted or moved while it was at work: {self._folder}; "
                "what it held cannot be continued from there: start a new search, or put the folder back and resume it"
            )


@contextmanager
def lock_run(folder: Path) -> Iterator[RunLock]:
    """Lock a run folder for the length of the block. The lock is freed when the process ends, however it ends.

    Raises :class:`WorkspaceError` if another process holds the lock.
    """
    try:
        file = _open_lock(folder, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise WorkspaceError(f"cannot lock {folder / _LOCK}: {error.strerror or error}; remove it") from error
    with file:
        for attempt in range(_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == _TRIES - 1:
                    raise WorkspaceError(
                        f"run {folder.name} is at work in another process; wait for it or stop it"
                    ) from None
                time.sleep(_WAIT_S)
            else:
                break
        yield RunLock(folder, file)


def _open_lock(folder: Path, flags: int) -> IO[str]:
    """Open the lock file without following links or blocking."""
    opened = os.open(folder / _LOCK, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        return os.fdopen(opened, "w" if flags & os.O_RDWR else "r")
    except OSError:
        os.close(opened)
        raise


def at_work(folder: Path) -> bool:
    """Whether a process is working in a run folder, which means that it holds the lock."""
    try:
        with _open_lock(folder, os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # never started, or not readable by this user
        return False
    return False
