"""Shipping gennape to a cluster and running it there; asking about jobs, and stopping them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from ports import free_port
from typer.testing import CliRunner

import gennape
from gennape.errors import ConfigError, ServiceError
from gennape.jobs.cli import app
from gennape.jobs.submit import on_cluster
from gennape.platform.cluster.jobs import all_jobs, find_job, follow, read_log, stop_job
from gennape.platform.cluster.submission import Submission, submit
from gennape.platform.cluster.wheel import build_wheel, source_tree, unpack_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

# Ray's own, of the library it talks through.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")

#: The verbs of the command line.
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# What runs on the cluster: which gennape and which platform are imported, by the driver and by a worker.
PROBE = """
import platform, sys
import gennape, gennape.platform.tracking.tracker, ray
from importlib.metadata import version

def where():
    import platform, gennape, gennape.search_spaces.graphs.graph
    return platform.__file__, platform.python_version(), gennape.__file__, gennape.__version__

ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
for place, found in (("driver", where()), ("worker", ray.get(ray.remote(where).remote()))):
    print(place, *found, sep="|")
print("metadata", version("gennape"), sep="|")
sys.exit(int(sys.argv[1]))
"""


#: A search space of the user's, which imports from beside it.
OWN_SPACE = """
from beside import NAME
from gennape.search_spaces.families.hiaml import HiAML


class Mine(HiAML):
    name = NAME
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source_tree(), tmp_path_factory.mktemp("wheel"))


