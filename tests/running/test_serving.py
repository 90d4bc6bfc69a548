"""The ensemble on Ray Serve, with a predictor whose answers are known."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import ray
from ray import serve
from ray.serve.exceptions import BackPressureError

from gennape.errors import CheckpointError, InvalidGraphError, ServiceError
from gennape.platform.cluster import local_ray
from gennape.platform.http_api import example
from gennape.platform.serving import (
    EnsembleHandle,
    ServingConfig,
    _load_files,
    _read_files,
    predict_sets,
    probe_graphs,
    serve_ensemble,
)
from gennape.predictors.checkpoint import load_checkpoint
from gennape.predictors.predictor import Prediction, Predictor
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graph import N_COLUMNS, PackedGraphs, offsets_of, validate

if TYPE_CHECKING:
    from collections.abc import Iterator
# Ray workers cannot import test modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

REFUSED, SLOW, DEADLY = 1, 3, 5  # numbers of nodes that the predictor below reacts to


class NodeCounter(Predictor):
    """Accuracy is the number of nodes; the second membership tells how many graphs were predicted together."""

    sha256 = "c" * 64

    def __init__(self, grave: Path | None) -> None:
        self.grave = grave

    def predict(self, graphs: PackedGraphs) -> Prediction:
        sizes = np.diff(graphs.node_offsets).astype(np.float64)
        if (sizes == REFUSED).any():
            raise InvalidGraphError(f"graph {int(np.argmax(sizes == REFUSED))} is a single node")
        if (sizes == SLOW).any():
            time.sleep(1)
        if (sizes == DEADLY).any() and self.grave is not None and not self.grave.exists():
            self.grave.touch()
            os._exit(1)
        together = len(sizes) / 1000
        return Prediction(sizes, np.tile([1 - together, together], (len(sizes), 1)))


class UnsureCounter(NodeCounter):
    """Tells a deviation of a tenth of its accuracy."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        counted = super().predict(graphs)
        return replace(counted, deviation=counted.accuracy / 10)


def load_counter(path: Path | None) -> Predictor:
    """``path`` names the file that records that a replica died, so that it dies once."""
    if path is not None and not path.parent.exists():
        raise CheckpointError("no such checkpoint")
    return NodeCounter(path)


def test_replicas_get_the_files_of_a_checkpoint_not_its_place(tmp_path: Path) -> None:
    def load_size(path: Path | None) -> Predictor:
        assert path is not None
        assert path != tmp_path
        return NodeCounter(Path((path / "checkpoint.json").read_text()))

    (tmp_path / "checkpoint.json").write_text("told")
    predictor = _load_files(_read_files(tmp_path), load_size)
    assert isinstance(predictor, NodeCounter)
    assert predictor.grave == Path("told")


def graphs_of(*sizes: int) -> PackedGraphs:
    """Graphs of these numbers of nodes, without edges: all that the predictor above looks at."""
    n = sum(sizes)
    offsets = offsets_of(np.array(sizes, np.int64))
    edges = np.zeros((0, 2), np.int64)
    return PackedGraphs(np.zeros((n, N_COLUMNS), np.int32), np.zeros(n), edges, offsets, np.zeros_like(offsets))


def test_probe_is_a_network() -> None:
    validate(probe_graphs())


def test_sets_predicted_together_are_split_again() -> None:
    first, second, third = predict_sets(NodeCounter(None), [graphs_of(4, 6), graphs_of(), graphs_of(7)])
    assert isinstance(first, Prediction)
    assert isinstance(second, Prediction)
    assert isinstance(third, Prediction)
    assert first.accuracy.tolist() == [4, 6]
    assert second.memberships.shape == (0, 2)
    assert third.memberships.tolist() == [[0.997, 0.003]]


def test_deviations_of_sets_predicted_together_are_split_too() -> None:
    first, second = predict_sets(UnsureCounter(None), [graphs_of(4, 6), graphs_of(7)])
    assert isinstance(first, Prediction)
    assert isinstance(second, Prediction)
    assert (first.deviation, second.deviation) == (pytest.approx([0.4, 0.6]), pytest.approx([0.7]))
    (unknown,) = predict_sets(NodeCounter(None), [graphs_of(4)])
    assert isinstance(unknown, Prediction)
    assert unknown.deviation is None


def test_a_refused_set_does_not_spoil_the_others() -> None:
    good, bad = predict_sets(NodeCounter(None), [graphs_of(4), graphs_of(6, REFUSED)])
    assert isinstance(good, Prediction)
    assert good.accuracy.tolist() == [4]
    assert isinstance(bad, InvalidGraphError)
    assert "graph 1" in str(bad)  # counted within its own request


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"min_replicas": 0}, "replicas"),
        ({"min_replicas": 3}, "got 3 and 2"),
        ({"http_port": 70000}, "got 70000"),
    ],
)
def test_bad_setting(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ServiceError, match=says):
        ServingConfig(**settings)


def test_port_in_use_is_refused_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = ServingConfig(http_port=port)
        with pytest.raises(ServiceError, match=f"port {port}: .*pass another"), serve_ensemble(config, load_counter):
            pass
    assert not ray.is_initialized()


def test_bad_checkpoint_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = ServingConfig(tmp_path / "absent" / "checkpoint")
    with pytest.raises(CheckpointError), serve_ensemble(config, load_counter):
        pass
    assert not ray.is_initialized()


@dataclass
class Busy:
    """Stands in for Serve's handle: refuses so often, then answers."""

    refusals: int

    def remote(self, graphs: PackedGraphs) -> Busy:
        self.graphs = graphs
        return self

    def result(self, timeout_s: float) -> Prediction:
        assert timeout_s > 0
        self.refusals -= 1
        if self.refusals >= 0:
            raise BackPressureError(9, 8)
        return NodeCounter(None).predict(self.graphs)


