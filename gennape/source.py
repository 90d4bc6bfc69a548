"""Which source code runs: the commit of the checkout that this package lies in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def commit() -> str | None:
    """The 40 digits of the commit, ``-dirty`` after them when files differ; None outside a checkout or without git."""
    git, here = shutil.which("git"), Path(__file__)
    # A virtual environment may lie inside somebody's own repository: only one that tracks this file is ours.
    if git is None or _ask(git, "ls-files", "--error-unmatch", here.name).returncode != 0:
        return None
    return _ask(git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty").stdout.strip() or None


def _ask(git: str, *question: str) -> subprocess.CompletedProcess[str]:
    folder = Path(__file__).parent
    return subprocess.run([git, *question], cwd=folder, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
