"""Own code that is shipped with a job: files and packages, copied into the job's working folder."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from gennape.errors import ConfigError
from gennape.platform.cluster.wheel import EXCLUDES, LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def gather(sources: Iterable[Path], into: Path) -> None:
    """Copy files and folders of packages into one folder, without caches and environments.

    Raises:
        ConfigError: Two of them have one name, or they hold more than a job may ship.
    """
    taken: dict[str, Path] = {}
    for source in sources:
        if taken.setdefault(source.name, source) != source:
            raise ConfigError(f"{taken[source.name]} and {source} have one name; a job ships one of them, rename one")
    for source in taken.values():
        if source.is_dir():
            shutil.copytree(source, into / source.name, ignore=shutil.ignore_patterns(*EXCLUDES))
        else:
            shutil.copy2(source, into / source.name)
    total = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
    if total > LIMIT_BYTES:
        raise ConfigError(
            f"the own code of this job holds {total / 2**20:,.1f} MiB, at most {LIMIT_BYTES / 2**20:,.0f} MiB are "
            "shipped; put the class into a file beside nothing else"
        )
