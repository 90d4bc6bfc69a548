"""A machine that lacks memory or disk, and files that are none, end in one sentence."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gennape.errors import GennapeError, InvalidDataError, ServiceError, WorkspaceError
from gennape.jobs.cli import app
from gennape.jobs.shared.trouble import trouble_of
from gennape.platform.cluster import memory as room
from gennape.search_spaces.files import memory
from gennape.search_spaces.files.atomic import replacing
from gennape.search_spaces.files.bounded import open_bounded, open_regular, read_regular


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        ImportError("libtorch_cpu.so: cannot allocate memory in static TLS block: Cannot allocate memory"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_lack_of_memory_is_said_whatever_says_it(error: Exception) -> None:
    assert "out of memory" in str(trouble_of(error))
    wrapped = RuntimeError("while reading")
    wrapped.__cause__ = error
    assert "out of memory" in str(trouble_of(wrapped))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "front.csv"))
    assert f"cannot write to {tmp_path}: the disk is full" in str(trouble_of(error))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    unnamed = OSError(number, os.strerror(number))
    assert trouble_of(unnamed) == f"cannot write: {os.strerror(number)}"  # what is full here was its stdout

    def full(**_: object) -> None:
        raise unnamed

    monkeypatch.setattr("gennape.jobs.shared.trouble.tempfile.TemporaryFile", full)
    assert f"cannot write to {tmp_path}: the disk is full" in str(trouble_of(unnamed))


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "make room on that disk"), (errno.EACCES, "choose a folder that")]
)
def test_what_cannot_be_written_names_a_remedy(number: int, remedy: str, tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "front.html") as path:
            path.write_text("half")
            raise OSError(number, os.strerror(number), str(path))

    with pytest.raises(WorkspaceError, match=f"cannot write .*front.html: {os.strerror(number)}; {remedy}"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_fails_below_a_limit_lacked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import torch` with 800 MB of addresses ends so."""
    error = SystemError("error return without exception set")
    monkeypatch.setattr("gennape.jobs.shared.trouble.address_limit", lambda: None)
    assert trouble_of(error) is None
    monkeypatch.setattr("gennape.jobs.shared.trouble.address_limit", lambda: 819_200_000)
    assert "a process may have 819 MB (ulimit -v)" in str(trouble_of(error))


def test_other_faults_are_not_hidden() -> None:
    assert trouble_of(RuntimeError("odd")) is None
    assert trouble_of(ImportError("No module named 'x'")) is None
    assert trouble_of(OSError("odd")) is None
    assert "cannot use /x: Permission denied" in str(
        trouble_of(PermissionError(errno.EACCES, "Permission denied", "/x"))
    )


def test_ray_is_not_started_where_it_would_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "address_limit", lambda: 2_048_000_000)
    with pytest.raises(ServiceError, match=r"2\.0 GB of memory here \(ulimit -v\), and Ray needs 6\.0 GB"):
        room.refuse_small_machine()
    monkeypatch.setattr(room, "address_limit", lambda: None)
    monkeypatch.setattr(room, "available", lambda: 900_000_000)
    with pytest.raises(ServiceError, match=r"900 MB of memory are left, and Ray with a predictor needs 1\.5 GB"):
        room.refuse_small_machine()
    monkeypatch.setattr(room, "available", lambda: None)
    room.refuse_small_machine()


@pytest.mark.parametrize(
    ("place", "limit", "needs"), [("--cluster", 5_900_000_000, r"6\.0 GB"), ("--local", 2_900_000_000, r"3\.0 GB")]
)
def test_a_search_that_cannot_start_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, limit: int, needs: str
) -> None:
    monkeypatch.setattr(room, "address_limit", lambda: limit)
    options = ["--space", "hiaml", "--evaluations", "60", "--workspace", str(tmp_path / "workspace"), place]
    result = CliRunner().invoke(app, ["search", *options])
    assert isinstance(result.exception, ServiceError)
    assert re.search(needs, str(result.exception))
    assert not (tmp_path / "workspace" / "runs").exists()


def test_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "memory.current").write_text("1500000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000000\n")
    assert memory.available() == 600_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() != 600_000_000


@pytest.mark.timeout(30)
def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        listening.bind("socket")
        kinds = {"folder": "a folder", "pipe": "a pipe", "zero": "a device", "socket": "a socket"}
        for name, kind in kinds.items():
            with pytest.raises(OSError, match=f"it is {kind}, where a regular file is needed"):
                open_regular(tmp_path / name)
            with pytest.raises(InvalidDataError, match=f"it is {kind}"), open_bounded(tmp_path / name):
                pass
    for path in (tmp_path / "loop", tmp_path / "nul\0", tmp_path / "absent"):
        with pytest.raises(OSError, match=r"."):
            read_regular(path, 10)
    (tmp_path / "eleven").write_bytes(bytes(11))
    assert read_regular(tmp_path / "eleven", 11) == bytes(11)
    with pytest.raises(OSError, match="it holds 11 bytes, where at most 10 are read"):
        read_regular(tmp_path / "eleven", 10)
    assert read_regular(Path("/proc/self/stat"), 1 << 20)  # which says that it holds 0 bytes


@pytest.mark.timeout(60)
def test_images_are_regular_files_of_bounded_size(tmp_path: Path) -> None:
    from PIL import Image

    from gennape.platform.labelling.training.images import read_images

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    bad = tmp_path / "dog" / "b.png"
    for make, message in (
        (lambda: bad.symlink_to("/dev/zero"), "it is a device"),
        (lambda: os.mkfifo(bad), "it is a pipe"),
        (lambda: os.truncate(os.open(bad, os.O_CREAT | os.O_WRONLY), 1 << 33), "it holds 8,589,934,592 bytes"),
    ):
        make()
        with pytest.raises(GennapeError, match=message):
            read_images(tmp_path)
        bad.unlink()
    os.mkfifo(tmp_path / "images.parquet")
    with pytest.raises(GennapeError, match="it is a pipe"):
        read_images(tmp_path / "images.parquet")


@pytest.mark.cluster
def test_names_that_are_no_text_are_printed_and_refused_in_a_sentence(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.onnx"
    with open(name, "wb") as file:
        file.write(b"no model")
    command = [sys.executable, "-m", "gennape", "show", name]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"gennape: error: ")
    assert b"Traceback" not in done.stderr
