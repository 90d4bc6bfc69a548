"""The HTTP interface of the ensemble, without a cluster."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import ServiceError
from gennape.platform.http_api import MAX_ARCHITECTURES, MAX_BODY, create_api, example
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.families.registry import FAMILIES, family

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

    from gennape.search_spaces.graph import PackedGraphs

SHA = "5" * 64


async def _sizes(graphs: PackedGraphs) -> Prediction:
    """A predictor whose accuracy is the number of nodes, so that rows can be told apart."""
    sizes = np.diff(graphs.node_offsets).astype(np.float64)
    return Prediction(sizes, np.tile([0.25, 0.75], (len(sizes), 1)))


API = create_api(_sizes, SHA)
JSON_TYPE = {"content-type": "application/json"}
ONE = {"space": "ofa_mbv3", "architecture": example(family("ofa_mbv3"))}


def _ask(method: str, path: str, api: FastAPI = API, **content: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **content)

    return asyncio.run(ask())


def _predict(**content: Any) -> httpx.Response:
    return _ask("POST", "/predict", **content)


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_one_architecture(space: Any) -> None:
    answer = _predict(json={"space": space.name, "architecture": example(space)})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["checkpoint"] == SHA
    (row,) = body["predictions"]
    graph = space.graph(space.decode(example(space)))
    assert row["accuracy"] == graph.n_nodes
    assert row["memberships"] == [0.25, 0.75]
    assert row["flops"] == 2 * row["macs"] > 0
    assert row["params"] > 0
    assert set(row) == {"accuracy", "memberships", "flops", "macs", "params"}


def test_many_keep_their_order() -> None:
    space = family("ofa_mbv3")
    genomes = space.sample(np.random.default_rng(3), 5)
    body = {"space": space.name, "architectures": [space.encode(genome) for genome in genomes]}
    rows = _predict(json=body).json()["predictions"]
    assert [row["accuracy"] for row in rows] == [space.graph(genome).n_nodes for genome in genomes]


def test_a_deviation_is_answered_where_the_predictor_tells_it() -> None:
    async def unsure(graphs: PackedGraphs) -> Prediction:
        sizes = await _sizes(graphs)
        return Prediction(sizes.accuracy, sizes.memberships, sizes.accuracy / 10)

    space = family("ofa_mbv3")
    genomes = space.sample(np.random.default_rng(3), 3)
    body = {"space": space.name, "architectures": [space.encode(genome) for genome in genomes]}
    rows = _predict(api=create_api(unsure, SHA), json=body).json()["predictions"]
    assert [row["deviation"] for row in rows] == [space.graph(genome).n_nodes / 10 for genome in genomes]
    assert all("deviation" not in row for row in _predict(json=body).json()["predictions"])


def test_example_of_every_space_is_listed() -> None:
    spaces = _ask("GET", "/spaces").json()["spaces"]
    assert [space["name"] for space in spaces] == [space.name for space in FAMILIES]
    for space in spaces:
        assert _predict(json={"space": space["name"], "architecture": space["example"]}).is_success


def test_health() -> None:
    assert _ask("GET", "/health").json() == {"status": "ok", "checkpoint": SHA}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("{", 400, "not JSON"),
        ("", 422, "body"),
        ("[]", 422, "dictionary"),
        ("null", 422, "body"),
        ('{"space": "ofa_mbv3"}', 422, 'either "architecture" or "architectures"'),
        ('{"space": "ofa_mbv3", "architecture": 1, "architectures": [1]}', 422, "either"),
        ('{"space": "ofa_mbv3", "architectures": []}', 422, "architectures"),
        ('{"space": "ofa_mbv3", "architecture": {}, "seed": 1}', 422, "seed"),
        ('{"space": 3, "architecture": {}}', 422, "space: Input should be a valid string"),
        ('{"space": "ofa_mbv4", "architecture": {}}', 422, "known are hiaml"),
        ('{"space": "ofa_mbv3", "architecture": null}', 422, "architecture 0"),
        ('{"space": "ofa_mbv3", "architecture": {"resolution": NaN, "units": []}}', 422, "architecture 0"),
        ('{"space": "ofa_mbv3", "architecture": "\\ud800"}', 422, "architecture 0"),
        ("[" * 100_000, 400, ""),
    ],
)
def test_bad_body_says_what_is_wrong(body: str, status: int, says: str) -> None:
    answer = _predict(content=body, headers=JSON_TYPE)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]


def test_position_of_the_bad_architecture_is_named() -> None:
    good = ONE["architecture"]
    answer = _predict(json={"space": "ofa_mbv3", "architectures": [good, good | {"resolution": 7}]})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("architecture 1: ")
    assert "resolution is 7" in answer.json()["error"]


def test_other_content_type_is_explained() -> None:
    answer = _predict(content=json.dumps(ONE), headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert "application/json" in answer.json()["error"]


def test_too_many_and_too_large() -> None:
    many = {"space": "ofa_mbv3", "architectures": [0] * (MAX_ARCHITECTURES + 1)}
    assert _predict(json=many).status_code == 422

    async def chunks() -> AsyncIterator[bytes]:
        yield b" " * MAX_BODY
        yield b" "

    for body in (b" " * (MAX_BODY + 1), chunks()):  # with a length, and chunked without one
        answer = _predict(content=body, headers=JSON_TYPE)
        assert answer.status_code == 413
        assert str(MAX_BODY) in answer.json()["error"]


def test_error_messages_stay_short() -> None:
    answer = _predict(json={"space": "x" * 100_000, "architecture": {}})
    assert answer.status_code == 422
    assert len(answer.text) < 1000


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("GET", "/predict", 405)])
def test_wrong_place_names_the_right_ones(method: str, path: str, status: int) -> None:
    answer = _ask(method, path)
    assert answer.status_code == status
    assert "POST /predict" in answer.json()["error"]


def test_unavailable_ensemble_is_503() -> None:
    async def fail(graphs: PackedGraphs) -> Prediction:
        await asyncio.sleep(0)
        raise ServiceError(f"no answer for {len(graphs)}")

    answer = _predict(api=create_api(fail, SHA), json=ONE)
    assert (answer.status_code, answer.json()) == (503, {"error": "no answer for 1"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda child: st.lists(child, max_size=5) | st.dictionaries(st.text(max_size=8), child, max_size=3),
    max_leaves=12,
)
KEYS = st.sampled_from(["resolution", "units", "blocks", "matrix", "ops", "depths", "expansions", "widths"])


@given(
    space=st.sampled_from([space.name for space in FAMILIES]),
    architecture=JSON | st.dictionaries(KEYS, JSON, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_no_json_is_an_internal_error(space: str, architecture: Any) -> None:
    body = json.dumps({"space": space, "architecture": architecture})
    answer = _predict(content=body, headers=JSON_TYPE)
    assert answer.status_code in (200, 422), answer.text
