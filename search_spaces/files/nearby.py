"""Suggestions for a path or a name that does not exist."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_MAX_NAMES = 10_000  # entries of a folder that are compared


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion of the known name most similar to ``name``, or an empty text."""
    meant = get_close_matches(name, list(known), 1)
    return f"; did you mean {meant[0]}?" if meant else ""


def missing(path: Path) -> str:
    """A message, without full stop, for a path that does not exist; it suggests the most similar name in the folder."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path} does not exist, nor does the folder {folder}"
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for _, entry in zip(range(_MAX_NAMES), entries, strict=False)]
    except OSError:
        return f"{path} does not exist"
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(path.name.lower(), by_lower, 1, 0.75)
    return f"{path} does not exist" + (f"; did you mean {folder / by_lower[close[0]]}?" if close else "")