@pytest.mark.cluster
def test_the_wheel_is_built_from_this_source(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        source = source_tree() / "platform" / "cluster" / "submission.py"
        assert archive.read("gennape/platform/cluster/submission.py") == source.read_bytes()
    assert "gennape/__main__.py" in names
    assert not any(name.startswith("platform") for name in names)


def test_unpacked_it_has_the_package_and_its_metadata(wheel: Path, tmp_path: Path) -> None:
    package, metadata = unpack_wheel(wheel, tmp_path)
    assert package.name == "gennape"
    assert metadata.name == f"gennape-{gennape.__version__}.dist-info"


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other-1.0-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(ConfigError, match="not a wheel of gennape"):
        unpack_wheel(other, tmp_path / "out")
    other.write_bytes(b"PK no")
    with pytest.raises(ConfigError, match="cannot read the wheel"):
        unpack_wheel(other, tmp_path / "out")


@pytest.mark.cluster
def test_a_source_that_does_not_build_says_why(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'absent'\n")
    with pytest.raises(ConfigError, match="pass --wheel"):
        build_wheel(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "auto", "ray://127.0.0.1:10001"])
def test_an_address_that_is_no_dashboard_is_refused(wheel: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="8265"):
        submit(Submission(address, ["true"], wheel))


def test_an_unreachable_cluster_is_named(wheel: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceError, match=address):
        submit(Submission(address, ["true"], wheel))


def test_verbs_get_the_address_of_their_cluster() -> None:
    assert on_cluster(["conform", "folder"], VERBS) == ["conform", "folder"]
    with pytest.raises(ConfigError, match=r"unknown verb 'serach'; known are .*conform"):
        on_cluster(["serach"], VERBS)


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, Path]]:
    """A Ray head of our own, started as a person would: the address of its dashboard, and the folder of its files."""
    address = f"http://127.0.0.1:{free_port()}"
    folder = Path(tempfile.mkdtemp(prefix="gn-"))  # short: Ray keeps sockets there
    binaries = str(Path(sys.executable).parent)
    command = [f"{binaries}/ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += [f"--temp-dir={folder}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--port={free_port()}", f"--dashboard-port={address.rpartition(':')[2]}"]
    command += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    command += ["--object-store-memory=100000000"]
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(f"{address}/api/version", process, folder / "log")
        yield address, folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def dashboard(head: tuple[str, Path]) -> str:
    return head[0]


def _await(url: str, head: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert head.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 (loopback)
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
        else:
            return
    raise AssertionError(log.read_text())


def _run(dashboard: str, wheel: Path, *command: str) -> tuple[int, str]:
    job = submit(Submission(dashboard, command, wheel, {"GENNAPE_WORKSPACE": "~/elsewhere"}))
    heard: list[str] = []
    status = follow(dashboard, job, heard.append)
    return status, "".join(heard)


@pytest.mark.cluster
def test_driver_and_worker_import_the_shipped_package_and_the_standard_platform(dashboard: str, wheel: Path) -> None:
    status, heard = _run(dashboard, wheel, "python", "-P", "-c", PROBE, "3")
    assert status == 3, heard
    lines = [line.split("|") for line in heard.splitlines() if line.startswith(("driver|", "worker|", "metadata|"))]
    assert [line[0] for line in lines] == ["driver", "worker", "metadata"], heard
    for _, platform_file, python, package, version in lines[:2]:
        assert Path(platform_file).name == "platform.py"
        assert python.startswith("3.")
        assert "py_modules_files" in package
        assert version == gennape.__version__
    assert lines[2][1] == gennape.__version__


@pytest.mark.cluster
def test_a_verb_runs_and_its_status_comes_back(dashboard: str, wheel: Path) -> None:
    status, heard = _run(dashboard, wheel, "python", "-P", "-m", "gennape", "--help")
    assert status == 0, heard
    assert "conform" in heard
    status, heard = _run(dashboard, wheel, "python", "-P", "-m", "gennape", "conform", "/nonexistent")
    assert status == 1
    assert heard.count("gennape: error") == 1


@pytest.mark.cluster
def test_a_changed_wheel_of_the_same_name_arrives(dashboard: str, wheel: Path, tmp_path: Path) -> None:
    changed = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            extra = b"\nCHANGED = 'yes'\n" if name == "gennape/errors.py" else b""
            new.writestr(name, old.read(name) + extra)
    status, heard = _run(dashboard, changed, "python", "-P", "-c", "import gennape.errors as e; print(e.CHANGED)")
    assert (status, "yes" in heard) == (0, True), heard


@pytest.mark.cluster
def test_a_search_of_an_own_space_submitted_from_the_command_line_leaves_its_front_on_the_head(
    dashboard: str, wheel: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "gennape", "submit", "--address", dashboard, "--wheel", str(wheel), "--wait"]
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "mine.py").write_text(OWN_SPACE)
    (tmp_path / "spaces" / "beside.py").write_text("NAME = 'mine'\n")
    command += ["--workspace", str(tmp_path), "--", "search", "--space", "spaces/mine.py:Mine", "--evaluations", "60"]
    command += ["--population", "20"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all 60 evaluations are done" in ended.stdout
    (front,) = tmp_path.glob("runs/mine-*/report/front.csv")
    assert {"hash", "architecture", "accuracy", "flops"} <= set(front.read_text().partition("\n")[0].split(","))


# Asking about jobs, and stopping them ---------------------------------------------------------------------------------


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def _until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 180
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.3)


@pytest.mark.cluster
def test_a_job_that_fails_is_told_by_every_verb(dashboard: str, wheel: Path) -> None:
    submitted = _invoke("submit", "--address", dashboard, "--wheel", str(wheel), "--", "conform", "/nonexistent")
    assert submitted.exit_code == 0, submitted.output
    job = submitted.stdout.strip()
    assert re.fullmatch(r"raysubmit_\w+", job)  # alone, for scripts
    assert f"{dashboard}/#/jobs/{job}" in submitted.stderr
    assert f"gennape status {job} --address {dashboard}\n" in submitted.stderr
    assert f"gennape logs {job} --follow --address {dashboard}\n" in submitted.stderr

    followed = _invoke("logs", job, "--follow", "--address", dashboard)
    assert followed.exit_code == 1
    assert followed.stdout.count("gennape: error: /nonexistent is not a folder") == 1
    printed = _invoke("logs", job, "--address", dashboard)
    assert (printed.exit_code, printed.stdout) == (1, followed.stdout)

    one, every = (_invoke("status", *which, "--address", dashboard) for which in ([job], []))
    assert (one.exit_code, every.exit_code) == (1, 0)
    (line,) = [line for line in every.stdout.splitlines() if line.startswith(job)]
    assert re.fullmatch(
        rf"{job} +conform +failed +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d +\d.* +exit status 1: /nonexistent is not .*", line
    )
    assert [cell for cell in one.stdout.splitlines()[1].split() if cell] == line.split()

    stopped = _invoke("stop", job, "--address", dashboard)
    assert (stopped.exit_code, str(stopped.exception)) == (
        1,
        f"job {job} has ended already (failed), nothing is left to stop",
    )


@pytest.mark.cluster
@pytest.mark.parametrize("job", ["raysubmit_none", "../version", "a/b", "", "x?y"])
def test_an_unknown_job_is_named(dashboard: str, job: str) -> None:
    for ask in (find_job, read_log, stop_job, lambda address, name: follow(address, name, str)):
        with pytest.raises(ServiceError, match="knows no job " + re.escape(repr(job))):
            ask(dashboard, job)


@pytest.mark.cluster
def test_a_job_that_was_killed_ends_as_in_a_shell(dashboard: str, wheel: Path) -> None:
    status, heard = _run(dashboard, wheel, "sh", "-c", "echo last words; kill -9 $$")
    assert status == 137
    assert "last words\n" in heard
    found = all_jobs(dashboard)[0]  # the newest
    assert (found.verb, found.state, found.status) == ("sh", "failed", 137)
    # Some shells add a word of their own about the one they ran.
    assert found.failure in ("exit status 137: last words", "exit status 137: Killed")
    assert found.workspace == "~/elsewhere"
    assert found.started is not None
    assert found.ended is not None
    assert abs(time.time() - found.ended) < 120
    assert 0 <= found.ended - found.started < 120

    # What reads the log goes away: no cut connection to take up again.
    def gone(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow(dashboard, found.id, gone)


@pytest.mark.cluster
def test_the_address_given_is_asked_whatever_ray_reads_from_the_environment(
    dashboard: str, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", elsewhere)
    assert _run(dashboard, wheel, "true")[0] == 0
    assert os.environ["RAY_ADDRESS"] == elsewhere
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", dashboard)
    assert "true" in _invoke("status").stdout
    with pytest.raises(ServiceError, match=elsewhere):
        all_jobs(elsewhere)


@pytest.mark.cluster
def test_no_secret_of_this_machine_reaches_the_head(head: tuple[str, Path], wheel: Path) -> None:
    dashboard, folder = head
    secrets = {
        name: f"{name.lower().replace('_', '-')}-0123456789abcdef0123456789abcdef"
        for name in ("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY")
    }
    told = "import os; print(dict(os.environ)); print('all told')"
    program = (
        "import sys; from pathlib import Path; from gennape.platform.cluster.submission import Submission, submit; "
        f"print(submit(Submission(sys.argv[1], ['python', '-c', {told!r}], Path(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", program, dashboard, str(wheel)]
    ended = subprocess.run(command, env={**os.environ, **secrets}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    job = ended.stdout.strip()
    assert follow(dashboard, job, str) == 0
    text, found = read_log(dashboard, job)
    assert "all told" in text
    assert found.id == job
    known = _ask(f"{dashboard}/api/jobs/{job}")
    assert set(known["runtime_env"]["env_vars"]) == {
        "PYTHONUNBUFFERED",
        "RAY_JOB_STOP_SIGNAL",
        "RAY_JOB_STOP_WAIT_TIME_S",
    }
    everything = [text.encode(), json.dumps([known, _ask(f"{dashboard}/api/jobs/")]).encode()]
    everything += [path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(job.encode() in content for content in everything[2:])  # the head's files were read
    for name, secret in secrets.items():
        assert not any(secret.encode() in content for content in everything), name


def _ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (loopback)
        return json.loads(answer.read())


@pytest.mark.cluster
def test_a_job_is_stopped_before_it_runs(dashboard: str, wheel: Path) -> None:
    job = submit(Submission(dashboard, ["sleep", "600"], wheel))
    stopped = stop_job(dashboard, job)
    assert (stopped.state, stopped.status, stopped.failure) == ("stopped", 1, "")
    heard: list[str] = []
    assert follow(dashboard, job, heard.append) == 1
    assert "stopped" in "".join(heard)


@pytest.mark.cluster
def test_a_search_that_is_stopped_can_be_continued_and_leaves_nothing_running(
    dashboard: str, wheel: Path, tmp_path: Path
) -> None:
    options = ("--address", dashboard, "--wheel", str(wheel), "--workspace", str(tmp_path))
    submitted = _invoke("submit", *options, "--", "search", "--space", "hiaml", "--evaluations", "10000000")
    job = submitted.stdout.strip()
    assert f"gennape ui --workspace {tmp_path}\n" in submitted.stderr
    _until(lambda: list(tmp_path.glob("runs/*/state.npz")) or find_job(dashboard, job).is_over, "no generation")
    running = _invoke("status", job, "--address", dashboard)
    assert (running.exit_code, running.stdout.splitlines()[1].split()[1:3]) == (0, ["search", "running"])
    assert _invoke("logs", job, "--address", dashboard).exit_code == 0  # it has none yet

    stopped = _invoke("stop", job, "--address", dashboard)
    assert stopped.exit_code == 0, stopped.output
    (run,) = tmp_path.glob("runs/*")
    done, go_on = stopped.stdout.splitlines()
    assert done == f"stopped {job}; what it has written is kept in {tmp_path} on the head"
    assert shlex.split(go_on.partition(": ")[2]) == [
        *("gennape", "submit", "--address", dashboard, "--workspace", str(tmp_path)),
        *("--", "search", "--resume", run.name),
    ]
    assert json.loads((run / "status.json").read_text())["status"] == "interrupted"
    assert _invoke("status", job, "--address", dashboard).exit_code == 1
    assert not _ask(f"{dashboard}/api/serve/applications/").get("applications")
