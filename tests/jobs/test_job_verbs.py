"""Verbs about jobs, as far as they need no cluster: what is shipped, what is shown, and errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port

from gennape.errors import ConfigError, ServiceError
from gennape.jobs.cli import app
from gennape.jobs.shared.cluster_options import at
from gennape.jobs.status import duration, table
from gennape.jobs.stop import left_behind
from gennape.jobs.submit import on_cluster, refuse_unparsable, tracked_in
from gennape.platform.cluster import client as job_client
from gennape.platform.cluster import submission
from gennape.platform.cluster.jobs import (
    Job,
    all_jobs,
    failure_of,
    find_job,
    follow,
    resume_command,
    stop_job,
    verb_of,
)
from gennape.platform.cluster.submission import dashboard_page
from gennape.platform.cluster.wheel import unpack_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The verbs of the command line.
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
JOB = Job("raysubmit_a", "search", "running", 1000.0, None, 0, "", "~/gennape-workspace")
MIB = 2**20


# What is shipped ------------------------------------------------------------------------------------------------------


def _wheel(folder: Path, **sizes: int) -> Path:
    """A wheel of gennape with further files of so many bytes, ``__`` standing for ``/`` and ``_dot_`` for a dot."""
    wheel = folder / "gennape-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("gennape/__init__.py", "gennape-0.1.0.dist-info/METADATA"):
            archive.writestr(name, "x")
        for name, size in sizes.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), b"\0" * size)
    return wheel


def _shipped(into: Path) -> set[str]:
    return {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()}


def test_repositories_environments_caches_and_workspaces_never_travel(tmp_path: Path) -> None:
    stays = dict.fromkeys(
        [
            "gennape___dot_git__config",
            "gennape__jobs___dot_venv__lib__x_dot_py",
            "gennape__platform__gennape-workspace__runs__a__config_dot_json",
            "gennape__mlruns__0__meta_dot_yaml",
            "gennape__mlflow_dot_db",
            "gennape___dot_mypy_cache__3_dot_11__x_dot_json",
            "gennape__x_dot_pyc",
        ],
        1,
    )
    goes = dict.fromkeys(
        ["gennape__platform__runs_dot_py", "gennape__git_dot_py", "gennape__workspaces__venv_dot_py"], 1
    )
    wheel = _wheel(tmp_path, **stays, **goes)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("gennape/__pycache__/a.cpython-311.pyc", "")
    folders = unpack_wheel(wheel, tmp_path / "out")
    assert [folder.name for folder in folders] == ["gennape", "gennape-0.1.0.dist-info"]
    assert _shipped(tmp_path / "out") == {
        "gennape/__init__.py",
        "gennape-0.1.0.dist-info/METADATA",
        "gennape/platform/runs.py",
        "gennape/git.py",
        "gennape/workspaces/venv.py",
    }


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.csv", {"gennape/data/a.bin"}),
        ("data", set()),
        ("gennape/data/*", set()),
        ("gennape/data/b.csv", {"gennape/data/a.bin"}),
        ("a", {"gennape/data/a.bin", "gennape/data/b.csv"}),
    ],
)
def test_excludes_name_files_folders_or_paths(pattern: str, left: set[str], tmp_path: Path) -> None:
    wheel = _wheel(tmp_path, gennape__data__a_dot_bin=1, gennape__data__b_dot_csv=1)
    unpack_wheel(wheel, tmp_path / "out", [pattern])
    assert {name for name in _shipped(tmp_path / "out") if "data" in name} == left


def test_too_much_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """100 MiB may travel: 99 MiB and the 2 bytes of the package do; 60 and 41 and those do not."""
    unpack_wheel(_wheel(tmp_path, gennape__a_dot_bin=99 * MIB), tmp_path / "fits")
    wheel = _wheel(tmp_path, gennape__small_dot_csv=41 * MIB, gennape__large_dot_bin=60 * MIB)
    nobody = "http://127.0.0.1:1"  # is not even asked
    with pytest.raises(ConfigError) as refused:
        submission.submit(submission.Submission(nobody, ["true"], wheel))
    told = str(refused.value)
    assert "101.0 MiB" in told
    assert "100.0 MiB" in told
    assert "gennape/large.bin (60.0 MiB), gennape/small.csv (41.0 MiB)" in told
    assert "--exclude 'gennape/large.bin'" in told
    unpack_wheel(wheel, tmp_path / "out", ["gennape/large.bin"])
    assert "gennape/large.bin" not in _shipped(tmp_path / "out")


def test_excluding_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leaves nothing"):
        unpack_wheel(_wheel(tmp_path), tmp_path / "out", ["gennape"])


# What is shown --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "verb"),
    [
        ("python -P -m gennape search --space hiaml", "search"),
        ("/opt/env/bin/gennape fit --data labels", "fit"),
        ("gennape", "gennape"),
        ("/usr/bin/python3 train.py", "python3"),
        ("echo 'unbalanced", "echo"),
        ("", ""),
    ],
)
def test_the_verb_of_a_command(command: str, verb: str) -> None:
    assert verb_of(command) == verb


#: How the command line refuses arguments.
USAGE = (
    "Usage: gennape search [OPTIONS]\n\nTry 'gennape search -h' for help.\n╭─ Error ─────────────────╮\n"
    "│ No such option: --spice │\n│ Did you mean --space?   │\n╰─────────────────────────╯\n"
)


@pytest.mark.parametrize(
    ("message", "status", "failure"),
    [
        ("Job entrypoint command failed with exit code 2, last available logs:\na\n b \n", 2, "exit status 2: b"),
        ("Job entrypoint command failed with exit code 1. No logs available.", 1, "exit status 1"),
        ("Job entrypoint command failed with exit code -9, last:\nhalf a li", -9, "exit status 137: half a li"),
        ("Job entrypoint ...\ngennape: error: no run 'x'\nlater words", 1, "exit status 1: no run 'x'"),
        ("Job entrypoint command failed ...\nRunning entrypoint for job a: no\n", 127, "exit status 127"),
        (f"Job entrypoint ...\n{USAGE}", 2, "exit status 2: No such option: --spice Did you mean --space?"),
        ("Traceback (most recent call last):\n  File\nOSError: full\n", None, "OSError: full"),
        ("runtime_env setup failed: no pip\nmore\n", None, "runtime_env setup failed: no pip"),
        ("", None, "for no known reason"),
    ],
)
def test_what_failed_is_one_line(message: str, status: int | None, failure: str) -> None:
    assert failure_of(message, status) == failure


@given(st.text(), st.none() | st.integers(-64, 255))
def test_what_failed_is_one_line_whatever_was_said(message: str, status: int | None) -> None:
    failure = failure_of(message, status)
    assert failure
    assert len(failure.splitlines()) == 1


def test_durations() -> None:
    seconds = {
        -5: "0 s",
        8.9: "8 s",
        59: "59 s",
        60: "1 min 00 s",
        185: "3 min 05 s",
        3600: "1 h 00 min",
        7620: "2 h 07 min",
    }
    assert {given: duration(given) for given in seconds} == seconds


def test_the_table_is_aligned_and_counts_a_running_job_until_now() -> None:
    waiting = Job("raysubmit_longer", "fit", "pending", None, None, 0, "", None)
    failed = Job("c", "conform", "failed", 1000.0, 1002.0, 1, "exit status 1: no", None)
    head, *rows = table([JOB, waiting, failed], 1065.0).splitlines()
    assert head.split() == ["ID", "VERB", "STATE", "STARTED", "TOOK", "FAILED"]
    for row, job, took in zip(rows, (JOB, waiting, failed), ("1 min 05 s", "-", "2 s"), strict=True):
        assert row.startswith(job.id)
        assert row[head.index("STATE") :].startswith(job.state)
        assert row[head.index("TOOK") :].startswith(took)
        assert row[head.index("FAILED") :] == (job.failure or "-")


def test_what_a_stopped_job_leaves_behind() -> None:
    stopped = Job("a", "search", "stopped", 1.0, 2.0, 1, "", "~/gennape-workspace")
    log = "interrupted; continue with: gennape search --resume hiaml-1-s0 --address auto\n"
    there = "http://10.0.0.1:8265"
    assert left_behind(stopped, log, there).splitlines() == [
        "stopped a; what it has written is kept in ~/gennape-workspace on the head",
        "continue it with: gennape submit --address http://10.0.0.1:8265 -- search --resume hiaml-1-s0",
    ]
    told = left_behind(stopped, "", "http://127.0.0.1:8265")
    assert "gennape submit -- search --resume NAME, where NAME is the newest folder in ~/gennape-workspace/runs" in told
    other = Job("a", "fit", "stopped", 1.0, 2.0, 1, "", None)
    assert left_behind(other, log, there) == "stopped a\n"
    ended = Job("a", "search", "succeeded", 1.0, 2.0, 0, "", None)
    assert left_behind(ended, log, there) == "a succeeded before it could be stopped\n"
    assert resume_command("nothing of the kind") is None
    assert resume_command(f"{log}{log.replace('hiaml-1', 'hiaml-2')}") == "--resume hiaml-2-s0"
    elsewhere = log.replace("--address", "--workspace '/a b' --address")
    assert left_behind(stopped, elsewhere, there).splitlines() == [
        "stopped a; what it has written is kept in /a b on the head",
        f"continue it with: gennape submit --address {there} -- search --resume hiaml-1-s0 --workspace '/a b'",
    ]


def test_where_the_runs_of_a_job_are_tracked() -> None:
    assert tracked_in(["search", "--space", "hiaml"], "~/w") == "~/w"
    assert tracked_in(["search", "--workspace", "/a b"], "~/w") == "'/a b'"
    assert tracked_in(["evaluate", "--workspace=/x", "--data", "y"], "~/w") == "/x"
    for verb in ("label", "verify", "tune"):
        assert tracked_in([verb], "~/w") == "~/w"
    assert tracked_in(["fit", "--register", "--workspace", "/x"], "~/w") == "/x"
    assert tracked_in(["fit"], "~/w") is None
    assert tracked_in(["conform", "folder"], "~/w") is None
    assert at("http://127.0.0.1:8265") == ""
    assert dashboard_page("http://h:8265/", "x") == "http://h:8265/#/jobs/x"


@pytest.mark.parametrize("verb", ["submit", "status", "logs", "stop"])
def test_verbs_about_jobs_are_no_jobs(verb: str) -> None:
    with pytest.raises(ConfigError, match="runs here"):
        on_cluster([verb], VERBS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["search", "--spice", "nb101"], "No such option"),
        (["search", "--evaluations", "many"], "--evaluations"),
        (["finetune", "--space", "nb101"], "--labels"),
        (["conform"], "DIR"),
    ],
)
def test_what_the_command_line_would_refuse_is_not_shipped(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=f"`gennape {arguments[0]}` would refuse this.*{told}"):
        refuse_unparsable(arguments, VERBS)
    refuse_unparsable(["search", "--space", "nb101", "--seed", "3"], VERBS)


@pytest.mark.parametrize("option", [["--tracking-uri", "http://u:hush@h"], ["--tracking-uri=http://u:hush@h:1/x"]])
def test_no_secret_becomes_part_of_a_job(option: list[str]) -> None:
    with pytest.raises(ConfigError, match="list of jobs") as refused:
        on_cluster(["search", *option], VERBS)
    assert "hush" not in str(refused.value)
    assert on_cluster(["fit", "--tracking-uri", "http://h/a@b"], VERBS)[-1] == "http://h/a@b"


@pytest.mark.parametrize(
    "option",
    [
        ["--tracking-uri", "http://h/?token=hush"],
        ["--tracking-uri=http://h/x?api_key=hush"],
        ["--data", "s3://b/x?sig=hush"],
    ],
)
def test_a_secret_in_a_query_is_not_shipped(option: list[str]) -> None:
    with pytest.raises(ConfigError, match="token or signature, which would show in the list of jobs") as refused:
        on_cluster(["search", *option], VERBS)
    assert "hush" not in str(refused.value)


def test_another_ray_in_the_place_of_ones_own_is_thought_of() -> None:
    from ray.exceptions import AuthenticationError

    for error in (ConnectionError("refused"), AuthenticationError("Invalid token")):
        with (
            pytest.raises(ServiceError, match=r"next free port.*--address http://127\.0\.0\.1:8266"),
            job_client.asking("http://127.0.0.1:8265"),
        ):
            raise error


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "x"], ["logs", "x"], ["logs", "x", "--follow"], ["stop", "x"]]
)
def test_no_cluster_at_the_address_is_one_line(arguments: list[str]) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "gennape", *arguments, "--address", address]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("stopping ")]
    assert line.startswith("gennape: error: ")
    assert address in line
    assert "8265" in line


@contextmanager
def _server(status: int, body: str, wait: threading.Event | None = None) -> Iterator[str]:
    """An HTTP server that answers everything so, once ``wait`` is set."""

    class _Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if wait is not None:
                wait.wait(60)
                return
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            if wait is not None:
                wait.set()
            server.shutdown()
            thread.join()


ASK = [
    all_jobs,
    lambda address: find_job(address, "x"),
    lambda address: follow(address, "x", str),
    lambda address: stop_job(address, "x"),
]


@pytest.mark.parametrize(
    ("status", "body"), [(401, "Unauthorized: Missing authentication token"), (403, "Forbidden: Invalid token")]
)
def test_a_wrong_token_says_where_it_belongs(status: int, body: str) -> None:
    """As Ray's dashboard refuses one that is missing (401) or another (403)."""
    with _server(status, body) as address:
        for ask in ASK:
            with pytest.raises(ServiceError, match="auth_token") as refused:
                ask(address)
            assert body in str(refused.value)
            assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(("status", "body"), [(200, "<html>MLflow</html>"), (404, "Not Found"), (500, "a\nb")])
def test_another_server_at_the_address_is_one_line(status: int, body: str) -> None:
    with _server(status, body) as address:
        for ask in ASK:
            with pytest.raises(ServiceError, match="is it the dashboard's port") as refused:
                ask(address)
            assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("address", ["http://u:hush@h:8265", "http://[::1", "u:hush@h", "ftp://h", ""])
def test_what_is_no_address_is_refused_and_no_secret_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match=r"where the cluster's dashboard listens \(port 8265\),") as refused:
        all_jobs(address)
    assert "hush" not in str(refused.value)


def test_a_head_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "REQUEST_TIMEOUT_S", (5.0, 0.2))
    with _server(200, "", threading.Event()) as address, pytest.raises(ServiceError, match="timed out"):
        all_jobs(address)


def test_asking_with_a_token_does_not_make_later_processes_want_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that this process starts afterwards would want a token that its own driver does not show."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(ServiceError, match="cannot use the cluster"):
        all_jobs("http://127.0.0.1:1")
    assert "RAY_AUTH_MODE" not in os.environ
