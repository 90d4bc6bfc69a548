"""The folder and the processes of a local Ray. Both are removed with its command, or at the next start.

Only its owner can enter the folder. An environment variable, which child processes inherit, says which folder a process
belongs to.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from gennape.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "gn-ray-"
LOCK = "lock"
VARIABLE = "GENNAPE_RAY_SESSION"
#: A folder inside the private one, since Ray makes its own folder writable for everyone.
INNER = "r"
#: Ray's socket paths are 64 characters longer than INNER, and the system allows 103 (macOS) or 107 characters.
MAX_PATH = 36
#: A folder without a lock belongs to a command that is just starting, or that was killed while starting.
_UNLOCKED_S = 60.0
_REMOVAL_S = 5.0
_GRACE_S = 1.0
_TRIES = 10


@contextmanager
def session_folder() -> Iterator[Path]:
    """Make a private folder for a local Ray for the length of the block, and remove folders of killed commands.

    It is in the folder for temporary files ($TMPDIR), or in /tmp if that path is too long for Ray's sockets.
    Raises :class:`ServiceError` when it cannot be made.
    """
    parent = _parent()
    remove_stale(parent)
    folder, lock = _locked(parent)
    try:
        inner = folder / INNER
        inner.mkdir()
        yield inner
    finally:
        end_processes(inner, _GRACE_S)
        _remove(folder)
        lock.close()


@contextmanager
def marked(inner: Path) -> Iterator[None]:
    """Mark processes that are started in the block, and their children, as belonging to this folder's session."""
    os.environ[VARIABLE] = str(inner)
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def end_processes(inner: Path, grace_s: float) -> None:
    """Kill processes of a session that do not end by themselves within a few seconds."""
    _, late = psutil.wait_procs(_processes(inner), grace_s)
    for process in late:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(late, _REMOVAL_S)


def _processes(inner: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.uids().real == os.getuid() and process.environ().get(VARIABLE) == str(inner):
                found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def remove_stale(parent: Path) -> None:
    """Remove folders of killed commands from ``parent``: those of this user that no process has locked."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if _is_ours(folder) and _is_dead(folder):
                end_processes(folder / INNER, 0)
                shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _is_dead(folder: Path) -> bool:
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > _UNLOCKED_S
    except OSError:  # locked, so its command is alive
        return False
    return True


def _parent() -> Path:
    usual = Path(tempfile.gettempdir())
    for parent in (usual, Path("/tmp")):  # noqa: S108 (a folder of its own is made in it)
        if len(str(parent)) + len(PREFIX) + 9 <= MAX_PATH and parent.is_dir():
            return parent
    raise ServiceError(
        f"the folder for temporary files, {usual}, has too long a path for Ray's sockets; set a shorter TMPDIR"
    )


def _locked(parent: Path) -> tuple[Path, IO[str]]:
    """Make a folder and lock it; the system frees the lock when this process ends, however it ends."""
    for _ in range(_TRIES):
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            lock = (folder / LOCK).open("x")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ServiceError(
                f"cannot make a folder for Ray in {parent} ({error.strerror}); make room there, or set another TMPDIR"
            ) from error
        # Between the two calls another command may have removed the folder as that of a killed command.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat()):
                return folder, lock
        lock.close()
    raise ServiceError(f"cannot keep a folder for Ray in {parent}: something removes it; set another TMPDIR")


def _remove(folder: Path) -> None:
    """Remove a folder; Ray's last processes may still write to it while they end."""
    deadline = time.monotonic() + _REMOVAL_S
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            return  # the next start removes it
        if folder.exists():
            time.sleep(0.1)
