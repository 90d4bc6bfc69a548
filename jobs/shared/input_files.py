"""Files that a verb is given: what is wrong with one that cannot be read, before anything else is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.nearby import missing

if TYPE_CHECKING:
    from pathlib import Path


def require_file(path: Path) -> None:
    """Raise :class:`InvalidDataError` unless there is a file with something in it, and say what is there instead."""
    if path.is_dir():
        raise InvalidDataError(f"{path} is a folder; name a file in it")
    if not path.exists():
        raise InvalidDataError(missing(path))
    if not path.is_file():
        raise InvalidDataError(f"{path} is no regular file; copy what it gives into one")
    if path.stat().st_size == 0:
        raise InvalidDataError(f"{path} is empty; write or fetch it again")
