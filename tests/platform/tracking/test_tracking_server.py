"""Tracking at an MLflow server that comes and goes, and what it serves; one server for all tests of this file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
import pytest
from ports import free_port
from typer.testing import CliRunner

from gennape.errors import ConfigError, ServiceError
from gennape.jobs.cli import app
from gennape.jobs.shared.tracked import register_result
from gennape.platform.serving.http.app import example
from gennape.platform.tracking.model import CheckpointModel, _load_pyfunc
from gennape.platform.tracking.registration import register_checkpoint
from gennape.platform.tracking.resend import resend_pending
from gennape.platform.tracking.store import ENVIRONMENT, open_store, server_address
from gennape.platform.tracking.tracker import track
from gennape.platform.training import tuning
from gennape.platform.training.settings import Epochs, Settings, TuningStudy
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.settings import EncoderConfig
from gennape.predictors.model.checkpoint import load_checkpoint, save_encoder, shipped_checkpoint
from gennape.search_spaces.families.registry import family
from gennape.source import commit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 300.0
CALLS = ("create_run", "log_batch", "log_artifacts", "create_model_version", "set_terminated")


@pytest.fixture(scope="module")
def outage() -> ModuleType:
    """The drill, whose server and load are used here too."""
    spec = importlib.util.spec_from_file_location("tracking_outage", ROOT / "benchmarks" / "tracking_outage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(outage: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Not started: that is what the first test is about."""
    it = outage.Server(tmp_path_factory.mktemp("server"))
    try:
        yield it
    finally:
        it.kill()


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gennape.platform.tracking.tracker.GRACE_S", 0.5)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def _until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.drill
def test_a_server_that_is_away_at_first_between_and_at_last_loses_and_doubles_nothing(
    outage: ModuleType, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "front.csv").write_text("index\n")
    with caplog.at_level(logging.WARNING), track(tmp_path, "drill", {"space": "hiaml"}) as tracker:
        assert tracker.run_id == ""
        calls = outage.log_for(tracker, 1.0).calls
        server.start()
        _until(lambda: tracker.run_id)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")  # it has been chosen
        killer = threading.Timer(0.5, server.kill)
        killer.start()
        calls += outage.log_for(tracker, 1.0, calls).calls
        tracker.artifacts(tmp_path / "report")
        killer.join()
        server.start()
        calls += outage.log_for(tracker, 1.0, calls).calls
        _until(lambda: server.steps("drill", "value_0") == list(range(calls)))
        server.kill()
        calls += outage.log_for(tracker, 1.0, calls).calls
    assert "gennape ui" in caplog.text
    server.start()
    said = CliRunner().invoke(app, ["ui", "--workspace", str(tmp_path), "--tracking-uri", server.address])
    assert said.exit_code == 0, said.output
    assert f"tracking/drill to {server.address}" in said.output
    outage.check(server, "drill", calls)
    assert server.files("front.csv") == [b"index\n"]
    client, experiment = open_store(tmp_path, server.address)
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert sorted(runs) == ["drill", outage.CHILD]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["drill"].data.params == {"space": "hiaml"}
    # Nothing went elsewhere, and nothing is left.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


