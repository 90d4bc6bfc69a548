"""Downloads from a server on this machine: whole, broken off and taken up again, changed meanwhile, wrong, refused."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gennape.errors import ConfigError, InvalidDataError, ServiceError, WorkspaceError
from gennape.search_spaces.labels import download
from gennape.search_spaces.labels.catalogue import SOURCES, source
from gennape.search_spaces.labels.download import fetch, sha256_of

CONTENT = np.random.default_rng(0).bytes(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Site:
    """What the server does: ``budget``, bytes it sends before each of the next connections breaks."""

    def __init__(self) -> None:
        self.content, self.tag, self.ranges, self.kind = CONTENT, '"one"', True, "application/octet-stream"
        self.budget: list[int] = []
        self.asked: list[str | None] = []
        self.redirect: str | None = None
        self.status: int | None = None
        self.url = ""


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class _Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            site.asked.append(self.headers.get("Range"))
            if site.status is not None or (site.redirect and self.path == "/moved"):
                self.send_response(site.status or 302)
                self.send_header("Location", site.redirect or "")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = self._start()
            body = site.content[start:] if start is not None else site.content
            self.send_response(200 if start is None else 206 if body else 416)
            self.send_header("Content-Type", site.kind)
            if site.tag:
                self.send_header("ETag", site.tag)
            if start is not None:
                total = len(site.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}" if body else f"bytes */{total}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.budget.pop(0)] if site.budget else body)

        def _start(self) -> int | None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range") in (None, site.tag)
            return int(asked[1]) if asked and same and site.ranges else None

    return _Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "WAIT_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Site()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(made)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_port}/file.bin"
        yield made
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file(site: Site, tmp_path: Path) -> None:
    to, heard = tmp_path / "file.bin", list[tuple[int, int | None]]()
    assert fetch(site.url, to, SHA256.upper(), lambda *now: heard.append(now))
    assert to.read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    assert heard[0] == (0, len(CONTENT))
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert not fetch(site.url, to, SHA256)
    assert len(site.asked) == 1


def test_a_broken_connection_is_taken_up_again(site: Site, tmp_path: Path) -> None:
    site.budget = [70_000, 50_000]
    fetch(site.url, tmp_path / "file.bin", SHA256)
    assert site.asked == [None, "bytes=70000-", "bytes=120000-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_later_call_goes_on_from_the_part(site: Site, tmp_path: Path) -> None:
    to = tmp_path / "file.bin"
    site.budget = [60_000, 0, 0, 0]
    with pytest.raises(ServiceError, match="after 60000 bytes; run the same command again to go on"):
        fetch(site.url, to, SHA256)
    assert names(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    fetch(site.url, to, SHA256)
    assert site.asked[-1] == "bytes=60000-"
    assert to.read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]


def _changed(site: Site) -> None:
    site.content, site.tag = bytes(1000), '"two"'


def _no_ranges(site: Site) -> None:
    site.ranges = False


def _no_tag(site: Site) -> None:
    site.tag = ""


@pytest.mark.parametrize("change", [_changed, _no_ranges, _no_tag])
def test_what_cannot_be_gone_on_with_starts_anew(site: Site, tmp_path: Path, change: Callable[[Site], None]) -> None:
    to = tmp_path / "file.bin"
    if change is _no_tag:
        change(site)
    site.budget = [60_000] + [0] * 10
    with pytest.raises(ServiceError):
        fetch(site.url, to)
    site.budget = []
    change(site)
    fetch(site.url, to)
    assert to.read_bytes() == site.content


def test_another_address_does_not_go_on_from_the_part(site: Site, tmp_path: Path) -> None:
    site.budget = [60_000, 0, 0, 0]
    with pytest.raises(ServiceError):
        fetch(site.url, tmp_path / "file.bin")
    fetch(site.url + "?other", tmp_path / "file.bin")
    assert site.asked[-1] is None
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_already(site: Site, tmp_path: Path) -> None:
    to = tmp_path / "file.bin"
    site.budget = [10, 0, 0, 0]
    with pytest.raises(ServiceError):
        fetch(site.url, to)
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    fetch(site.url, to, SHA256)
    assert site.asked[-1] == f"bytes={len(CONTENT)}-"


def test_a_part_that_is_too_long_starts_anew(site: Site, tmp_path: Path) -> None:
    to = tmp_path / "file.bin"
    site.budget = [10, 0, 0, 0]
    with pytest.raises(ServiceError):
        fetch(site.url, to)
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    fetch(site.url, to, SHA256)
    assert to.read_bytes() == CONTENT


def test_a_wrong_sum_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=f"was not written: .* has SHA-256 {SHA256}, expected {'0' * 64}"):
        fetch(site.url, tmp_path / "file.bin", "0" * 64)
    assert names(tmp_path) == []


def test_a_file_that_is_there_is_never_replaced(site: Site, tmp_path: Path) -> None:
    to = tmp_path / "file.bin"
    to.write_text("mine")
    with pytest.raises(ConfigError, match="exists; remove it"):
        fetch(site.url, to)
    with pytest.raises(InvalidDataError, match="has SHA-256"):
        fetch(site.url, to, SHA256)
    assert to.read_text() == "mine"
    assert site.asked == []


def test_redirections_are_followed_to_web_addresses_only(site: Site, tmp_path: Path) -> None:
    moved = site.url.replace("/file.bin", "/moved")
    site.redirect = site.url
    fetch(moved, tmp_path / "a", SHA256)
    for target in ("file:///etc/hostname", "ftp://localhost/x", "data:,x"):
        site.redirect = target
        with pytest.raises((ConfigError, ServiceError), match=r"https://..., got|is not allowed"):
            fetch(moved, tmp_path / "b")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://localhost/x", "nb101", "http://", "data:,x"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"https://..., got"):
        fetch(url, tmp_path / "a")


def test_an_encrypted_address_never_leads_to_a_plain_one() -> None:
    request = download.urllib.request.Request("https://example.org/a")
    with pytest.raises(ServiceError, match="not encrypted"):
        download._SafeRedirects().redirect_request(request, None, 302, "", {}, "http://example.org/a")


@pytest.mark.parametrize("status", [404, 500, 503])
def test_what_the_server_refuses(site: Site, tmp_path: Path, status: int) -> None:
    site.status = status
    with pytest.raises(ServiceError, match=f"the server answers {status}"):
        fetch(site.url, tmp_path / "a")
    assert names(tmp_path) == []


def test_a_web_page_is_no_file(site: Site, tmp_path: Path) -> None:
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(ServiceError, match="a web page, not a file"):
        fetch(site.url, tmp_path / "a")
    assert names(tmp_path) == []


def test_no_server(tmp_path: Path, site: Site) -> None:
    with pytest.raises(ServiceError, match="run the same command again"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a")
    assert site.asked == []


def test_no_folder(site: Site, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="cannot write"):
        fetch(site.url, tmp_path / "none" / "a")


def test_no_space(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(WorkspaceError, match="10 bytes free, 200000 are needed"):
        fetch(site.url, tmp_path / "a")


def test_a_sum_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        fetch("http://localhost/a", tmp_path / "a", "abc")


def test_sum_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


# The list of files ---------------------------------------------------------------------------------------------------


def test_the_list_is_sound() -> None:
    assert len({known.key for known in SOURCES}) == len(SOURCES)
    for known in SOURCES:
        assert source(known.key) is known
        assert known.page.startswith("https://")
        assert known.url.startswith("https://") or not known.url
        assert re.fullmatch(r"[0-9a-f]{64}|", known.sha256)
        assert known.size
        assert known.licence
    with pytest.raises(ConfigError, match="unknown file 'x'; known are nb101-108"):
        source("x")
