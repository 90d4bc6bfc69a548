"""Shipping gennape to a cluster and running it there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gennape
from gennape.errors import ConfigError, ServiceError
from gennape.jobs.submit import on_cluster
from gennape.platform.submission import Submission, build_wheel, follow, source_tree, submit, unpack_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

# Ray's own, of the library it talks through.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated")

# What runs on the cluster: which gennape and which platform are imported, by the driver and by a worker.
PROBE = """
import platform, sys
import gennape, gennape.platform.tracking, ray
from importlib.metadata import version

def where():
    import platform, gennape, gennape.search_spaces.graph
    return platform.__file__, platform.python_version(), gennape.__file__, gennape.__version__

ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
for place, found in (("driver", where()), ("worker", ray.get(ray.remote(where).remote()))):
    print(place, *found, sep="|")
print("metadata", version("gennape"), sep="|")
sys.exit(int(sys.argv[1]))
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source_tree(), tmp_path_factory.mktemp("wheel"))


def test_the_wheel_is_built_from_this_source(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("gennape/platform/submission.py") == Path("platform/submission.py").read_bytes()
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


def test_a_source_that_does_not_build_says_why(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'absent'\n")
    with pytest.raises(ConfigError, match="pass --wheel"):
        build_wheel(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "auto", "ray://127.0.0.1:10001"])
def test_an_address_that_is_no_dashboard_is_refused(wheel: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="8265"):
        submit(Submission(address, ["true"], wheel))


def test_an_unreachable_cluster_is_named(wheel: Path) -> None:
    address = f"http://127.0.0.1:{_free_port()}"
    with pytest.raises(ServiceError, match=address):
        submit(Submission(address, ["true"], wheel))


def test_verbs_get_the_address_of_their_cluster() -> None:
    assert on_cluster(["conform", "folder"]) == ["conform", "folder"]
    with pytest.raises(ConfigError, match=r"unknown verb 'serach'; known are .*conform"):
        on_cluster(["serach"])


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of the dashboard of a Ray head of our own, started as a person would."""
    address = f"http://127.0.0.1:{_free_port()}"
    folder = Path(tempfile.mkdtemp(prefix="gn-"))  # short: Ray keeps sockets there
    binaries = str(Path(sys.executable).parent)
    command = [f"{binaries}/ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += [f"--temp-dir={folder}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--port={_free_port()}", f"--dashboard-port={address.rpartition(':')[2]}"]
    command += [f"--ray-client-server-port={_free_port()}", f"--dashboard-agent-listen-port={_free_port()}"]
    command += ["--object-store-memory=100000000"]
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(f"{address}/api/version", head, folder / "log")
        yield address
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


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
def test_a_search_submitted_from_the_command_line_leaves_its_front_on_the_head(
    dashboard: str, wheel: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "gennape", "submit", "--address", dashboard, "--wheel", str(wheel), "--wait"]
    command += ["--workspace", str(tmp_path), "--", "search", "--space", "hiaml", "--evaluations", "60"]
    command += ["--population", "20"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all 60 evaluations are done" in ended.stdout
    (front,) = tmp_path.glob("runs/*/report/front.csv")
    assert {"hash", "architecture", "accuracy", "flops"} <= set(front.read_text().partition("\n")[0].split(","))
