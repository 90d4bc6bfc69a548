"""MLflow's web interface on a workspace, for its owner alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from chromium import PROGRAM, Chromium, needs_chromium
from stored_runs import stored_run

from gennape.errors import ServiceError
from gennape.platform.tracking.store import open_store
from gennape.platform.tracking.tracker import track
from gennape.platform.tracking.ui.mlflow import serve_ui

if TYPE_CHECKING:
    from collections.abc import Iterator

# MLflow's own, of its tables.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

PATIENCE_S = 180


class Browser:
    """Keeps cookies, as what opened the link."""

    def __init__(self, link: str = "") -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        if link:
            self.get(link)

    def get(self, url: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310 (loopback)
        with self._opener.open(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def status(self, url: str, body: dict[str, Any] | None = None) -> int:
        try:
            self.get(url, body)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def runs(self, address: str) -> list[dict[str, Any]]:
        api = f"{address}/api/2.0/mlflow"
        experiment = json.loads(self.get(f"{api}/experiments/get-by-name?experiment_name=gennape"))["experiment"]
        found = json.loads(self.get(f"{api}/runs/search", {"experiment_ids": [experiment["experiment_id"]]}))
        runs: list[dict[str, Any]] = found.get("runs", [])
        return runs


@pytest.mark.cluster
def test_opened_before_any_run_it_shows_later_ones(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "front.csv").write_text("index,accuracy\n")
    with serve_ui(tmp_path, 0) as ui:
        links = ui.links
        browser = Browser(next(links))
        assert b"<html" in browser.get(ui.address)
        assert browser.runs(ui.address) == []
        with track(tmp_path, "later", {"space": "hiaml"}) as tracker:
            tracker.metrics(0, {"hypervolume": 2.5})
            tracker.artifacts(tmp_path / "files")
        (run,) = browser.runs(ui.address)
        assert run["info"]["run_name"] == "later"
        assert run["data"]["metrics"][0]["value"] == 2.5
        artifact = browser.get(f"{ui.address}/get-artifact?path=front.csv&run_uuid={run['info']['run_id']}")
        assert artifact == b"index,accuracy\n"
        assert Browser().status(ui.address) == 401
        assert Browser(next(links)).status(ui.address) == 200  # the next link, told when the first was used
    assert ui.process.poll() is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.lock", "artifacts", "files", "mlflow.db"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Browser]]:
    """An interface on a workspace whose database was made by somebody who means harm, and a file next to it."""
    folder = tmp_path_factory.mktemp("ui")
    workspace, outside = folder / "workspace", folder / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    workspace.mkdir()
    client, _ = open_store(workspace)
    for name, place in (("outside", outside.as_uri()), ("linked", (workspace / "artifacts" / "way").as_uri())):
        run = client.create_run(client.create_experiment(name, place)).info
        client.set_tag(run.run_id, "place", name)
    (workspace / "artifacts").mkdir(exist_ok=True)
    (workspace / "artifacts" / "way").symlink_to(outside)
    with serve_ui(workspace, 0) as ui:
        yield folder, ui.address, Browser(next(ui.links))


def _new_run(browser: Browser, address: str, name: str) -> dict[str, Any]:
    api = f"{address}/api/2.0/mlflow"
    experiment = json.loads(browser.get(f"{api}/experiments/create", {"name": name}))["experiment_id"]
    run = json.loads(browser.get(f"{api}/runs/create", {"experiment_id": experiment}))["run"]["info"]
    return dict(run)


@pytest.mark.cluster
@pytest.mark.parametrize(
    "place", ["/etc/x", "file:///etc", "mlflow-artifacts:/x", "s3://bucket/x", "ftp://127.0.0.1/x", "{ws}/../x", "way"]
)
def test_experiments_that_keep_files_elsewhere_are_refused(opened: tuple[Path, str, Browser], place: str) -> None:
    folder, address, browser = opened
    where = str(folder / "workspace" / "artifacts" / "way") if place == "way" else place
    where = where.replace("{ws}", str(folder / "workspace"))
    body = {"name": f"to {place}", "artifact_location": where}
    assert browser.status(f"{address}/api/2.0/mlflow/experiments/create", body) == 400
    assert browser.status(f"{address}/ajax-api/2.0/mlflow/experiments/create", body) == 400


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["outside", "linked"])
def test_places_elsewhere_that_the_database_names_are_not_read(opened: tuple[Path, str, Browser], name: str) -> None:
    folder, address, browser = opened
    client, _ = open_store(folder / "workspace")
    (run,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    there = folder / "outside" / run.info.run_id / "artifacts"
    there.mkdir(parents=True, exist_ok=True)
    (there / "secret.txt").write_text("secret")
    ask = f"path=secret.txt&run_uuid={run.info.run_id}"
    assert browser.status(f"{address}/get-artifact?{ask}") == 403
    assert browser.status(f"{address}/ajax-api/2.0/mlflow/artifacts/list?run_id={run.info.run_id}") == 403


@pytest.mark.cluster
@pytest.mark.parametrize(
    "path", ["link", "folder/secret.txt", "../../../../outside/secret.txt", "/etc/passwd", "%2e%2e/x"]
)
def test_no_link_and_no_path_leads_out(opened: tuple[Path, str, Browser], path: str) -> None:
    folder, address, browser = opened
    run = _new_run(browser, address, f"by {path}")
    there = Path(run["artifact_uri"].removeprefix("file://"))
    assert there.is_relative_to(folder / "workspace" / "artifacts")
    there.mkdir(parents=True)
    (there / "link").symlink_to(folder / "outside" / "secret.txt")
    (there / "folder").symlink_to(folder / "outside")
    (there / "own.txt").write_text("own")
    assert browser.get(f"{address}/get-artifact?path=own.txt&run_uuid={run['run_id']}") == b"own"
    assert browser.status(f"{address}/get-artifact?path={path}&run_uuid={run['run_id']}") >= 400
    listed = json.loads(browser.get(f"{address}/ajax-api/2.0/mlflow/artifacts/list?run_id={run['run_id']}"))
    assert [file["path"] for file in listed["files"]] == ["own.txt"]


@pytest.mark.cluster
def test_no_secret_is_where_other_users_see_it(tmp_path: Path) -> None:
    with serve_ui(tmp_path, 0) as ui:
        link = next(ui.links)
        secret = link.rpartition("/")[2]
        process = psutil.Process(ui.process.pid)
        assert secret not in " ".join([*process.cmdline(), *process.environ().values()])
        listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening == ["127.0.0.1"]


@pytest.mark.cluster
@needs_chromium
def test_a_real_browser_is_let_in_by_the_link_and_another_one_is_not(tmp_path: Path) -> None:
    def shown(url: str, profile: str) -> str:
        command = [str(PROGRAM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000"]
        command += [f"--user-data-dir={tmp_path / profile}", "--dump-dom", url]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout

    (tmp_path / "workspace").mkdir()
    with serve_ui(tmp_path / "workspace", 0) as ui:
        assert "<title>MLflow</title>" in (page := shown(next(ui.links), "owner"))
        assert "static-files" in page
        assert "This page is locked" in shown(ui.address, "other")


@pytest.mark.cluster
@needs_chromium
def test_it_opens_at_the_runs_in_the_view_of_trainings_and_shows_fronts(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    run = stored_run(workspace, "searched")
    with track(workspace, run.name, {"space": "hiaml"}) as tracker:
        for generation in (0, 2):
            tracker.metrics(generation, {"hypervolume": 2.5})
            tracker.image(run / "report" / "front.png", generation)
        tracker.artifacts(run / "report")
    with serve_ui(workspace, 0) as ui, Chromium(tmp_path / "profile") as browser:
        browser.go(next(ui.links))
        href = browser.wait("location.href", lambda href: "/experiments/" in href)
        assert "workflowType=machine_learning" in href
        browser.wait("document.body.innerText", lambda text: "searched" in text)
        client, experiment = open_store(workspace)
        (found,) = client.search_runs([experiment])
        names = [Path(file.path).name for file in client.list_artifacts(found.info.run_id, "images")]
        assert sorted({name.split("+")[2] for name in names if name.endswith(".png")}) == ["0", "2"]
        browser.go("about:blank")
        browser.go(f"{ui.address}/#/experiments/{experiment}/runs/{found.info.run_id}/artifacts/front.html")
        frame = "document.querySelector('iframe')"
        browser.wait(f"{frame}?.src || {frame}?.srcdoc")
        browser.wait("document.body.innerText", lambda text: "front.csv" in text)


@contextmanager
def _verb(workspace: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    command = [sys.executable, "-m", "gennape", "ui", "--port", "0", "--workspace", str(workspace)]
    environment = {**os.environ, "RAY_JOB_STOP_SIGNAL": "SIGINT"}  # Ctrl-C is ignored in the background
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as verb:
        try:
            assert verb.stdout is not None
            while not (line := verb.stdout.readline()).startswith("MLflow: "):
                assert line
            yield verb, psutil.Process(verb.pid).children(recursive=True)
        finally:
            verb.kill()


@pytest.mark.cluster
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_server_outlives_the_verb(tmp_path: Path, number: signal.Signals) -> None:
    with _verb(tmp_path) as (verb, below):
        assert below
        os.kill(verb.pid, number)
        assert verb.wait(PATIENCE_S) == (130 if number == signal.SIGINT else -number)
        deadline = time.monotonic() + PATIENCE_S
        while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in below):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (tmp_path / "mlflow.db").stat().st_mode & 0o777 == 0o600


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port}: .*another port"), serve_ui(tmp_path, port):
            pass
    assert list(tmp_path.iterdir()) == []
