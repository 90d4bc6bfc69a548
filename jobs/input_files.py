"""Files that a verb is given: what is wrong with one that cannot be read, before anything else is done."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING

from gennape.errors import InvalidDataError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_LISTED = 10_000  # names of a folder that are compared


def require_file(path: Path) -> None:
    """Raise :class:`InvalidDataError` unless there is a file with something in it, and say what is there instead."""
    if path.is_dir():
        raise InvalidDataError(f"{path} is a folder; name a file in it")
    if not path.exists():
        raise InvalidDataError(f"{path} does not exist{_meant(path)}")
    if not path.is_file():
        raise InvalidDataError(f"{path} is no regular file; copy what it gives into one")
    if path.stat().st_size == 0:
        raise InvalidDataError(f"{path} is empty; write or fetch it again")


def require_folder(path: Path) -> None:
    """Raise :class:`InvalidDataError` unless there is a folder, and say what is there instead."""
    if path.is_dir():
        return
    if path.exists():
        raise InvalidDataError(f"{path} is a file; name the folder that it is in")
    raise InvalidDataError(f"{path} does not exist{_meant(path)}")


def _meant(path: Path) -> str:
    """The most similar name beside a path that does not exist, as a question."""
    folder = path.parent
    if not folder.is_dir():
        return f", nor does the folder {folder}"
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for _, entry in zip(range(_MAX_LISTED), entries, strict=False)]
    except OSError:
        return ""
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(path.name.lower(), by_lower, 1, 0.75)
    return f"; did you mean {folder / by_lower[close[0]]}?" if close else ""
