"""What one request over HTTP may ask for, how many may ask, for how long, and who."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from http_cases import JSON_TYPE, LIMITS, ONE, ask_api, predict, request, service_of, sizes_of
from hypothesis import given
from hypothesis import strategies as st

from gennape.addresses import is_loopback
from gennape.errors import ServiceError
from gennape.platform.serving.answers import Answer, OverloadedError
from gennape.platform.serving.http.admission import Gate
from gennape.platform.serving.http.app import create_api
from gennape.platform.serving.http.auth import TOKEN, is_authorised, read_token, require_token
from gennape.platform.serving.http.schemas import as_columns
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gennape.search_spaces.graphs.graph import PackedGraphs


@pytest.mark.parametrize(
    ("path", "most"), [("/predict", 200_000), ("/predict/graphs", 200_000), ("/predict/onnx", 50_000)]
)
def test_a_body_too_large_is_refused_with_a_length_and_without(path: str, most: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b" " * most
        yield b" "

    for body in (b" " * (most + 1), chunks()):
        answer = ask_api("POST", path, content=body, headers=JSON_TYPE)
        assert answer.status_code == 413
        assert f"at most {most} bytes" in answer.json()["error"]


def test_too_many_networks_and_too_many_nodes() -> None:
    many = predict(json={"space": "ofa_mbv3", "architectures": [ONE["architecture"]] * 9})
    assert (many.status_code, "9 networks in one request, more than the 8" in many.text) == (422, True)
    graph = as_columns(family("ofa_mbv3").graph(family("ofa_mbv3").decode(ONE["architecture"])))
    many = ask_api("POST", "/predict/graphs", json={"graphs": [graph] * 9})
    assert (many.status_code, "more than the 8" in many.text) == (422, True)
    tight = create_api(service_of(limits=replace(LIMITS, max_nodes=20)))
    for path, body in (("/predict", ONE), ("/predict/graphs", {"graphs": [graph]})):
        answer = ask_api("POST", path, tight, json=body)
        assert (answer.status_code, "more than the 20 that are taken" in answer.text) == (422, True), answer.text


class _Held:
    """A predictor that answers when it is let go, and knows what became of each request."""

    def __init__(self) -> None:
        self.begun, self.given_up = asyncio.Semaphore(0), asyncio.Semaphore(0)
        self.go = asyncio.Event()

    async def __call__(self, graphs: PackedGraphs) -> Answer:
        self.begun.release()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up.release()
            raise
        return await sizes_of(graphs)


def test_beyond_the_queue_requests_are_told_when_to_come_again() -> None:
    async def press() -> None:
        held = _Held()
        service = service_of(held)
        api = create_api(service)
        inside = [asyncio.create_task(request(api, "POST", "/predict", json=ONE)) for _ in range(2)]
        for _ in inside:
            await held.begun.acquire()
        refused = await request(api, "POST", "/predict", json=ONE)
        assert refused.status_code == 503
        assert "2 requests are in progress, as many as are taken" in refused.json()["error"]
        assert int(refused.headers["retry-after"]) >= 1
        assert (await request(api, "GET", "/health")).status_code == 200  # busy is not broken
        held.go.set()
        assert [answer.status_code for answer in await asyncio.gather(*inside)] == [200, 200]
        assert (await request(api, "POST", "/predict", json=ONE)).status_code == 200
        figures = (await request(api, "GET", "/metrics")).text
        assert "gennape_refused_total 1.0" in figures
        assert 'gennape_requests_total{path="/predict",status="503"} 1.0' in figures

    asyncio.run(press())


def test_a_late_answer_is_504_and_given_up() -> None:
    async def wait() -> None:
        held = _Held()
        service = service_of(held, limits=replace(LIMITS, timeout_s=0.2))
        answer = await request(create_api(service), "POST", "/predict", json=ONE)
        assert (answer.status_code, "no answer within 0.2 s" in answer.text) == (504, True)
        await held.given_up.acquire()
        assert service.gate.inside == 0

    asyncio.run(wait())


def test_a_slow_body_is_408() -> None:
    async def dribble() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    api = create_api(service_of(limits=replace(LIMITS, body_timeout_s=0.2)))
    answer = ask_api("POST", "/predict", api, content=dribble(), headers=JSON_TYPE)
    assert (answer.status_code, "did not arrive within 0.2 s" in answer.text) == (408, True), answer.text


def test_what_nobody_waits_for_is_given_up() -> None:
    async def leave() -> None:
        held = _Held()
        service = service_of(held)
        body = json.dumps(ONE).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        left = asyncio.Event()

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError(f"{message} to nobody")

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}
        scope |= {"http_version": "1.1", "scheme": "http", "root_path": "", "raw_path": b"/predict"}
        request = asyncio.create_task(create_api(service)(scope, receive, send))
        await held.begun.acquire()
        left.set()
        await held.given_up.acquire()
        await request
        assert service.gate.inside == 0

    asyncio.run(leave())


def test_the_gate_tells_to_wait_about_as_long_as_those_inside_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("gennape.platform.serving.http.admission.time.monotonic", lambda: now)
    gate = Gate(20)
    assert gate.retry_after_s == 1
    for _ in range(20):
        gate.enter()
    with pytest.raises(OverloadedError, match="20 requests are in progress"):
        gate.enter()
    for _ in range(200):  # one leaves and one enters every half second
        now += 0.5
        gate.leave()
        gate.enter()
    assert gate.retry_after_s == 10
    for _ in range(200):
        now += 60
        gate.leave()
        gate.enter()
    assert gate.retry_after_s == Gate.MAX_WAIT_S


def test_without_the_token_only_health_is_told() -> None:
    api = create_api(service_of(token="0123456789abcdef"))  # noqa: S106
    good = {"authorization": "Bearer 0123456789abcdef"}
    assert ask_api("POST", "/predict", api, json=ONE, headers=good).status_code == 200
    assert ask_api("GET", "/health", api).status_code == 200
    for path in ("/predict", "/predict/graphs", "/predict/onnx", "/spaces", "/metrics", "/openapi.json", "/nowhere"):
        for headers in ({}, {"authorization": "Bearer 0123456789abcdeF"}, {"authorization": "Basic 0123456789abcdef"}):
            answer = ask_api("POST" if "predict" in path else "GET", path, api, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "0123456789abcdef" not in answer.text
    schema = ask_api("GET", "/openapi.json", api, headers=good).json()
    assert schema["security"] == [{"token": []}]
    assert schema["paths"]["/health"]["get"]["security"] == []


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-file-0123456789\n")
    monkeypatch.delenv(TOKEN, raising=False)
    assert read_token() is None
    monkeypatch.setenv(TOKEN, "of-the-environment")
    assert read_token() == "of-the-environment"
    assert read_token(file) == "of-the-file-0123456789"
    with pytest.raises(ServiceError, match="cannot read the token"):
        read_token(tmp_path / "absent")
    for bad in ("", "short", "with spaces in it 0123456789", "\u00e9" * 20):
        file.write_text(bad)
        with pytest.raises(ServiceError, match="at least 16 printable ASCII") as raised:
            read_token(file)
        assert not bad or bad not in str(raised.value)


@pytest.mark.timeout(30)
def test_a_token_is_read_from_a_file_of_bounded_size_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * 70_000)
    (tmp_path / "binary").write_bytes(b"\xff" * 20)
    for path, says in (
        (tmp_path / "pipe", "it is a pipe, where a regular file is needed; name a file"),
        (Path("/dev/zero"), "it is a device, where a regular file is needed"),
        (tmp_path, "it is a folder, where a regular file is needed"),
        (tmp_path / "long", "it holds 70,000 bytes, where at most 65,536 are read"),
        (tmp_path / "binary", "it is not text in UTF-8"),
    ):
        with pytest.raises(ServiceError, match=f"cannot read the token in {path}: {says}"):
            read_token(path)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.example.org")),  # noqa: S104
    ],
)
def test_where_a_token_is_required(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    require_token(host, "0123456789abcdef")
    if loopback:
        require_token(host, None)
    else:
        with pytest.raises(ServiceError, match=r"GENNAPE_TOKEN.*--token-file"):
            require_token(host, None)


@given(st.text(max_size=40))
def test_no_other_header_is_authorised(header: str) -> None:
    assert not is_authorised(header, "0123456789abcdef")
