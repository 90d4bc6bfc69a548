"""Atomic writing of files: a reader sees the old file or the complete new one."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gennape.errors import WorkspaceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)?")  # what temporary_name gives


def temporary_name(path: Path) -> Path:
    """A new hidden name beside ``path``, of the same suffix, for what is to take its place."""
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path with the suffix of ``path``, which it replaces when the block succeeds; else it is deleted.

    Raises :class:`WorkspaceError` if the folder cannot be written.
    """
    temporary = temporary_name(path)
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


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """:func:`replacing` that holds across a power cut too: the content reaches the disk before the name does.

    Raises :class:`WorkspaceError` when the file cannot be written.
    """
    with replacing(path) as temporary:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable and stable."""
    atomic_write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def remove_partial_files(folder: Path) -> None:
    """Delete what writers that were killed left in a folder; no writer may be at work in it."""
    try:
        for path in folder.iterdir():
            if is_partial(path):
                path.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise WorkspaceError(f"cannot tidy up {error.filename or folder}: {reason}; move it away") from error


def is_partial(path: Path) -> bool:
    """Whether a file is one that is being written, or that a writer left who was killed."""
    return _PARTIAL.fullmatch(path.name) is not None
