"""The HTTP interface around a predictor whose answers are known."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from gennape.platform.serving.answers import Answer
from gennape.platform.serving.config import RequestLimits
from gennape.platform.serving.http.app import create_api, example
from gennape.platform.serving.http.service import HttpService
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from fastapi import FastAPI

    from gennape.search_spaces.graphs.graph import PackedGraphs


SHA = "5" * 64


async def sizes_of(graphs: PackedGraphs) -> Answer:
    """A predictor whose accuracy is the number of nodes, so that rows can be told apart."""
    sizes = np.diff(graphs.node_offsets).astype(np.float64)
    return Answer(Prediction(sizes, np.tile([0.25, 0.75], (len(sizes), 1))), SHA, len(sizes))


LIMITS = RequestLimits(max_graphs=8, max_nodes=600, max_bytes=200_000, max_onnx_bytes=50_000, max_requests=2)


def service_of(ask: Any = sizes_of, **settings: Any) -> HttpService:
    """A service over HTTP with narrow limits."""
    return HttpService(ask, SHA, **{"limits": LIMITS, **settings})


API = create_api(service_of())
JSON_TYPE = {"content-type": "application/json"}
ONE = {"space": "ofa_mbv3", "architecture": example(family("ofa_mbv3"))}


async def request(api: FastAPI, method: str, path: str, **content: Any) -> httpx.Response:
    """One request, in a loop that may hold more."""
    transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path, **content)


def ask_api(method: str, path: str, api: FastAPI = API, **content: Any) -> httpx.Response:
    """One request."""
    return asyncio.run(request(api, method, path, **content))


def predict(**content: Any) -> httpx.Response:
    """One request for predictions of architectures."""
    return ask_api("POST", "/predict", **content)
