"""The HTTP interface of the ensemble, without a cluster."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from http_cases import JSON_TYPE, LIMITS, ONE, SHA, ask_api, predict, service_of, sizes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gennape.errors import ServiceError
from gennape.platform.serving.answers import Answer
from gennape.platform.serving.http.app import create_api, example
from gennape.predictors.evaluation.scale import AccuracyScale
from gennape.search_spaces.families.registry import FAMILIES, family

if TYPE_CHECKING:
    from gennape.search_spaces.graphs.graph import PackedGraphs

OCTETS = "application/octet-stream"


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_one_architecture(space: Any) -> None:
    answer = predict(json={"space": space.name, "architecture": example(space)})
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
    rows = predict(json=body).json()["predictions"]
    assert [row["accuracy"] for row in rows] == [space.graph(genome).n_nodes for genome in genomes]


def test_a_checkpoint_that_was_tuned_elsewhere_warns() -> None:
    scales = {SHA: AccuracyScale(frozenset({"nb101", "ofa_mbv3"}), tuned=True, tuned_on="ofa_mbv3")}
    api = create_api(service_of(scales=scales))
    assert "warning" not in predict(api=api, json=ONE).json()
    other = predict(api=api, json={"space": "hiaml", "architecture": example(family("hiaml"))}).json()
    assert "fine-tuned on ofa_mbv3" in other["warning"]
    assert "hiaml" in other["warning"]
    untuned = create_api(service_of(scales={SHA: AccuracyScale(frozenset({"nb101"}))}))
    assert "warning" not in predict(api=untuned, json=ONE).json()


def test_a_deviation_is_answered_where_the_predictor_tells_it() -> None:
    async def unsure(graphs: PackedGraphs) -> Answer:
        answer = await sizes_of(graphs)
        return replace(answer, prediction=replace(answer.prediction, deviation=answer.prediction.accuracy / 10))

    space = family("ofa_mbv3")
    genomes = space.sample(np.random.default_rng(3), 3)
    body = {"space": space.name, "architectures": [space.encode(genome) for genome in genomes]}
    rows = predict(api=create_api(service_of(unsure)), json=body).json()["predictions"]
    assert [row["deviation"] for row in rows] == [space.graph(genome).n_nodes / 10 for genome in genomes]
    assert all("deviation" not in row for row in predict(json=body).json()["predictions"])


def test_no_finite_answer_is_null_as_the_schema_says() -> None:
    async def sometimes(graphs: PackedGraphs) -> Answer:
        answer = await sizes_of(graphs)
        accuracy = np.where(np.arange(len(graphs)) == 1, np.nan, answer.prediction.accuracy)
        return replace(answer, prediction=replace(answer.prediction, accuracy=accuracy))

    api = create_api(service_of(sometimes))
    body = {"space": ONE["space"], "architectures": [ONE["architecture"]] * 2}
    rows = predict(api=api, json=body).json()["predictions"]
    assert [row["accuracy"] is None for row in rows] == [False, True]
    accuracy = api.openapi()["components"]["schemas"]["PredictionBody"]["properties"]["accuracy"]
    assert {kind["type"] for kind in accuracy["anyOf"]} == {"number", "null"}


def test_example_of_every_space_is_listed() -> None:
    spaces = ask_api("GET", "/spaces").json()["spaces"]
    assert [space["name"] for space in spaces] == [space.name for space in FAMILIES]
    for space in spaces:
        assert predict(json={"space": space["name"], "architecture": space["example"]}).is_success


def test_health() -> None:
    assert ask_api("GET", "/health").json() == {"status": "ok", "checkpoint": SHA}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("{", 400, "not JSON"),
        ("", 422, "the body: must be there"),
        ("[]", 422, "must be a JSON object"),
        ("null", 422, "body"),
        ('{"space": "ofa_mbv3"}', 422, 'either "architecture" or "architectures"'),
        ('{"space": "ofa_mbv3", "architecture": 1, "architectures": [1]}', 422, "either"),
        ('{"space": "ofa_mbv3", "architectures": []}', 422, "architectures"),
        ('{"space": "ofa_mbv3", "architecture": {}, "seed": 1}', 422, "seed: is not known here; leave it out"),
        ('{"space": 3, "architecture": {}}', 422, "space: Input should be a valid string"),
        ('{"space": "ofa_mbv4", "architecture": {}}', 422, "known are hiaml"),
        ('{"space": "ofa_mbv3", "architecture": null}', 422, "architecture 0"),
        ('{"space": "ofa_mbv3", "architecture": {"resolution": NaN, "units": []}}', 422, "architecture 0"),
        ('{"space": "ofa_mbv3", "architecture": "\\ud800"}', 422, "architecture 0"),
        ("[" * 100_000, 400, "lists in lists"),
        (b'{"space": "\xff"}', 400, "not text in UTF-8, from byte 11 on"),
        ('{"space": "ofa_mbv3", "architecture": ' + "9" * 5000 + "}", 400, "too many digits"),
    ],
)
def test_bad_body_says_what_is_wrong(body: str | bytes, status: int, says: str) -> None:
    answer = predict(content=body, headers=JSON_TYPE)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "checkpoint"}
    assert says in answer.json()["error"]


def test_a_compressed_body_is_told() -> None:
    body = gzip.compress(json.dumps(ONE).encode())
    answer = predict(content=body, headers={**JSON_TYPE, "content-encoding": "gzip"})
    assert answer.status_code == 400
    assert answer.json()["error"] == "the body is sent with content-encoding 'gzip'; send it as it is"


def test_no_request_is_led_elsewhere() -> None:
    """A redirection would name the Host of the request."""
    answer = ask_api("GET", "/health/", headers={"host": "localhost"})
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("GET /health/: Not Found; known are POST /predict")


def test_a_foreign_name_is_told_back() -> None:
    answer = ask_api("GET", "/spaces", headers={"host": "evil.example"})
    assert answer.status_code == 403
    assert "asked as 'evil.example'" in answer.json()["error"]


def test_position_of_the_bad_architecture_is_named() -> None:
    good = ONE["architecture"]
    answer = predict(json={"space": "ofa_mbv3", "architectures": [good, good | {"resolution": 7}]})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("architecture 1: ")
    assert "resolution is 7" in answer.json()["error"]


def test_other_content_type_is_explained() -> None:
    answer = predict(content=json.dumps(ONE), headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert "application/json" in answer.json()["error"]
    upload = ask_api("POST", "/predict/onnx?shape=abc", content=b"x", headers={"content-type": OCTETS})
    assert upload.status_code == 422
    assert upload.json()["error"] == "shape: must be whole numbers with commas between them, as in 1,3,224,224"


def test_figures_tell_what_was_asked() -> None:
    service = service_of()
    api = create_api(service)
    space = family("ofa_mbv3")
    many = [space.encode(genome) for genome in space.sample(np.random.default_rng(0), 3)]
    ask_api("POST", "/predict", api, json={"space": space.name, "architectures": many})
    ask_api("POST", "/predict", api, json={"space": "nope", "architecture": 1})
    ask_api("GET", "/" + "x" * 500, api)  # of whatever is asked there is one series
    answer = ask_api("GET", "/metrics", api)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(answer.text)
        for sample in metric.samples
    }
    assert values["gennape_requests_total", ("path", "/predict"), ("status", "200")] == 1
    assert values["gennape_requests_total", ("path", "/predict"), ("status", "422")] == 1
    assert values["gennape_requests_total", ("path", "other"), ("status", "404")] == 1
    assert values["gennape_graphs_total", ("path", "/predict")] == 3
    assert values["gennape_batch_graphs_sum",] == 3
    assert values["gennape_request_seconds_count", ("path", "/predict")] == 2
    assert values["gennape_requests_limit",] == LIMITS.max_requests
    assert values["gennape_requests_in_progress",] == 0
    assert values["gennape_checkpoint_info", ("sha256", SHA)] == 1


def test_health_tells_when_the_predictor_is_away() -> None:
    answer = ask_api("GET", "/health", create_api(service_of(healthy=False)))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["checkpoint"] == SHA


def test_a_bug_is_500_and_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(graphs: PackedGraphs) -> Answer:
        await asyncio.sleep(0)
        raise RuntimeError(f"of {len(graphs)}")

    api = create_api(service_of(fail))
    answer = predict(api=api, json=ONE)
    assert (answer.status_code, "an internal error" in answer.text, "of 1" in answer.text) == (500, True, False)
    assert "RuntimeError: of 1" in caplog.text
    assert 'gennape_requests_total{path="/predict",status="500"} 1.0' in ask_api("GET", "/metrics", api).text


@pytest.mark.parametrize("path", ["/predict", "/predict/onnx"])
def test_a_client_that_leaves_while_it_sends_is_no_bug(path: str, caplog: pytest.LogCaptureFixture) -> None:
    service = service_of()
    api, messages = create_api(service), [{"type": "http.request", "body": b"abc", "more_body": True}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody is there."""

    headers = [(b"content-type", OCTETS.encode() if path.endswith("onnx") else b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    asyncio.run(api(scope, receive, send))
    assert caplog.text == ""
    assert service.gate.inside == 0


def test_error_messages_stay_short() -> None:
    answer = predict(json={"space": "x" * 50_000, "architecture": {}})
    assert answer.status_code == 422
    assert len(answer.text) < 1000


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("GET", "/predict", 405)])
def test_wrong_place_names_the_right_ones(method: str, path: str, status: int) -> None:
    answer = ask_api(method, path)
    assert answer.status_code == status
    assert "POST /predict" in answer.json()["error"]


