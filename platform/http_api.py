"""The HTTP side of the served ensemble: architectures as JSON in, predictions as JSON out.

Knows nothing of Ray: it wraps any coroutine that predicts packed graphs, so it is tested without a cluster.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gennape.errors import ConfigError, GennapeError, InvalidArchitectureError, ServiceError
from gennape.search_spaces import cost
from gennape.search_spaces.families.registry import FAMILIES, family

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gennape.predictors.predictor import Prediction
    from gennape.search_spaces.graph import PackedGraphs
    from gennape.search_spaces.space import Architecture, SearchSpace

#: Most architectures one request may hold; larger sets go through :class:`gennape.platform.serving.EnsembleHandle`.
MAX_ARCHITECTURES = 256
#: Largest body in bytes: some 4 kB for each of the most architectures allowed.
MAX_BODY = 1 << 20
MAX_MESSAGE = 500


class PredictRequest(BaseModel):
    """Body of ``POST /predict``: one ``architecture`` or a list ``architectures`` of the family ``space``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    space: str
    architecture: Any = None
    architectures: list[Any] | None = Field(default=None, min_length=1, max_length=MAX_ARCHITECTURES)

    @model_validator(mode="after")
    def _one_of_two(self) -> PredictRequest:
        if len({"architecture", "architectures"} & self.model_fields_set) != 1:
            raise ValueError('give either "architecture" or "architectures"')
        return self

    @property
    def listed(self) -> list[Architecture]:
        """The architectures asked for, one or many."""
        return [self.architecture] if self.architectures is None else self.architectures


class PredictionBody(BaseModel):
    """One architecture's answer: ``accuracy`` in percent, ``memberships`` summing to 1, ``flops`` = 2 x ``macs``;
    ``deviation`` in percent, how uncertain the accuracy is, left out where the predictor does not tell."""

    accuracy: float
    memberships: list[float]
    deviation: float | None = None
    flops: int
    macs: int
    params: int


class PredictResponse(BaseModel):
    """Answer of ``POST /predict``: predictions in the order asked, and the SHA-256 of the checkpoint that made them."""

    predictions: list[PredictionBody]
    checkpoint: str


def create_api(predict: Callable[[PackedGraphs], Awaitable[Prediction]], sha256: str) -> FastAPI:
    """The application with ``POST /predict``, ``GET /health`` and ``GET /spaces``.

    ``predict`` is awaited with the packed graphs of a request. Every answer that is not a prediction is
    ``{"error": message}``: 400 for a body that is not JSON, 413 for one too large, 422 for a wrong field, an unknown
    space or an architecture outside it, 503 where the ensemble cannot answer now.
    """
    api = FastAPI(title="gennape", docs_url=None, redoc_url=None)
    api.add_middleware(limit_body, limit=MAX_BODY)
    api.add_exception_handler(RequestValidationError, _answer_invalid_body)
    api.add_exception_handler(HTTPException, _answer_http_error)
    api.add_exception_handler(GennapeError, _answer_refused)

    @api.post("/predict", response_model_exclude_none=True)
    async def _predict(body: PredictRequest) -> PredictResponse:
        graphs, costs = await asyncio.to_thread(_build, body.space, body.listed)
        return PredictResponse(predictions=_bodies(await predict(graphs), costs), checkpoint=sha256)

    @api.get("/health")
    async def _health() -> dict[str, str]:
        return {"status": "ok", "checkpoint": sha256}

    @api.get("/spaces")
    async def _spaces() -> dict[str, list[dict[str, Any]]]:
        return {"spaces": [{"name": space.name, "example": example(space)} for space in FAMILIES]}

    return api


def example(space: SearchSpace) -> Architecture:
    """An architecture of ``space``, the same at every call: what a first request may send."""
    return space.encode(space.sample(np.random.default_rng(0), 1)[0])


def _build(name: str, architectures: list[Architecture]) -> tuple[PackedGraphs, dict[str, list[int]]]:
    space = family(name)
    genomes = np.stack([_decode(space, i, architecture) for i, architecture in enumerate(architectures)])
    graphs = space.graphs(genomes)
    columns = {"flops": cost.flops(graphs), "macs": cost.macs(graphs), "params": cost.params(graphs)}
    return graphs, {key: column.tolist() for key, column in columns.items()}


def _decode(space: SearchSpace, position: int, architecture: Architecture) -> np.ndarray:
    try:
        genome = space.decode(architecture)
        space.validate(genome[None])
    except InvalidArchitectureError as error:
        raise InvalidArchitectureError(f"architecture {position}: {error}") from None
    return genome


def _bodies(prediction: Prediction, costs: dict[str, list[int]]) -> list[PredictionBody]:
    columns = {"accuracy": prediction.accuracy.tolist(), "memberships": prediction.memberships.tolist(), **costs}
    if prediction.deviation is not None:
        columns["deviation"] = prediction.deviation.tolist()
    return [PredictionBody(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def limit_body(app: ASGIApp, limit: int) -> ASGIApp:
    """An application that answers 413 to a body of more than ``limit`` bytes before ``app`` sees any of it."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        body = None if not length.isdecimal() or int(length) > limit else await _read(receive, limit)
        if body is None:
            message = f"the body must be at most {limit} bytes; send fewer architectures in one request"
            await _error(413, message)(scope, receive, send)
            return
        await app(scope, _replay(body, receive), send)

    return limited


async def _read(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            return None
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _error(status: int, message: str) -> JSONResponse:
    shown = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + " ..."
    # A request's JSON may have held a lone surrogate, which UTF-8 cannot carry back.
    return JSONResponse({"error": shown.encode("utf-8", "backslashreplace").decode()}, status_code=status)


def _answer_invalid_body(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return _error(400, f"the body is not JSON: {reason} at character {first['loc'][-1]}")
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    hint = "" if "json" in request.headers.get("content-type", "") else "; send content-type: application/json"
    return _error(422, f"{where}: {first['msg'].removeprefix('Value error, ')}{hint}")


def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    known = "known are POST /predict, GET /health, GET /spaces"
    detail = (
        f"{request.method} {request.url.path}: {error.detail}; {known}" if error.status_code in (404, 405) else None
    )
    return _error(error.status_code, detail or str(error.detail))


def _answer_refused(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 (Starlette passes it)
    if isinstance(error, InvalidArchitectureError | ConfigError):
        return _error(422, str(error))
    return _error(503 if isinstance(error, ServiceError) else 500, str(error))
