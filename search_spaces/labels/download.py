"""Download a file over HTTP, resume an interrupted download, and verify the result."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gennape.addresses import web_address
from gennape.errors import ConfigError, InvalidDataError, ServiceError, WorkspaceError
from gennape.search_spaces.files.atomic import replacing

#: Called with the bytes so far and the total (``None`` if the server does not say).
Progress = Callable[[int, int | None], None]
_CHUNK = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
#: Retries after a broken connection: how often, and the pause before each.
RETRIES, WAIT_S = 3, 1.0


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects only to web addresses, and never from HTTPS to HTTP."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_url(newurl)
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise ServiceError(f"{req.full_url} leads to {newurl}, which is not encrypted; it was not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_url(url: str) -> None:
    web_address(url, "what is fetched")


def _opener() -> urllib.request.OpenerDirector:
    """An opener for web addresses only; the default one would also read local files."""
    opener = urllib.request.OpenerDirector()
    handlers = (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler, _SafeRedirects,
        urllib.request.HTTPErrorProcessor, urllib.request.HTTPDefaultErrorHandler,
    )  # fmt: skip
    for handler in handlers:
        opener.add_handler(handler())
    return opener


@dataclass(frozen=True, slots=True)
class _Part:
    """The partial file, and the file beside it that identifies the server's version."""

    data: Path
    note: Path

    def size(self) -> int:
        return self.data.stat().st_size if self.data.exists() else 0

    def resume(self, url: str) -> tuple[int, dict[str, str]]:
        """The size of the partial file and the headers to request the rest; 0 and none if it is of another version."""
        try:
            known = json.loads(self.note.read_text())
        except (OSError, ValueError):
            known = {}
        validator = known.get("validator") if isinstance(known, dict) and known.get("url") == url else None
        if not isinstance(validator, str) or not validator.isprintable() or not self.size():
            return 0, {}
        return self.size(), {"Range": f"bytes={self.size()}-", "If-Range": validator}

    def remember(self, url: str, headers: http.client.HTTPMessage) -> None:
        """Store the identifier of the server's version. Without one a download cannot be resumed."""
        tag = headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
        with replacing(self.note) as temporary:
            temporary.write_text(json.dumps({"url": url, "validator": validator}))

    def discard(self) -> None:
        self.data.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def sha256_of(path: Path, progress: Progress | None = None) -> str:
    """SHA-256 of a file, in hexadecimal; raises :class:`InvalidDataError` when it cannot be read."""
    digest, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
                done += len(data)
                if progress:
                    progress(done, total)
    except OSError as error:
        raise InvalidDataError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise :class:`InvalidDataError` unless the file has that SHA-256."""
    found = sha256_of(path)
    if found != expected.lower():
        raise InvalidDataError(
            f"{path} has SHA-256 {found}, expected {expected.lower()}: it is damaged or another file"
        )


def fetch(url: str, to: Path, sha256: str | None = None, progress: Progress | None = None) -> bool:
    """Download ``url`` to the file ``to``. Returns False if it is already there with the right SHA-256.

    A partial download is kept in ``<to>.part``; a later call resumes it if the server's file is unchanged. ``to`` is
    written atomically, and only if ``sha256`` matches (else the partial file is deleted). Raises :class:`ConfigError`
    for an invalid address, an existing ``to`` or a malformed ``sha256``, :class:`ServiceError` if the server fails or
    the connection keeps breaking, :class:`InvalidDataError` for a wrong SHA-256 and :class:`WorkspaceError` if the disk
    cannot be written.
    """
    _check_url(url)
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"a SHA-256 has 64 hexadecimal digits, got {sha256!r}")
    if to.exists():
        if sha256 is None:
            raise ConfigError(f"{to} exists; remove it or choose another file")
        check_sha256(to, sha256)
        return False
    part = _Part(to.with_name(to.name + ".part"), to.with_name(to.name + ".part.json"))
    try:
        _fetch_part(url, part, progress or _silent)
        if sha256 is not None:
            _check_part(part, to, sha256)
        with part.data.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part.data, to)
        part.note.unlink(missing_ok=True)
    except OSError as error:
        raise WorkspaceError(f"cannot write {to}: {error.strerror or error}; choose another place") from error
    return True


def _silent(_done: int, _total: int | None) -> None:
    """Ignore progress."""


def _check_part(part: _Part, to: Path, sha256: str) -> None:
    try:
        check_sha256(part.data, sha256)
    except InvalidDataError as error:
        part.discard()
        raise InvalidDataError(f"{to} was not written: {error}; the part was discarded, fetch it again") from error


def _fetch_part(url: str, part: _Part, progress: Progress) -> None:
    """Download the missing bytes; reconnect as long as connections make progress."""
    broken = 0
    while True:
        before = part.size()
        try:
            if _one_connection(url, part, progress):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            raise ServiceError(f"{url}: the server answers {error.code} {error.reason}") from error
        except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError, urllib.error.URLError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        broken = 0 if part.size() > before else broken + 1
        if broken >= RETRIES:
            raise ServiceError(f"{url}: {reason} after {part.size()} bytes; run the same command again to go on")
        time.sleep(WAIT_S * broken)


def _one_connection(url: str, part: _Part, progress: Progress) -> bool:
    """Append the bytes of one connection. Returns whether the file is complete."""
    start, headers = part.resume(url)
    agent = {"User-Agent": "gennape", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers={**agent, **headers})  # noqa: S310 - the scheme was checked
    try:
        answer = _opener().open(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            error.close()
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return True  # it was already complete
            part.discard()
            return False
        raise
    with answer:
        return _receive(url, answer, part, start, progress)


def _receive(url: str, answer: Any, part: _Part, start: int, progress: Progress) -> bool:
    if answer.headers.get_content_type() == "text/html":
        raise ServiceError(f"{url} answers with a web page, not a file; open it in a browser and save the file by hand")
    partial = _RANGE.fullmatch(answer.headers.get("Content-Range", "")) if answer.status == 206 else None
    if answer.status == 206 and (partial is None or int(partial[1]) != start):
        raise ServiceError(
            f"{url}: asked for the bytes from {start} on, but the server sent others; remove {part.data}"
        )
    done = start if partial else 0
    length = answer.headers.get("Content-Length", "")
    total = done + int(length) if length.isdigit() else None
    if not partial:
        part.remember(url, answer.headers)
    _require_space(part.data, None if total is None else total - done)
    with part.data.open("ab" if partial else "wb") as file:
        progress(done, total)
        while data := answer.read(_CHUNK):
            file.write(data)
            done += len(data)
            progress(done, total)
    return total is None or done == total


def _require_space(path: Path, wanted: int | None) -> None:
    free = shutil.disk_usage(path.parent).free
    if wanted is not None and wanted > free:
        raise WorkspaceError(f"{path.parent} has {free} bytes free, {wanted} are needed; choose another place")
