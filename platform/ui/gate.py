"""Who may see the page from other machines: who has the token, once, and that browser from then on."""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse

from gennape.platform.serving.http.auth import is_authorised

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

ENTER = "/enter"
_BYTES, _MAX_FORM = 32, 1 << 13
_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'",
}
_FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>gennape</title><style>:root{color-scheme:light dark;font:16px system-ui,sans-serif}
body{max-width:24rem;margin:15vh auto;padding:0 1rem}input,button{font:inherit;padding:.5rem;width:100%;box-sizing:
border-box;margin-top:.5rem}</style><h1>gennape</h1><form method="post" action="/enter"><label>Token
<input name="token" type="password" autocomplete="current-password" autofocus required></label>
<button>Open</button></form></html>"""


class TokenGate:
    """An application in front of ``app`` that asks for a token: as a header of each request, or once in a form."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token
        self._session = secrets.token_urlsafe(_BYTES)
        self._cookie = f"gennape-page-{secrets.token_hex(4)}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._may_pass(Headers(scope=scope))):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            answer = await self._enter(Request(scope, receive))
            await answer(scope, receive, send)

    def _may_pass(self, headers: Headers) -> bool:
        given = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._session.encode()):
            return True
        return "authorization" in headers and is_authorised(headers["authorization"], self._token)

    async def _enter(self, request: Request) -> Response:
        if request.method != "POST" or request.url.path != ENTER:
            if "text/html" in request.headers.get("accept", ""):
                return HTMLResponse(_FORM, 401, _HEADERS)
            return PlainTextResponse("This page asks for its token.\n", 401, _HEADERS)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM:
                return PlainTextResponse("That is no token.\n", 413, _HEADERS)
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if not is_authorised(f"Bearer {given}", self._token):
            return HTMLResponse(_FORM, 401, _HEADERS)
        entered = RedirectResponse("/", 303, _HEADERS)
        entered.set_cookie(self._cookie, self._session, path="/", httponly=True, samesite="strict")
        return entered
