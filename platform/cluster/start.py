"""Start local Rays of the same user one after another, even if their commands begin at once."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The lock file, beside Ray's token.
LOCK = "~/.ray/gennape-start.lock"
MAX_WAIT_S, LOOK_S = 300.0, 0.1


@contextmanager
def turn_to_start() -> Iterator[None]:
    """Wait until no other command of this user is starting a local Ray on this machine.

    Ray gives its processes 30 s to start. Several Rays that start at once on few cores exceed this limit and retry,
    which makes it worse. There is no waiting if the home folder is not writable or does not support locks, and waiting
    is limited in time.
    """
    path = Path(LOCK).expanduser()
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        _wait_for(file)
        yield
    finally:
        os.close(file)


def _wait_for(file: int) -> None:
    deadline = time.monotonic() + MAX_WAIT_S
    while time.monotonic() < deadline:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_S)
        except OSError:
            return
        else:
            return