def test_a_full_queue_is_tried_again_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    patient: Any = Busy(3)
    assert EnsembleHandle("c", None, patient, 50, 60).predict(graphs_of(4)).accuracy.tolist() == [4]
    assert len(waits) == 3
    assert waits == sorted(waits)
    hopeless: Any = Busy(10**6)
    with pytest.raises(ServiceError, match=r"did not take 1 graphs.*replicas"):
        EnsembleHandle("c", None, hopeless, 50, 60).predict(graphs_of(4))


@dataclass
class Direct:
    """Stands in for Serve's handle: the predictor's own answer, or that of the next predictor at each call."""

    predictors: list[Predictor]

    def remote(self, graphs: PackedGraphs) -> Direct:
        self.graphs = graphs
        return self

    def result(self, timeout_s: float) -> Prediction:
        assert timeout_s > 0
        return self.predictors.pop(0).predict(self.graphs)


def test_pieces_keep_their_deviations_and_none_stays_none() -> None:
    unsure: Any = Direct([UnsureCounter(None), UnsureCounter(None)])
    answer = EnsembleHandle("c", None, unsure, 2, 60).predict(graphs_of(10, 20, 30))
    assert answer.accuracy.tolist() == [10, 20, 30]
    assert answer.deviation is not None
    assert answer.deviation.tolist() == [1, 2, 3]
    sure: Any = Direct([NodeCounter(None), NodeCounter(None)])
    assert EnsembleHandle("c", None, sure, 2, 60).predict(graphs_of(10, 20, 30)).deviation is None
    mixed: Any = Direct([UnsureCounter(None), NodeCounter(None)])
    assert EnsembleHandle("c", None, mixed, 2, 60).predict(graphs_of(10, 20, 30)).deviation is None


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnsembleHandle]:
    grave = tmp_path_factory.mktemp("served") / "grave"
    config = ServingConfig(grave, http_port=0, max_batch_graphs=50, batch_wait_s=0.05, timeout_s=30)
    with local_ray(None, num_cpus=2):
        with serve_ensemble(config, load_counter) as handle:
            yield handle
        with pytest.raises(ServiceError, match="not being served"):
            handle.predict(graphs_of(2))


def _ask(served: EnsembleHandle, body: str, method: str = "POST", path: str = "/predict") -> tuple[int, Any]:
    assert served.url is not None
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.cluster
def test_arrays_in_arrays_out(served: EnsembleHandle) -> None:
    answer = served.predict(graphs_of(4, 6, 7))
    assert answer.accuracy.tolist() == [4, 6, 7]
    assert answer.memberships.shape == (3, 2)
    assert served.sha256 == NodeCounter.sha256
    assert len(served.predict(graphs_of()).accuracy) == 0


@pytest.mark.cluster
def test_more_graphs_than_a_batch_travel_in_pieces(served: EnsembleHandle) -> None:
    sizes = np.random.default_rng(0).integers(10, 20, 120)
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
    space = family("hiaml")
    good = json.dumps({"space": space.name, "architecture": example(space)})
    nodes = space.graph(space.decode(example(space))).n_nodes
    for bad in ("{", "[]", '{"space": "nope", "architecture": {}}', '{"space": "hiaml", "architecture": 3}'):
        status, body = _ask(served, bad)
        assert 400 <= status < 500
        assert set(body) == {"error"}
    status, body = _ask(served, " " * (2 << 20))
    assert status == 413
    status, body = _ask(served, good)
    assert (status, body["predictions"][0]["accuracy"], body["checkpoint"]) == (200, nodes, served.sha256)
    assert _ask(served, "", "GET", "/health") == (200, {"status": "ok", "checkpoint": served.sha256})


@pytest.mark.cluster
def test_a_second_service_with_http_is_refused(served: EnsembleHandle) -> None:
    config = ServingConfig(http_port=0)
    with pytest.raises(ServiceError, match="already runs"), serve_ensemble(config, load_counter):
        pass
    assert served.predict(graphs_of(2)).accuracy.tolist() == [2]


@pytest.mark.cluster
def test_slow_prediction_is_a_service_error(served: EnsembleHandle) -> None:
    with pytest.raises(ServiceError, match=r"within 0\.2 s"):
        replace(served, timeout_s=0.2).predict(graphs_of(SLOW))


@pytest.mark.cluster
def test_a_lost_replica_is_replaced_and_the_call_repeated(served: EnsembleHandle) -> None:
    assert served.predict(graphs_of(DEADLY)).accuracy.tolist() == [DEADLY]


@pytest.mark.cluster
def test_replicas_grow_under_load_and_not_beyond_their_bound(served: EnsembleHandle) -> None:
    before = set(serve.status().applications)
    config = ServingConfig(min_replicas=1, max_replicas=2, max_batch_graphs=1)
    with serve_ensemble(config, load_counter) as busy:
        (name,) = set(serve.status().applications) - before

        def running() -> int:
            return serve.status().applications[name].deployments["ensemble"].replica_states.get("RUNNING", 0)

        assert running() == config.min_replicas
        seen = []
        with ThreadPoolExecutor(12) as pool:  # each call takes a replica a second
            for _ in range(6):
                calls = [pool.submit(busy.predict, graphs_of(SLOW)) for _ in range(12)]
                assert [call.result().accuracy.tolist() for call in calls] == [[SLOW]] * 12
                seen.append(running())
                if seen[-1] == config.max_replicas and len(seen) > 2:
                    break
        assert max(seen) == config.max_replicas, seen
    assert served.predict(graphs_of(4)).accuracy.tolist() == [4]  # what else is served goes on