def test_a_run_goes_on_where_it_was_recorded(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.start()
    (tmp_path / "runs" / "cut-off").mkdir(parents=True)

    def first() -> None:
        with track(tmp_path, "cut-off", {}, server=server.address) as tracker:
            tracker.metrics(0, {"loss": 1.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # for other runs
    with track(tmp_path, "cut-off", {}) as tracker:
        tracker.metrics(1, {"loss": 0.5})
    assert server.steps("cut-off", "loss") == [0, 1]
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_a_tuning_is_one_run_however_often_it_goes_on(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained: each trial is judged better than those before it. The first call is over at once."""
    server.start()

    def measured(study: TuningStudy, *_: Any) -> list[str]:
        for trial in range(len(study.trials)):
            study.result_path(trial, 1).write_text(json.dumps({"srcc": trial / 10, "mae": 1.0, "seconds": 1.0}))
        return []

    monkeypatch.setattr(tuning, "_run", measured)
    out = tmp_path / "tuned.json"
    for widths in ((64, 96), (64, 96, 128)):
        trials = tuple(Settings(hidden=width) for width in widths)
        study = TuningStudy(tuning.tuning_folder(out, tmp_path), trials, Epochs(), 1, 128, 0)
        rows: Any = None
        tuning.tune_settings(out, tmp_path, {"data": "x"}, study, rows, server=server.address)
    client, experiment = open_store(tmp_path, server.address)
    (run,) = client.search_runs([experiment], "attributes.run_name LIKE 'tune-%'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best_srcc"] == 0.2
    assert {name: value for name, value in run.data.tags.items() if "hidden" in name} == {"best.hidden": "128"}
    assert not [name for name in run.data.params if name.startswith("best")]
    assert server.files("settings.json") == [out.read_bytes()]


def test_answers_that_are_lost_double_nothing(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes every request, and every first answer is lost on its way."""
    from mlflow import MlflowClient

    server.start()
    for name in CALLS:
        _lose_first_answer(monkeypatch, MlflowClient, name)
    assert "lost" in register_checkpoint(shipped_checkpoint(), tmp_path, "fit", server.address).problem
    problems = []
    for _ in range(10):
        problems += [found.problem for found in resend_pending(tmp_path)]
    assert len(problems) == len(CALLS)  # each lost one more, and the last nothing
    assert problems[-1] == ""
    client, experiment = open_store(tmp_path, server.address)
    (run,) = client.search_runs([experiment], "attributes.run_name LIKE 'fit-%'")
    assert run.info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'gennape'")) == 1
    srcc = client.get_metric_history(run.info.run_id, "test.srcc")
    assert len(srcc) == 1


def _lose_first_answer(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
    action, lost = getattr(kind, name), []

    def asked(*arguments: Any, **named: Any) -> Any:
        answer = action(*arguments, **named)
        if not lost:
            lost.append(name)
            raise ConnectionError(f"the answer of {name} is lost")
        return answer

    monkeypatch.setattr(kind, name, asked)


def test_a_registered_checkpoint_is_served_by_mlflow(server: Any, tmp_path: Path) -> None:
    """Of a tuned checkpoint, which tells deviations; through `mlflow models serve`, as a user would."""
    server.start()
    space = family("hiaml")
    genomes = space.sample(np.random.default_rng(1), 8)
    rows = {"architecture": [json.dumps(space.encode(genome)) for genome in genomes], "acc": np.linspace(60, 70, 8)}
    pd.DataFrame(rows).to_csv(tmp_path / "few.csv", index=False)
    places = ["--labels", tmp_path / "few.csv", "--out", tmp_path / "tuned", "--workspace", tmp_path / "workspace"]
    said = CliRunner().invoke(
        app, ["finetune", "--family", "hiaml", "--register", "--tracking-uri", server.address, *map(str, places)]
    )
    assert said.exit_code == 0, said.output
    number = said.output.partition("registered as gennape version ")[2].split()[0]
    predictor = load_checkpoint(tmp_path / "tuned")
    version = open_store(tmp_path, server.address)[0].get_model_version("gennape", number)
    data = {"file": "few.csv", "sha256": hashlib.sha256((tmp_path / "few.csv").read_bytes()).hexdigest()}
    assert version.tags == {
        "sha256": predictor.sha256.partition("+")[0],
        "commit": str(commit()),
        "data": json.dumps(data),
    }
    spaces = [family(name) for name in ("hiaml", "nb101", "hiaml")]
    architectures = [example(spaces[0]), example(spaces[1]), space.encode(space.sample(np.random.default_rng(2), 1)[0])]
    asked = [[space.name, json.dumps(one)] for space, one in zip(spaces, architectures, strict=True)]
    told = _ask_served(f"models:/gennape/{number}", server.address, tmp_path, asked)
    for space, architecture, row in zip(spaces, architectures, told, strict=True):
        expected = predictor.predict(space.graphs(space.decode(architecture)[None]))
        assert row["accuracy"] == pytest.approx(expected.accuracy[0], abs=1e-4)
        assert row["deviation"] == pytest.approx(expected.deviation[0], abs=1e-4)


def _ask_served(model: str, tracking: str, folder: Path, rows: list[list[str]]) -> list[dict[str, float]]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as where the environment is activated
    environment = {**os.environ, **ENVIRONMENT, "MLFLOW_TRACKING_URI": tracking, "PATH": path}
    with (folder / "served.log").open("wb") as words:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"], env=environment, stdout=words, stderr=words,
            start_new_session=True, cwd=folder,
        )  # fmt: skip
    try:
        _until(lambda: process.poll() is not None or _post(port, "/ping")[0] == 200)
        assert process.poll() is None, (folder / "served.log").read_text()[-2000:]
        status, told = _post(port, "/invocations", rows)
        assert status == 200, told
        status, refusal = _post(port, "/invocations", [["hiaml", "{"]])
        assert status == 400
        assert b"not JSON" in refusal
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    predictions: list[dict[str, float]] = json.loads(told)["predictions"]
    return predictions


def _post(port: int, path: str, rows: list[list[str]] | None = None) -> tuple[int, bytes]:
    """Status and body of a request with a data frame; status 0 where nobody answers."""
    body = json.dumps({"dataframe_split": {"columns": ["space", "architecture"], "data": rows}}) if rows else None
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST" if body else "GET", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, HTTPException):
        return 0, b""
    finally:
        connection.close()


def test_an_encoder_is_a_model_of_its_own(server: Any, tmp_path: Path) -> None:
    server.start()
    encoder = GraphEncoder(EncoderConfig(8, 2, 4)).eval()
    save_encoder(tmp_path / "encoder", encoder, {"commit": None})
    assert register_checkpoint(tmp_path / "encoder", tmp_path, "pretrain", server.address).name == "gennape-encoder"
    model = _load_pyfunc(str(tmp_path / "encoder"))
    assert isinstance(model, CheckpointModel)
    space = family("hiaml")
    frame = pd.DataFrame({"space": ["hiaml"], "architecture": [json.dumps(example(space))]})
    assert list(model.predict(frame)) == [f"embedding_{i}" for i in range(4)]


def test_a_server_that_is_away_costs_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register_result(shipped_checkpoint(), "fit", tmp_path, "http://127.0.0.1:9")
    said = capsys.readouterr().out
    assert "not registered yet: no use of the MLflow server http://127.0.0.1:9" in said
    assert f"gennape ui --workspace {tmp_path}" in said
    (left,) = (tmp_path / "tracking").iterdir()
    assert left.name.startswith("fit-")


def test_credentials_reach_the_server_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "do-not-show-me")
    seen: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_error(401)

        def log_message(self, *_: Any) -> None:
            pass

    stub = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{stub.server_address[1]}"
        with caplog.at_level(logging.INFO), track(tmp_path, "secret", {}, server=address) as tracker:
            tracker.metrics(0, {"loss": 1.0})
            _until(lambda: seen)
            shown = psutil.Process(tracker._sender.pid).cmdline()  # what every user of the machine may read
    finally:
        stub.shutdown()
        stub.server_close()
    assert seen[0] == "Basic YW5uOmRvLW5vdC1zaG93LW1l"
    left = [path for path in (tmp_path / "tracking" / "secret").iterdir() if path.is_file()]
    assert left
    assert not any(b"do-not-show-me" in path.read_bytes() for path in left)
    assert not any("do-not-show-me" in argument for argument in shown)
    assert "do-not-show-me" not in caplog.text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://ann:do-not-show-me@host:5000", "MLFLOW_TRACKING_PASSWORD"),
        ("./mlruns", "http://"),
        ("sqlite:///mlflow.db", "http://"),
        ("http://", "http://"),
    ],
)
def test_what_is_no_address_of_a_server_is_refused(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal, track(tmp_path, "x", {}, server=address):
        pass
    assert "do-not-show-me" not in str(refusal.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ConfigError, match=message):
        server_address()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9"):
        open_store(tmp_path, "http://127.0.0.1:9")
