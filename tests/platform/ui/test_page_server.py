"""The server of the page: who is let in, and which files it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi.testclient import TestClient
from stored_runs import stored_run

from gennape.errors import ServiceError
from gennape.platform.ui import serve_page
from gennape.platform.ui.app import page_app
from gennape.platform.ui.catalogue import Catalogue
from gennape.platform.ui.gate import TokenGate

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "a-token-of-24-characters"  # noqa: S105 (a test's)
STATIC = Path(__file__).resolve().parents[3] / "platform" / "ui" / "static"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    stored_run(folder, "one")
    return folder


@pytest.fixture
def client(workspace: Path) -> Iterator[TestClient]:
    with TestClient(page_app(Catalogue(workspace), lambda: "http://127.0.0.1:1/enter/x")) as client:
        yield client


def test_the_page_takes_scripts_from_nowhere_else(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    named = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
    assert named
    assert all(name.startswith(("/static/", "/mlflow")) for name in named)
    for name in named:
        assert client.get(name, follow_redirects=False).status_code in (200, 303), name
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "://" not in "".join(path.read_text() for path in STATIC.iterdir()).replace("http://www.w3.org/2000/svg", "")


def test_every_static_file_is_served_and_no_other(client: TestClient) -> None:
    for path in STATIC.iterdir():
        if path.name != "index.html":
            answer = client.get(f"/static/{path.name}")
            assert answer.content == path.read_bytes()
            assert answer.headers["x-content-type-options"] == "nosniff"
    for name in ("app.py", "..%2fapp.py", "%2e%2e/app.py", "x", "..%2f..%2f..%2fpyproject.toml", "%2fetc%2fpasswd"):
        assert client.get(f"/static/{name}").status_code == 404, name


@pytest.mark.parametrize(
    "path", ["no/front", "..%2fone/front", "one/networks/x", "one/networks/..%2f..%2fconfig.json/drawing.svg"]
)
def test_what_is_not_there_is_told(client: TestClient, path: str) -> None:
    answer = client.get(f"/api/runs/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"


def test_the_page_asks_for_what_there_is(client: TestClient) -> None:
    (run,) = client.get("/api/runs").json()["runs"]
    front = client.get(f"/api/runs/{run['name']}/front").json()
    key = front["networks"][0]["key"]
    assert client.get(f"/api/runs/one/networks/{key}").json()["export"].startswith("gennape export ")
    picture = client.get(f"/api/runs/one/networks/{key}/drawing.svg")
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert "sandbox" in picture.headers["content-security-policy"]
    assert client.get("/mlflow", follow_redirects=False).headers["location"] == "http://127.0.0.1:1/enter/x"


def test_on_loopback_a_link_lets_one_browser_in(workspace: Path) -> None:
    links: list[str] = []
    with serve_page(workspace, "127.0.0.1", 0, links.append) as page, httpx.Client() as owner:
        assert page.address.startswith("http://127.0.0.1:")
        assert httpx.get(f"{page.address}/api/runs").status_code == 401
        assert owner.get(links[0]).status_code == 200
        assert owner.get(f"{page.address}/api/runs").json()["runs"][0]["name"] == "one"
        assert httpx.get(links[0]).status_code == 401
        assert httpx.get(links[1]).status_code == 200
        other = {"host": "attacker.example"}
        assert owner.get(f"{page.address}/api/runs", headers=other).status_code == 403


def test_elsewhere_it_takes_a_token(workspace: Path) -> None:
    with pytest.raises(ServiceError, match="bearer token is required"), serve_page(workspace, "0.0.0.0", 0, print):  # noqa: S104
        pass
    said: list[str] = []
    with serve_page(workspace, "127.0.0.1", 0, said.append, token=TOKEN) as page, httpx.Client() as browser:
        assert said == [page.address]
        asked = browser.get(page.address, headers={"accept": "text/html"})
        assert asked.status_code == 401
        assert '<form method="post" action="/enter">' in asked.text
        assert browser.post(f"{page.address}/enter", data={"token": "wrong" * 5}).status_code == 401
        assert browser.get(f"{page.address}/api/runs").status_code == 401
        entered = browser.post(f"{page.address}/enter", data={"token": TOKEN})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert browser.get(f"{page.address}/api/runs").status_code == 200
        script = {"authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"{page.address}/api/runs", headers=script).status_code == 200
        assert httpx.get(f"{page.address}/api/runs", headers={"authorization": "Bearer x"}).status_code == 401


def test_a_form_that_is_too_long_is_refused_before_it_is_held(workspace: Path) -> None:
    app = TokenGate(page_app(Catalogue(workspace), str), TOKEN)
    with TestClient(app) as client:
        assert client.post("/enter", content=b"token=" + b"x" * 100_000).status_code == 413


def test_a_port_in_use_is_refused(workspace: Path) -> None:
    with serve_page(workspace, "127.0.0.1", 0, lambda _: None) as page:
        port = int(page.address.rpartition(":")[2])
        with (
            pytest.raises(ServiceError, match="another port"),
            serve_page(workspace, "127.0.0.1", port, lambda _: None),
        ):
            pass
