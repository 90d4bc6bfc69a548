"""The HTTP API of the served ensemble: networks in, predictions as JSON out.

It does not depend on Ray: it wraps any coroutine that predicts packed graphs, so it can be tested without a cluster.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from gennape.errors import GennapeError, InvalidArchitectureError, InvalidDataError, InvalidGraphError
from gennape.platform.serving.http.metrics import CONTENT_TYPE
from gennape.platform.serving.http.middleware import GONE, GRAPHS, HEALTH, METRICS, ONNX, PREDICT, SPACES, Guard
from gennape.platform.serving.http.schemas import (
    ErrorBody,
    GraphsRequest,
    HealthResponse,
    PredictRequest,
    PredictResponse,
    SpaceBody,
    SpacesResponse,
    costs_of,
    graphs_of,
    limit_sizes,
    rows_of,
)
from gennape.search_spaces.families.registry import families, family
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.onnx import read_onnx

if TYPE_CHECKING:
    from collections.abc import Callable

    from gennape.platform.serving.config import RequestLimits
    from gennape.platform.serving.http.service import HttpService
    from gennape.search_spaces.families.space import Architecture, SearchSpace
    from gennape.search_spaces.graphs.graph import ComputationGraph, PackedGraphs

    Costs = dict[str, list[int]]

T = TypeVar("T")
PATHS = (PREDICT, GRAPHS, ONNX, SPACES, HEALTH, METRICS, "/openapi.json")
KNOWN = f"known are POST {PREDICT}, POST {GRAPHS}, POST {ONNX}, GET {SPACES}, GET {HEALTH}, GET {METRICS}"
BUILDERS = 2  # threads that build graphs; more would not run in parallel
SHAPE = r"^[0-9]{1,6}(,[0-9]{1,6}){0,7}$"


def create_api(service: HttpService) -> FastAPI:
    """The application with ``POST /predict``, ``/predict/graphs`` and ``/predict/onnx``, ``GET /health``, ``/spaces``,
    ``/metrics`` and ``/openapi.json``.

    Every answer except the metrics names its checkpoint. Every error is ``{"error": message, "checkpoint": sha256}``:
    400 for a body that is not JSON, 401 without the token, 403 for a foreign Host if there is no token, 408 and 413 for
    a body that is too slow or too large, 422 for a network that cannot be predicted, 503 with ``Retry-After`` if the
    service is at capacity or the predictor is unavailable, 504 if the answer took too long.
    """
    api = FastAPI(title="gennape", version="1", docs_url=None, redoc_url=None, separate_input_output_schemas=False)
    api.router.redirect_slashes = False  # the client's Host would decide where a redirection leads
    api.add_middleware(Guard, service=service, paths=PATHS)
    for kind, handler in (
        (RequestValidationError, _answer_invalid_body),
        (HTTPException, _answer_http_error),
        (GennapeError, _answer_refused),
        (ClientDisconnect, _answer_nobody),
        (Exception, _answer_bug),
    ):
        api.add_exception_handler(kind, handler)
    api.state.service = service
    _add_predictions(api, service)
    _add_information(api, service)
    if service.token is not None:
        _declare_token(api)
    return api


def _add_predictions(api: FastAPI, service: HttpService) -> None:
    builders = ThreadPoolExecutor(BUILDERS, "gennape-build")
    importer = ThreadPoolExecutor(1, "gennape-onnx")
    limits = service.limits
    options: dict[str, Any] = {
        "response_model_exclude_none": True,
        "responses": _described(400, 401, 403, 408, 413, 422, 503, 504),
    }

    @api.post(PREDICT, **options)
    async def predict(body: PredictRequest) -> PredictResponse:
        """Predict architectures of a known family."""
        if len(body.listed) > limits.max_graphs:
            raise InvalidArchitectureError(_too_many(len(body.listed), limits.max_graphs))
        built = await _run(builders, _build, body.space, body.listed, limits)
        return await _answer(service, PREDICT, *built, body.space)

    @api.post(GRAPHS, **options)
    async def predict_graphs(body: GraphsRequest) -> PredictResponse:
        """Predict computation graphs, by the columns of the Parquet layout."""
        if len(body.graphs) > limits.max_graphs:
            raise InvalidGraphError(_too_many(len(body.graphs), limits.max_graphs))
        return await _answer(service, GRAPHS, *await _run(builders, _check, body, limits))

    @api.post(ONNX, **options, openapi_extra=ONNX_BODY)
    async def predict_onnx(
        request: Request, shape: Annotated[str | None, Query(pattern=SHAPE)] = None
    ) -> PredictResponse:
        """Predict the network of an ONNX file; weights may be left out. `shape` is needed where the input's is free."""
        with tempfile.TemporaryDirectory(prefix="gennape-upload-") as folder:
            path = Path(folder) / "model.onnx"
            with path.open("wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
            sizes = None if shape is None else tuple(map(int, shape.split(",")))
            built = await _run(importer, _import, path, sizes, limits)
        return await _answer(service, ONNX, *built)


def _add_information(api: FastAPI, service: HttpService) -> None:
    @api.get(HEALTH, responses=_described(403, 503))
    async def health() -> HealthResponse:
        """Whether the predictor answers; needs no token."""
        if not service.healthy:
            raise HTTPException(503, "the predictor does not answer at the moment", {"retry-after": "5"})
        return HealthResponse(status="ok", checkpoint=service.sha256)

    @api.get(SPACES, responses=_described(401, 403))
    async def spaces() -> SpacesResponse:
        """The known families and an example of each."""
        known = [SpaceBody(name=space.name, example=example(space)) for space in families()]
        return SpacesResponse(spaces=known, checkpoint=service.sha256)

    @api.get(METRICS, response_class=Response, responses={**_described(401, 403), 200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        text = service.metrics.exposition(service.gate.inside, service.gate.most, service.sha256)
        return Response(text, media_type=CONTENT_TYPE)


def example(space: SearchSpace) -> Architecture:
    """An example architecture of ``space``, always the same."""
    return space.encode(space.sample(np.random.default_rng(0), 1)[0])


# What is asked --------------------------------------------------------------------------------------------------------


async def _run(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread. If the request is cancelled before the thread starts, it never does."""
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


async def _answer(
    service: HttpService, path: str, graphs: PackedGraphs, costs: Costs, family: str | None = None
) -> PredictResponse:
    answer = await service.ask(graphs)
    service.sha256 = answer.sha256
    service.metrics.predicted(path, len(graphs), answer.together)
    rows, warning = rows_of(answer.prediction, costs), service.warning(answer.sha256, family)
    return PredictResponse(predictions=rows, checkpoint=answer.sha256, warning=warning)


def _build(name: str, architectures: list[Architecture], limits: RequestLimits) -> tuple[PackedGraphs, Costs]:
    space = family(name)
    genomes = np.stack([_decode(space, i, architecture) for i, architecture in enumerate(architectures)])
    graphs = space.graphs(genomes)
    limit_sizes(graphs, limits)
    return graphs, costs_of(graphs)


def _decode(space: SearchSpace, position: int, architecture: Architecture) -> np.ndarray:
    try:
        genome = space.decode(architecture)
        space.validate(genome[None])
    except InvalidArchitectureError as error:
        raise InvalidArchitectureError(f"architecture {position}: {error}") from None
    return genome


def _check(body: GraphsRequest, limits: RequestLimits) -> tuple[PackedGraphs, Costs]:
    graphs = graphs_of(body.graphs, limits)
    return graphs, costs_of(graphs)


def _import(path: Path, shape: tuple[int, ...] | None, limits: RequestLimits) -> tuple[PackedGraphs, Costs]:
    graphs = pack([_read(path, shape, limits)])
    limit_sizes(graphs, limits)
    return graphs, costs_of(graphs)


def _read(path: Path, shape: tuple[int, ...] | None, limits: RequestLimits) -> ComputationGraph:
    try:
        return read_onnx(path, limits.max_onnx_bytes, shape, limits.max_edges_per_node * limits.max_nodes)
    except (InvalidDataError, InvalidGraphError) as error:
        raise type(error)(str(error).replace(str(path), "the upload")) from None


def _too_many(n: int, most: int) -> str:
    return f"{n} networks in one request, more than the {most} that are taken at a time; send several requests"


# What is answered -----------------------------------------------------------------------------------------------------

ONNX_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
MEANINGS = {
    400: "The body is not JSON.",
    401: "The bearer token is missing or wrong.",
    403: "Without a token: asked for by a name that is not this machine's own.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "What was sent is no network that can be predicted.",
    503: "Too much is asked, or the predictor is away: come again later.",
    504: "The answer took too long.",
}


def _described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    described: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": MEANINGS[status]} for status in statuses
    }
    if 503 in described:
        header = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
        described[503]["headers"] = {"Retry-After": header}
    return described


def _declare_token(api: FastAPI) -> None:
    """Declare in the schema that every path except health needs the token."""
    schema = api.openapi()
    schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"token": []}]
    schema["paths"][HEALTH]["get"]["security"] = []


#: Replacements of messages of pydantic.
_REASONS = {
    "missing": "must be there, and is not",
    "extra_forbidden": "is not known here; leave it out",
    "model_attributes_type": "must be a JSON object",
    "string_pattern_mismatch": "must be whole numbers with commas between them, as in 1,3,224,224",
}


def _answer_invalid_body(request: Request, error: Exception) -> Response:
    service: HttpService = request.app.state.service
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return service.error(400, f"the body is not JSON: {reason} at character {first['loc'][-1]}")
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query")) or "the body"
    untold = first["loc"][0] == "body" and "json" not in request.headers.get("content-type", "")
    hint = "; send content-type: application/json" if untold else ""
    reason = _REASONS.get(first["type"], first["msg"].removeprefix("Value error, "))
    return service.error(422, f"{where}: {reason}{hint}")


def _answer_http_error(request: Request, error: Exception) -> Response:
    service: HttpService = request.app.state.service
    if not isinstance(error, HTTPException):
        raise error
    detail = str(error.detail)
    if error.status_code == 400:
        detail = _unreadable(error.__cause__, request.headers.get("content-encoding"))
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path}: {detail}; {KNOWN}"
    return service.error(error.status_code, detail, error.headers)


def _unreadable(cause: BaseException | None, encoding: str | None) -> str:
    """Why a body could not be parsed as JSON, if FastAPI does not say so."""
    if encoding not in (None, "identity"):
        return f"the body is sent with content-encoding {encoding!r}; send it as it is"
    if isinstance(cause, UnicodeDecodeError):
        return f"the body is not JSON: it is not text in UTF-8, from byte {cause.start} on; send it in UTF-8"
    if isinstance(cause, RecursionError):
        return "the body is JSON of too many lists in lists; no architecture or graph has as many"
    if isinstance(cause, ValueError):
        return "the body holds a number of too many digits; numbers are below 2^31"
    return "the body could not be read; send JSON"


def _answer_refused(request: Request, error: Exception) -> Response:
    service: HttpService = request.app.state.service
    if not isinstance(error, GennapeError):
        raise error
    return service.refusal(error)


def _answer_nobody(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """The client disconnected while sending its body: this is no bug, and nobody receives the answer."""
    return Response(status_code=GONE)


def _answer_bug(request: Request, error: Exception) -> Response:
    service: HttpService = request.app.state.service
    logging.getLogger(__name__).error("%s %s failed", request.method, request.url.path, exc_info=error)
    return service.error(500, "an internal error, which the service has written to its log; please report it")