def test_unavailable_ensemble_is_503() -> None:
    async def fail(graphs: PackedGraphs) -> Answer:
        await asyncio.sleep(0)
        raise ServiceError(f"no answer for {len(graphs)}")

    answer = predict(api=create_api(service_of(fail)), json=ONE)
    assert (answer.status_code, answer.json()) == (503, {"error": "no answer for 1", "checkpoint": SHA})
    assert int(answer.headers["retry-after"]) >= 1


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
    answer = predict(content=body, headers=JSON_TYPE)
    assert answer.status_code in (200, 422), answer.text


# HEAD, and names of this machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/spaces", "/metrics", "/openapi.json", "/predict", "/nowhere"])
def test_head_is_answered_as_get_without_a_body(path):
    get, head = (ask_api(method, path) for method in ("GET", "HEAD"))
    assert head.status_code == get.status_code
    assert head.content == b""
    if path != "/metrics":  # it counts the one before
        assert head.headers == get.headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8000", "10.0.0.7", "[::1"])
def test_without_a_token_a_foreign_name_is_refused(host):
    """A page of another site may have its own name point to this machine."""
    for method, path in (("GET", "/health"), ("POST", "/predict"), ("GET", "/spaces")):
        answer = ask_api(method, path, headers={"host": host})
        assert answer.status_code == 403
        assert "token" in answer.json()["error"]
    for own in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
        assert ask_api("GET", "/health", headers={"host": own}).status_code == 200


def test_with_a_token_any_name_will_do():
    api = create_api(service_of(token="t" * 16))
    headers = {"host": "predictor.example", "authorization": "Bearer " + "t" * 16}
    assert ask_api("GET", "/spaces", api, headers=headers).status_code == 200
