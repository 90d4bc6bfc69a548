"""Who may use the web interface: who opens the link that was printed, once, and that browser from then on.

Loopback keeps other machines out, but not other users of this one, nor pages of other sites in the owner's browser.
"""

from __future__ import annotations

import hmac
import html
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

ENTER = "/enter/"
COOKIE = "gennape-ui"
#: Names of this machine that a browser may have asked for; any other one is a page that had its own name point here.
HOSTS = ("127.0.0.1", "localhost", "::1")
#: Parts of MLflow that run programs on this machine for whoever asks.
CLOSED = ("/ajax-api/3.0/mlflow/assistant",)
_BYTES = 32
_NO_STORE = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
_LOCKED = (
    "This page is locked: open the link that `gennape ui` printed in its terminal. Each link works once, and another "
    "one is printed after it was used.\n"
)
_ELSEWHERE = "Refused: this was asked for by a page of another address. Type the address of this one yourself.\n"
#: A page and not a redirect: a browser that came from another site sends no cookie before it has been on this one.
_ENTERED = (
    '<!doctype html><meta http-equiv="refresh" content="0;url={home}"><title>{title}</title>'
    '<a href="{home}">{title}</a>'
)


class Door:
    """An application in front of ``app`` that lets only the owner's browser through.

    ``announce`` is told the path of each link: of the first one by :meth:`open`, of the next when one was used. A link
    leads to ``home``; ``title`` names the application.
    """

    def __init__(self, app: ASGIApp, announce: Callable[[str], None], title: str = "MLflow", home: str = "/") -> None:
        self._app = app
        self._entered = _ENTERED.format(title=html.escape(title), home=html.escape(home))
        self._announce = announce
        self._session = secrets.token_urlsafe(_BYTES)
        self._cookie = f"{COOKIE}-{secrets.token_hex(4)}"  # several interfaces may be open in one browser
        self._link = secrets.token_urlsafe(_BYTES)

    def open(self) -> None:
        """Announce the first link."""
        self._announce(ENTER + self._link)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (refusal := self._answer(scope, Headers(scope=scope))) is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """What is answered here; None for what may pass."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _host(hosts[0]) not in HOSTS:
            return PlainTextResponse("Refused: this is not the address of this page.\n", 403)
        path = scope["path"]
        if path.startswith(ENTER) and scope["type"] == "http" and scope["method"] == "GET":
            return self._enter(path.removeprefix(ENTER))
        if not any(_equal(found, self._session) for found in _cookies(headers, self._cookie)):
            return PlainTextResponse(_LOCKED, 401, _NO_STORE)
        if not _from_here(headers, hosts[0]):
            return PlainTextResponse(_ELSEWHERE, 403)
        if any(closed in path for closed in CLOSED):
            return PlainTextResponse("Not part of `gennape ui`.\n", 404)
        return None

    def _enter(self, given: str) -> Response:
        if not _equal(given, self._link):
            return PlainTextResponse(_LOCKED, 401, _NO_STORE)
        self._link = secrets.token_urlsafe(_BYTES)
        self.open()
        entered = HTMLResponse(self._entered, headers={**_NO_STORE, "content-security-policy": "default-src 'none'"})
        entered.set_cookie(self._cookie, self._session, path="/", httponly=True, samesite="strict")
        return entered


def _host(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _cookies(headers: Headers, name: str) -> list[str]:
    return [found for header in headers.getlist("cookie") if (found := cookie_parser(header).get(name)) is not None]


def _equal(given: str, secret: str) -> bool:
    """In a time that tells nothing of the secret."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())


def _from_here(headers: Headers, host: str) -> bool:
    """Whether no page of another address asks: cookies alone do not tell ports of one machine apart."""
    origin = headers.get("origin")
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin") and origin in (None, f"http://{host}")
