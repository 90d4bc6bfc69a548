"""The door of the web interface: one link, one browser, nobody else."""

from __future__ import annotations

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gennape.platform.tracking.ui.door import Door

HOME = "http://127.0.0.1:5000"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATHS = (
    "/", "/health", "/version", "/static-files/main.js", "/api/2.0/mlflow/runs/search", "/graphql",
    "/get-artifact?path=a",
    "/ajax-api/3.0/mlflow/assistant/config", "/enter/", "/enter/x", "//enter/x", "/enter", "/enter/../health", "/%00",
)  # fmt: skip


async def _echo(request):
    return PlainTextResponse(f"inside {request.url.path}")


async def _socket(socket):
    await socket.accept()
    await socket.close()


@pytest.fixture
def door():
    links = []
    app = Starlette(routes=[WebSocketRoute("/socket", _socket), Route("/{path:path}", _echo, methods=list(METHODS))])
    made = Door(app, links.append)
    made.links = links
    made.open()
    return made


def browser(door, **options):
    return TestClient(door, base_url=HOME, **options)


def entered(door):
    client = browser(door)
    assert client.get(door.links[-1]).status_code == 200
    return client


def test_whoever_opens_the_link_is_in_and_the_next_link_is_another(door):
    client = browser(door)
    answer = client.get(door.links[0])
    assert answer.status_code == 200
    assert 'content="0;url=/"' in answer.text
    cookie = answer.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/"))
    assert answer.headers["cache-control"] == "no-store"
    assert client.get("/experiments").text == "inside /experiments"
    assert len(set(door.links)) == len(door.links) == 2
    assert len(door.links[0]) > 40


def test_a_link_works_once_and_any_look_but_opening_it_does_not_count(door):
    first = door.links[0]
    for method in ("HEAD", "POST", "OPTIONS"):
        assert browser(door).request(method, first).status_code == 401
    assert browser(door).get(first).status_code == 200
    again = browser(door).get(first)
    assert again.status_code == 401
    assert "set-cookie" not in again.headers
    assert "gennape ui" in again.text
    assert browser(door).get(door.links[1]).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_the_cookie(door, path):
    for method in METHODS:
        for cookie in (
            {},
            {"cookie": f"{door._cookie}="},
            {"cookie": f"{door._cookie}=wrong"},
            {"cookie": f"{door._cookie}=\xff".encode("latin-1")},
        ):
            answer = browser(door).request(method, path, headers=cookie)
            assert answer.status_code == 401
            assert "inside" not in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.7:5000", "", "[::1", "a@b.localhost"]
)
def test_a_name_that_was_made_to_point_here_is_refused_even_with_cookie_or_link(door, host):
    client = entered(door)
    assert client.get("/", headers={"host": host}).status_code == 403
    assert client.get(door.links[-1], headers={"host": host}).status_code == 403
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost:5000", "localhost", "[::1]:5000", "LOCALHOST:8000"])
def test_this_machine_may_be_called_by_any_of_its_names_and_by_a_forwarded_port(door, host):
    assert entered(door).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:5000"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_addresses_use_no_cookie_of_this_one(door, headers):
    """SameSite does not tell ports of one machine apart."""
    client = entered(door)
    for method in ("GET", "POST"):
        assert client.request(method, "/api", headers=headers).status_code == 403


def test_its_own_pages_and_typed_addresses_pass(door):
    client = entered(door)
    for headers in ({"origin": HOME}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert client.post("/api", headers=headers).text == "inside /api"


def test_what_runs_programs_for_whoever_asks_is_closed(door):
    assert entered(door).put("/ajax-api/3.0/mlflow/assistant/config").status_code == 404


def test_sockets_pass_by_the_same_door(door):
    with pytest.raises(WebSocketDisconnect), browser(door).websocket_connect("/socket"):
        pass
    with entered(door).websocket_connect("ws://127.0.0.1:5000/socket") as socket:
        assert socket.receive()["type"] == "websocket.close"  # it was accepted


def test_two_interfaces_in_one_browser_do_not_shut_each_other(door):
    other_links = []
    other = Door(Starlette(routes=[Route("/", _echo)]), other_links.append)
    other.open()
    client, second = entered(door), TestClient(other, base_url="http://127.0.0.1:5001")
    second.get(other_links[0])
    client.cookies.update(second.cookies)
    assert client.get("/").status_code == 200
    second.cookies.update(client.cookies)
    assert second.get("/").status_code == 200


def test_two_hosts_or_none_are_refused(door):
    for hosts in ([], [b"localhost", b"localhost"]):
        sent = []

        async def send(message, sent=sent):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host) for host in hosts]}
        asyncio.run(door(scope, None, send))
        assert sent[0]["status"] == 403
