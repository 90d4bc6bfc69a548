"""A path that does not exist, and the one beside it that was probably meant."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

_MAX_NAMES = 10_000  # of a folder that are compared


def missing(path: Path) -> str:
    """What to say of a path that does not exist, without a full stop: with the most similar name beside it."""
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
