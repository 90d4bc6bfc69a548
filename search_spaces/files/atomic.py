"""Atomic writing of files: a reader sees the old file or the complete new one."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from gennape.errors import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path with the suffix of ``path``, which it replaces when the block succeeds; else it is deleted.

    Raises :class:`WorkspaceError` if the folder cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room on that disk" if full else "choose a folder that exists and can be written"
        raise WorkspaceError(f"cannot write {path}: {reason}; {remedy}") from error
    finally:
        with suppress(OSError):  # where nothing can be written, nothing is left behind
            temporary.unlink()
