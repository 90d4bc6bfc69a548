"""Memory that is available to this process: of the machine, its control group, and its address space."""

from __future__ import annotations

import resource
from pathlib import Path

_GROUP, _SYSTEM = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


def address_limit() -> int | None:
    """The limit of a process's address space in bytes (``ulimit -v``); None without a limit."""
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else int(soft)


def available() -> int | None:
    """Bytes that can be allocated without swapping or being killed; None if the system does not say."""
    known = [found for found in (_of_system(), _of_group()) if found is not None]
    return min(known, default=None)


def _of_system() -> int | None:
    for line in _text(_SYSTEM).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable" and value.split()[:1]:
            return 1024 * int(value.split()[0])
    return None


def _of_group() -> int | None:
    """Available bytes of the control group (version 2). Caches count as available."""
    most, used = _text(_GROUP / "memory.max").strip(), _text(_GROUP / "memory.current").strip()
    if not (most.isdecimal() and used.isdecimal()):
        return None
    cached = dict(line.split() for line in _text(_GROUP / "memory.stat").splitlines() if len(line.split()) == 2)
    return max(int(most) - int(used) + int(cached.get("inactive_file", 0)), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def in_words(size: int) -> str:
    """A number of bytes, such as 1.5 GB or 640 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
