"""The ensemble on Ray Serve, with a predictor whose answers are known."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray
from ray import serve
from serving_cases import DEADLY, GRAVE, REFUSED, SLOW, graphs_of, load_counter, write_counter

from gennape.errors import CheckpointError, InvalidGraphError, ServiceError
from gennape.platform.serving.deployment import EnsembleHandle, ServingConfig, serve_ensemble, update_ensemble
from gennape.platform.serving.http.app import example
from gennape.predictors.model.checkpoint import load_checkpoint
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gennape.predictors.predictor import Predictor

TOKEN = "0123456789abcdef"  # noqa: S105 (nobody else's)


@pytest.mark.usefixtures("no_ray")
def test_port_in_use_is_refused_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = ServingConfig(http_port=port)
        with pytest.raises(ServiceError, match=f"port {port}: .*pass another"), serve_ensemble(config, load_counter):
            pass
    assert not ray.is_initialized()


@pytest.mark.usefixtures("no_ray")
def test_bad_checkpoint_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = ServingConfig(tmp_path / "absent" / "checkpoint")
    with pytest.raises(CheckpointError), serve_ensemble(config, load_counter):
        pass
    assert not ray.is_initialized()


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104 (what is refused)
def test_no_stranger_is_served_without_a_token_and_nothing_starts(host: str) -> None:
    config = ServingConfig(http_port=0, host=host)
    with pytest.raises(ServiceError, match="bearer token is required"), serve_ensemble(config, load_counter):
        pass
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def served(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnsembleHandle]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("served")
    checkpoint = write_counter(folder / "checkpoint", "c", **{GRAVE: folder / "grave"})
    config = ServingConfig(checkpoint, http_port=0, max_batch_graphs=256, batch_wait_s=0.05, timeout_s=60)
    with serve_ensemble(config, load_counter) as handle:
        yield handle
    with pytest.raises(ServiceError, match="not being served"):
        handle.predict(graphs_of(2))


def _ask(url: str, body: str, method: str = "POST", path: str = "/predict", token: str = "") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.cluster
def test_arrays_in_arrays_out(served: EnsembleHandle) -> None:
    answer = served.predict(graphs_of(4, 6, 7))
    assert answer.accuracy.tolist() == [4, 6, 7]
    assert answer.memberships.shape == (3, 2)
    assert served.sha256 == "c" * 64
    assert len(served.predict(graphs_of()).accuracy) == 0


@pytest.mark.cluster
def test_more_graphs_than_a_batch_travel_in_pieces(served: EnsembleHandle) -> None:
    sizes = np.random.default_rng(0).integers(10, 20, 600)
    assert served.predict(graphs_of(*sizes)).accuracy.tolist() == sizes.tolist()


@pytest.mark.cluster
def test_a_fine_tuned_predictor_tells_how_uncertain_it_is(served: EnsembleHandle) -> None:
    space = family("nb201")
    graphs = space.graphs(space.sample(np.random.default_rng(5), 30))
    few, labels = graphs.take(np.arange(10)), np.linspace(85, 94, 10)

    def load_tuned(path: Path | None) -> Predictor:
        return load_checkpoint(path).fit(few, labels)

    here = load_tuned(None).predict(graphs)
    assert served.predict(graphs).deviation is None
    with serve_ensemble(ServingConfig(max_replicas=1, max_batch_graphs=20), load_tuned) as tuned:
        answer = tuned.predict(graphs)  # in two pieces
    assert answer.deviation is not None
    assert here.deviation is not None
    np.testing.assert_allclose(answer.accuracy, here.accuracy, atol=1e-6)
    np.testing.assert_allclose(answer.deviation, here.deviation, atol=1e-6)


@pytest.mark.cluster
def test_requests_that_arrive_together_are_predicted_together(served: EnsembleHandle) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(served.predict, [graphs_of(10 + i) for i in range(16)]))
    assert [answer.accuracy.tolist() for answer in answers] == [[10 + i] for i in range(16)]
    assert max(answer.memberships[0, 1] for answer in answers) >= 0.002


@pytest.mark.cluster
def test_usable_inside_an_actor_and_a_refusal_keeps_its_type(served: EnsembleHandle) -> None:
    @ray.remote(num_cpus=0.5)
    def worker(handle: EnsembleHandle) -> tuple[list[float], str]:
        try:
            handle.predict(graphs_of(8, REFUSED))
        except InvalidGraphError as error:
            return handle.predict(graphs_of(8)).accuracy.tolist(), str(error)
        raise AssertionError("not refused")

    assert ray.get(worker.remote(served)) == ([8], "graph 1 is a single node")


@pytest.mark.cluster
def test_http_answers_and_survives_bad_requests(served: EnsembleHandle) -> None:
    url, space = str(served.url), family("hiaml")
    good = json.dumps({"space": space.name, "architecture": example(space)})
    nodes = space.graph(space.decode(example(space))).n_nodes
    for bad in ("{", "[]", '{"space": "nope", "architecture": {}}', '{"space": "hiaml", "architecture": 3}'):
        status, body = _ask(url, bad)
        assert 400 <= status < 500
        assert set(body) == {"error", "checkpoint"}
    status, body = _ask(url, " " * (5 << 20))
    assert status == 413
    status, body = _ask(url, good)
    assert (status, body["predictions"][0]["accuracy"], body["checkpoint"]) == (200, nodes, served.sha256)
    assert _ask(url, "", "GET", "/health") == (200, {"status": "ok", "checkpoint": served.sha256})


@pytest.mark.cluster
def test_a_second_service_listens_beside_the_first_and_asks_for_its_token(served: EnsembleHandle) -> None:
    config = ServingConfig(http_port=0, max_replicas=1)
    with serve_ensemble(config, load_counter, TOKEN) as other:
        assert other.url != served.url
        assert _ask(str(other.url), "", "GET", "/spaces")[0] == 401
        assert _ask(str(other.url), "", "GET", "/spaces", TOKEN)[0] == 200
        assert _ask(str(other.url), "", "GET", "/health")[0] == 200
    assert served.predict(graphs_of(2)).accuracy.tolist() == [2]


@pytest.mark.cluster
def test_slow_prediction_is_a_service_error(served: EnsembleHandle) -> None:
    with pytest.raises(ServiceError, match=r"within 0\.1 s"):
        replace(served, timeout_s=0.1).predict(graphs_of(SLOW))


@pytest.mark.cluster
def test_a_lost_replica_is_replaced_and_the_call_repeated(served: EnsembleHandle) -> None:
    assert served.predict(graphs_of(DEADLY)).accuracy.tolist() == [DEADLY]


@pytest.mark.drill
@pytest.mark.cluster
def test_replicas_grow_under_load_and_not_beyond_their_bound(served: EnsembleHandle) -> None:
    before = set(serve.status().applications)
    config = ServingConfig(min_replicas=1, max_replicas=2, max_batch_graphs=1)
    with serve_ensemble(config, load_counter) as busy:
        (name,) = set(serve.status().applications) - before

        def running() -> int:
            return serve.status().applications[name].deployments["ensemble"].replica_states.get("RUNNING", 0)

        assert running() == config.min_replicas
        stop, deadline = threading.Event(), time.monotonic() + 120

        def press() -> None:
            while not stop.is_set():
                assert busy.predict(graphs_of(SLOW)).accuracy.tolist() == [SLOW]

        with ThreadPoolExecutor(12) as pool:
            calls = [pool.submit(press) for _ in range(12)]
            while running() < config.max_replicas and time.monotonic() < deadline:
                time.sleep(0.1)
            seen = running()
            stop.set()
        for call in calls:
            call.result()
        assert seen == config.max_replicas
    assert served.predict(graphs_of(4)).accuracy.tolist() == [4]  # what else is served goes on


class Caller:
    """Asks without a pause, by the handle and over HTTP, until it is told to stop; an error ends it."""

    def __init__(self, handle: EnsembleHandle) -> None:
        self.handle = handle
        self.stop = threading.Event()
        self.seen: Counter[str] = Counter()

    def by_handle(self) -> None:
        while not self.stop.is_set():
            prediction, sha256 = self.handle.answer(graphs_of(4, 6, 7))
            assert prediction.accuracy.tolist() == [4, 6, 7]
            self.seen[sha256] += 1

    def over_http(self) -> None:
        space = family("hiaml")
        body = json.dumps({"space": space.name, "architecture": example(space)})
        while not self.stop.is_set():
            status, answer = _ask(str(self.handle.url), body)
            assert status == 200, answer
            self.seen[answer["checkpoint"]] += 1


@contextmanager
def calling(handle: EnsembleHandle) -> Iterator[Caller]:
    """Calls for the length of the block, none of which may fail."""
    caller = Caller(handle)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call) for call in (caller.by_handle, caller.over_http) * 2]
        try:
            yield caller
        finally:
            caller.stop.set()
    for call in calls:
        call.result()


@pytest.mark.cluster
def test_calls_go_on_through_an_update_and_say_what_answered(served: EnsembleHandle, tmp_path: Path) -> None:
    old, new = write_counter(tmp_path / "old", "a"), write_counter(tmp_path / "new", "b")
    broken = write_counter(tmp_path / "broken", "d", driver=os.getpid())
    config = ServingConfig(old, http_port=0, max_replicas=1, timeout_s=120)
    with serve_ensemble(config, load_counter) as handle, calling(handle) as caller:
        with pytest.raises(CheckpointError):
            update_ensemble(handle, tmp_path / "absent")
        with pytest.raises(ServiceError, match=r"aaaaaaaaaaaa is served on.*not in a replica"):
            update_ensemble(handle, broken)
        assert set(caller.seen) == {"a" * 64}
        updated = update_ensemble(handle, new)
        assert updated.sha256 == "b" * 64
        until = caller.seen["b" * 64] + 20
        while caller.seen["b" * 64] < until and not caller.stop.wait(0.05):
            pass
        assert set(caller.seen) == {"a" * 64, "b" * 64}
        assert handle.answer(graphs_of(4))[1] == "b" * 64  # what was handed out before leads to the new one too
        assert _ask(str(handle.url), "", "GET", "/health")[1]["checkpoint"] == "b" * 64
    assert served.answer(graphs_of(4))[1] == "c" * 64


@pytest.mark.cluster
def test_only_who_serves_may_update(served: EnsembleHandle) -> None:
    with pytest.raises(ServiceError, match="update the one that serve_ensemble yields"):
        update_ensemble(replace(served, application=None), None)
