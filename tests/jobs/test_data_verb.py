from __future__ import annotations

import functools
import hashlib
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from gennape.errors import ConfigError, InvalidDataError
from gennape.jobs.data import data
from gennape.search_spaces.files import tfrecord
from gennape.search_spaces.labels.catalogue import SOURCES

APP = typer.Typer()
APP.command()(data)
BLOCKS = '"[""hiaml_z"",""hiaml_z"",""hiaml_z"",""hiaml_z""]"'


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [*map(str, arguments)], catch_exceptions=False)


def test_the_list_names_every_file_with_its_origin() -> None:
    shown = _run()
    assert shown.exit_code == 0
    for source in SOURCES:
        assert f"{source.key}: {source.what}" in shown.output
        assert source.page in shown.output
        assert source.sha256 in shown.output
    assert "NAS-Bench-301: nb_301" in shown.output
    assert _run("list").output == shown.output


def test_fetch_checks_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "labels.csv").write_text("some,file\n")
    sha256 = hashlib.sha256(b"some,file\n").hexdigest()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "site"))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/labels.csv"
        try:
            monkeypatch.chdir(tmp_path)
            assert f"SHA-256 {sha256}, nothing known to compare it with" in _run("fetch", url).output
            assert (tmp_path / "labels.csv").read_text() == "some,file\n"
            to = tmp_path / "other.csv"
            assert f"SHA-256 {sha256}, as expected" in _run("fetch", url, "--to", to, "--sha256", sha256).output
            assert "is there already" in _run("fetch", url, "--to", to, "--sha256", sha256).output
            with pytest.raises(InvalidDataError, match="has SHA-256"):
                _run("fetch", url, "--to", tmp_path / "third.csv", "--sha256", "0" * 64)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetch",), "needs a key or URL"),
        (("check",), "needs a file"),
        (("fetch", "nb102"), "unknown file 'nb102'; known are nb101-108"),
        (("fetch", "nats-simple"), "lies behind a web page: open https://github.com/D-X-Y/NATS-Bench"),
        (("fetch", "https://example.org/"), "names no file; choose one with --to"),
        (("fetch", "file:///etc/hostname"), "https://..., got"),
        (
            ("check", "a.csv", "--sha256", "0" * 64, "--to", "b.csv"),
            "`gennape data check` takes no --to and no --sha256",
        ),
        (("fetch", "nb101-108", "--space", "nb101"), "`gennape data fetch` takes no --space; leave it out"),
        (("list", "--column", "acc"), "`gennape data list` takes no --column"),
    ],
)
def test_refuses(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        _run(*arguments)


def test_check_counts_shows_and_rejects(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"architecture,acc\n{BLOCKS},91.5\n{BLOCKS},92.5\n")
    good = _run("check", path, "--space", "hiaml")
    assert good.exit_code == 0
    assert "2 rows of 1 different architectures\nacc from 91.5 to 92.5\ncolumns architecture, acc" in good.output
    assert f"91.5  {json.dumps(['hiaml_z'] * 4)}" in good.output
    assert "0 rejected" in good.output
    path.write_text(f"architecture,acc\n{BLOCKS},91.5\n" + 7 * "nothing,92\n")
    bad = _run("check", path, "--space", "hiaml")
    assert bad.exit_code == 1
    assert "1 row of 1 different" in bad.output
    assert "7 rejected" in bad.output
    assert "row 2: hiaml: " in bad.output
    assert "row 7" not in bad.output


def test_check_without_a_readable_row(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("architecture,acc\nnothing,92\n")
    shown = _run("check", path, "--space", "hiaml")
    assert shown.exit_code == 1
    assert "0 rows" in shown.output


def test_check_asks_for_the_family_only_where_it_must(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"architecture,acc\n{BLOCKS},91.5\n")
    with pytest.raises(ConfigError, match=r"name the family with --space, one of .*hiaml"):
        _run("check", path)
    (tmp_path / "results_0.json").write_text("{}")
    shown = _run("check", tmp_path / "results_0.json")
    assert "NAS-Bench-301, read as nb301" in shown.output
    assert shown.exit_code == 1


def test_check_compares_with_the_published_sum(tmp_path: Path) -> None:
    path = tmp_path / "nasbench_only108.tfrecord"
    path.write_bytes(bytes(8) + tfrecord.masked(tfrecord.crc32c([bytes(8)])).tobytes())
    with pytest.raises(InvalidDataError, match="has SHA-256"):
        _run("check", path)
