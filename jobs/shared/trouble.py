"""What a verb ends with when the machine fails it: no memory, a full disk, a folder that cannot be used."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

from gennape.errors import WorkspaceError
from gennape.search_spaces.files.memory import address_limit, available, in_words

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: What libraries of C and C++ say when memory, or threads, which need some, cannot be had.
_NO_MEMORY = re.compile(
    r"bad_?alloc|can't start new thread|[Cc]annot allocate memory|[Cc]an't allocate memory|failed to map segment|"
    r"[Oo]ut of memory|not enough memory|Resource temporarily unavailable|pthread_create|std::system_error|"
    r"cannot create thread|malloc of size|realloc of size"
)


def refuse_removed_folder() -> None:
    """Raise :class:`WorkspaceError` where the folder that this runs in is gone: libraries crash there, or wait."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise WorkspaceError("the folder that this runs in was removed; cd to one that exists") from None


def trouble_of(error: BaseException) -> str | None:
    """One sentence about what the machine lacks; None where that is not why a verb ended."""
    chain = _chain(error)
    if any(map(_lacks_memory, chain)):
        return _no_memory()
    for one in chain:
        if isinstance(one, OSError) and one.errno in _FULL:
            return _full(one)
    for one in chain:
        if isinstance(one, FileNotFoundError) and "temporary directory" in str(one):
            named = os.environ.get("TMPDIR", "the system's")
            return f"no folder for temporary files can be written ({named}); set TMPDIR to one that can"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"cannot use {os.fsdecode(error.filename)}: {error.strerror}; choose another place, or mend this one"
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from, nearest first."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return found


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, SystemError):  # libraries that were refused memory return so while they are loaded
        return address_limit() is not None
    return isinstance(error, RuntimeError | ImportError) and _NO_MEMORY.search(str(error)) is not None


def _no_memory() -> str:
    limit, left = address_limit(), available()
    limits = [] if left is None else [f"{in_words(left)} are left on this machine"]
    limits += [] if limit is None else [f"a process may have {in_words(limit)} (ulimit -v)"]
    known = f" ({', '.join(limits)})" if limits else ""
    return f"out of memory{known}; give it more, end other programs, or take fewer or smaller networks at a time"


def _full(error: OSError) -> str:
    """Names the folder: that of the file, or else one that takes no byte more, if it can be found."""
    if error.filename is not None:
        path = Path(os.fsdecode(error.filename))
        folder = path if path.is_dir() else path.parent
    else:
        found = _full_folder()
        if found is None:
            return f"cannot write: {error.strerror}"
        folder = found
    limit = "the largest file allowed (ulimit -f) is reached" if error.errno == errno.EFBIG else "the disk is full"
    return f"cannot write to {folder}: {limit} ({error.strerror}); free some space, or choose another folder"


def _full_folder() -> Path | None:
    """Of the one for temporary files and the working folder the first that takes no byte more; None if both do."""
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError:
        return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 (named, not written)
    for folder in (temporary, Path.cwd()):
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(1 << 16))
        except OSError:
            return folder
    return None
