"""Where a result comes from: data, seed, version and commit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gennape
from gennape.search_spaces.files.bounded import open_regular
from gennape.source import commit


def provenance(data: Path | None, seed: int, **settings: Any) -> dict[str, Any]:
    """What to write beside a result so that it can be made again."""
    source = {"file": data.name, "sha256": _sha256(data)} if data else None
    return {"data": source, "seed": seed, "version": gennape.__version__, "commit": commit(), **settings}


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
