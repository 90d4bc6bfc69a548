"""The application behind the page: its files, and what it asks of the runs."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, RedirectResponse, Response

from gennape import __version__
from gennape.errors import GennapeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import Request

    from gennape.platform.ui.catalogue import Catalogue

#: Files of the page by their names in addresses, and what they are.
_STATIC = {
    "page.js": "text/javascript",
    "plots.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_PLOTLY = "plotly.min.js"
#: The page runs its own scripts alone; Plotly sets styles of elements.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_DRAWING = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}


def page_app(catalogue: Catalogue, mlflow: Callable[[], str]) -> FastAPI:
    """The page of the runs in ``catalogue``. ``mlflow`` gives the current address of MLflow, empty if there is none."""
    app = FastAPI(title="gennape", version=__version__, openapi_url=None)
    static = files(__package__).joinpath("static")

    @app.middleware("http")
    async def protected(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await call_next(request)
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    @app.exception_handler(GennapeError)
    async def refused(_: Request, error: GennapeError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 404)

    @app.get("/")
    def page() -> Response:
        return Response(static.joinpath("index.html").read_bytes(), media_type="text/html")

    @app.get(f"/static/{_PLOTLY}")
    def plotly() -> Response:
        script = files("plotly").joinpath("package_data", _PLOTLY).read_bytes()
        return Response(script, media_type="text/javascript", headers={"cache-control": "max-age=86400"})

    @app.get("/static/{name}")
    def script(name: str) -> Response:
        if name not in _STATIC:
            return JSONResponse({"error": f"no file {name[:100]!r} here"}, 404)
        return Response(static.joinpath(name).read_bytes(), media_type=_STATIC[name])

    @app.get("/api/runs")
    def runs() -> dict[str, Any]:
        return {
            "workspace": str(catalogue.workspace),
            "version": __version__,
            "mlflow": bool(mlflow()),
            "runs": catalogue.runs(),
        }

    @app.get("/api/runs/{name}/front")
    def front(name: str, known: str = "") -> dict[str, Any]:
        return catalogue.front(name, known)

    @app.get("/api/runs/{name}/networks/{key}")
    def network(name: str, key: str) -> dict[str, Any]:
        return catalogue.network(name, key)

    @app.get("/api/runs/{name}/networks/{key}/drawing.svg")
    def drawing(name: str, key: str) -> Response:
        return Response(catalogue.drawing(name, key), media_type="image/svg+xml", headers=_DRAWING)

    @app.get("/mlflow")
    def to_mlflow() -> Response:
        address = mlflow()
        if not address:
            return JSONResponse({"error": "MLflow is not open yet; wait a moment and reload"}, 404)
        return RedirectResponse(address, 303)

    return app
