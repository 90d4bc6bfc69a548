"""The guide to serving, command by command, with the shipped predictor; and the load drill in its short form."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from types import SimpleNamespace
from typing import TYPE_CHECKING

import httpx
import numpy as np
import onnx
import pytest

from gennape.jobs import serve
from gennape.predictors.model.checkpoint import load_pretrained, save_tuned, shipped_checkpoint
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "serve.md").read_text()
SECRET = "of-the-guide-0123456789"  # noqa: S105 (nobody's)
PATIENCE_S = 180


class Serving:
    """A ``gennape serve`` of its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: Queue[str] = Queue()
        self.said: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line from here on that holds the pattern."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE_S)
            except Empty:
                line = ""
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
            assert line, f"no {pattern!r} in: {''.join(self.said)}"


@contextmanager
def serving(arguments: list[str], folder: Path) -> Iterator[Serving]:
    """``gennape serve`` in a folder, ended by Ctrl-C."""
    # As in a job: what runs in the background may ignore Ctrl-C from birth.
    environment = {
        **os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "RAY_JOB_STOP_SIGNAL": "SIGINT"
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "gennape", "serve", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        service = Serving(process)
        try:
            yield service
            process.send_signal(signal.SIGINT)
            try:
                ended = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # it then says where each of its threads is
                ended = process.wait()
            service.reader.join()
            assert ended == 0, "".join(service.said + list(service.lines.queue))
        finally:
            process.kill()
            service.reader.join()


def curl(command: str, url: str, folder: Path) -> httpx.Response:
    """What curl would be answered at ``url``, with the token added."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", "--data-binary", dest="body")
    given = parser.parse_args(shlex.split(command)[1:])
    headers = dict(header.split(": ", 1) for header in given.headers) | {"authorization": f"Bearer {SECRET}"}
    body = given.body
    if body and body.startswith("@"):
        body = (folder / body[1:]).read_bytes()
    address = given.address.replace("http://127.0.0.1:8000", url)
    return httpx.request("GET" if body is None else "POST", address, content=body, headers=headers, timeout=PATIENCE_S)


def write_onnx(path: Path) -> None:
    """A network of one layer on an image of 224 x 224."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 224, 224])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    w = onnx.numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "w")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "w"], ["y"])], "g", [x], [y], [w])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)


def write_tuned(folder: Path) -> str:
    """A checkpoint other than the shipped one; its hash."""
    space, predictor = family("nb201"), load_pretrained()
    graphs = space.graphs(space.sample(np.random.default_rng(1), 20))
    predictor.fit(graphs, np.linspace(85, 94, 20))
    return save_tuned(folder, predictor, {"labels": "made up", "families": ["nb201"]})


@pytest.mark.cluster
def test_the_guide_from_the_first_request_to_another_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text(SECRET)
    shutil.copytree(shipped_checkpoint(), tmp_path / "checkpoint")
    (program,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    runpy.run_path("program.py")
    write_onnx(tmp_path / "model.onnx")
    arguments = ["--checkpoint", "checkpoint", "--token-file", "token", "--port", "0", "--max-replicas", "1"]
    with serving(arguments, tmp_path) as service:
        url = service.wait_for(r"serving checkpoint \w{12} on (http://127\.0\.0\.1:\d+)")[1]
        assert httpx.get(f"{url}/spaces", timeout=PATIENCE_S).status_code == 401
        commands = re.findall(r"^curl .+$", GUIDE, re.MULTILINE)
        answers = {command: curl(command, url, tmp_path) for command in commands}
        assert {command: answer.status_code for command, answer in answers.items()} == dict.fromkeys(commands, 200)
        predicted = [answer.json() for command, answer in answers.items() if "/predict" in command]
        assert [len(answer["predictions"]) for answer in predicted] == [1, 3, 1, 1]
        old = {answer["checkpoint"] for answer in predicted}
        names = set(re.findall(r"`(gennape_\w+)`", GUIDE))
        assert names <= set(re.findall(r"^(?:# TYPE )?(\w+)", answers[commands[6]].text, re.MULTILINE)), names
        assert old == {load_pretrained().sha256}

        new = write_tuned(tmp_path / "tuned")
        (tmp_path / "checkpoint").rename(tmp_path / "before")
        process = int(service.wait_for(r"kill -USR1 (\d+)")[1])
        os.kill(process, signal.SIGUSR1)
        service.wait_for("not updated: .*checkpoint")
        assert httpx.get(f"{url}/health", timeout=PATIENCE_S).json()["checkpoint"] == old.pop()
        (tmp_path / "tuned").rename(tmp_path / "checkpoint")
        os.kill(process, signal.SIGUSR1)
        service.wait_for(f"serving checkpoint {new[:12]}")
        answer = curl(commands[0], url, tmp_path).json()
        assert answer["checkpoint"] == new
        assert answer["predictions"][0]["deviation"] > 0


@pytest.mark.timeout(30)
def test_signals_that_another_thread_is_given_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[object] = []
    monkeypatch.setattr(serve, "_updated", lambda *given: updates.append(given))
    heard = threading.Event()
    out = SimpleNamespace(print=lambda _: heard.set())

    def ask() -> None:
        assert heard.wait(10)
        for number in (signal.SIGUSR1, signal.SIGINT):
            time.sleep(0.2)  # the other thread is waiting by then
            signal.pthread_kill(threading.get_ident(), number)
            time.sleep(2)

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            serve._update_when_asked(None, None, out)  # type: ignore[arg-type]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        thread.join()
    assert len(updates) == 1


@pytest.mark.cluster
def test_strangers_are_not_served_without_a_token(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GENNAPE_TOKEN"}
    command = [sys.executable, "-m", "gennape", "serve", "--host", "0.0.0.0"]  # noqa: S104 (what is refused)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a bearer token is required" in done.stderr
    assert "starting" not in done.stdout


@pytest.mark.cluster
@pytest.mark.drill
def test_far_too_many_requests_are_refused_and_the_service_goes_on() -> None:
    command = [
        sys.executable,
        "benchmarks/load_drill.py",
        "--seconds",
        "2",
        "--measure",
        "1",
        "--graphs",
        "4",
        "--short",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {line.partition(":")[0]: line for line in done.stdout.splitlines()}
    assert set(figures) == {
        "before",
        "flood",
        "memory",
        "after",
        "in one process",
        "by handle",
        "over HTTP",
        "recovered",
    }
    assert int(re.findall(r"(\d+) answered", figures["flood"])[0]) > 0
    assert figures["recovered"].endswith("other statuses: none")
