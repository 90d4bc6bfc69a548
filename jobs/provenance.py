"""Where a result comes from: data, seed, version and commit."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import gennape


def provenance(data: Path | None, seed: int, **settings: Any) -> dict[str, Any]:
    """What to write beside a result so that it can be made again."""
    source = {"file": data.name, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()} if data else None
    return {"data": source, "seed": seed, "version": gennape.__version__, "commit": commit(), **settings}


def commit() -> str | None:
    """The commit of the source tree that runs, ``+changes`` if it differs from it; None where there is none."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        name = _git(root, "rev-parse", "HEAD")
        return f"{name}+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.CalledProcessError):  # no git here, or no commit yet: the version must do
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()  # noqa: S603
