"""Open untrusted files: only regular files, without blocking, and read up to a limit."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from struct import error as StructError
from typing import Any, Protocol, runtime_checkable

from gennape.errors import InvalidDataError

#: Default limit of a file's decompressed size, bytes; larger than every published file.
MAX_BYTES = 64 * 2**30
#: A file of some megabytes or more that decompresses to more than this many times its size is regarded as a bomb.
_MAX_RATIO, _ALWAYS = 256, 1 << 26
#: Exceptions of Python's archive and compression modules for damaged files.
BROKEN = (
    OSError, EOFError, RuntimeError, ValueError, StructError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
    tarfile.TarError,
)  # fmt: skip
#: Magic numbers of compressed files.
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}
#: Kinds of paths that are no regular files, and their names in messages.
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)  # fmt: skip


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises :class:`OSError` like ``open``, and also for folders, pipes, sockets and devices, which may block or never
    end; its ``strerror`` says what the path is.
    """
    try:
        _refuse_irregular(os.stat(path).st_mode, path)  # before opening, which may already block or rewind a tape
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a name with a zero byte
        raise OSError(errno.EINVAL, f"no name of a file ({error})", str(path)) from error
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode, path)  # the path may have changed meanwhile
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def require_regular(path: Path) -> None:
    """Raise :class:`OSError` like :func:`open_regular`, for readers that open the path themselves."""
    open_regular(path).close()


def _refuse_irregular(mode: int, path: Path) -> None:
    for matches, kind in _KINDS:
        if matches(mode):
            raise OSError(errno.EINVAL, f"it is {kind}, where a regular file is needed", str(path))


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a regular file.

    Raises :class:`OSError` like :func:`open_regular`, and for a file of more than ``most`` bytes before it is read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it holds {size:,} bytes, where at most {most:,} are read", str(path))
        content = file.read(size + 1)
        while len(content) > size:  # system files have size 0, and others may grow meanwhile
            if len(content) > most:
                raise OSError(errno.EFBIG, f"it holds more than the {most:,} bytes that are read at most", str(path))
            size = len(content)
            content += file.read(1 << 20)
        return content


@runtime_checkable
class Readable(Protocol):
    """Whatever bytes can be read from."""

    def read(self, n: int, /) -> bytes: ...


class _Bounded(io.RawIOBase):
    """Reads from ``source``, and raises after ``most`` bytes."""

    def __init__(self, source: Readable, where: str, most: int) -> None:
        self.source, self.where, self.most, self.count = source, where, most, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.count

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self.source.read(len(view))
        except BROKEN as error:
            raise InvalidDataError(
                f"{self.where}: cannot be read after byte {self.count}: {error}; fetch it again"
            ) from error
        self.count += len(data)
        if self.count > self.most:
            raise InvalidDataError(f"{self.where}: holds more than {self.most} bytes once decompressed; not read")
        view[: len(data)] = data
        return len(data)


def bounded(source: Readable, where: str, most: int = MAX_BYTES) -> io.BufferedReader:
    """``source``, buffered; raises :class:`InvalidDataError` naming ``where`` beyond ``most`` bytes."""
    return io.BufferedReader(_Bounded(source, where, most), 1 << 18)


def expected(compressed: int) -> int:
    """The plausible decompressed size of this many compressed bytes."""
    return _ALWAYS + _MAX_RATIO * compressed


@contextmanager
def open_bounded(path: Path, most: int = MAX_BYTES) -> Iterator[io.BufferedReader]:
    """A file's bytes, decompressed if it is gzip or bz2; :class:`InvalidDataError` when unreadable or too large."""
    try:
        with open_regular(path) as plain:
            opener = _OPENERS.get(plain.read(2))
            if opener:
                most = min(most, expected(plain.seek(0, io.SEEK_END)))
            plain.seek(0)
            source: Readable = opener(plain, "rb") if opener else plain
            yield bounded(source, str(path), most)
    except OSError as error:
        raise InvalidDataError(f"cannot read {path}: {error.strerror or error}") from error
