"""What clients of a served ensemble do with what it answers, without a cluster."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException
from serving_cases import REFUSED, NodeCounter, UnsureCounter, graphs_of

from gennape.errors import CheckpointError, InvalidGraphError, ServiceError
from gennape.platform.serving import deployment as serving
from gennape.platform.serving.answers import Answer, OutOfTimeError, OverloadedError, answer_sets, probe_graphs
from gennape.platform.serving.config import RequestLimits
from gennape.platform.serving.deployment import EnsembleHandle, ServingConfig
from gennape.platform.serving.handle import (
    FIRST_PAUSE_S,
    MAX_LOSSES,
    MAX_PAUSE_S,
    Application,
    Backoff,
)
from gennape.platform.serving.replica import load_files, read_files
from gennape.predictors.predictor import Predictor
from gennape.search_spaces.graphs.graph import PackedGraphs, validate

FULL, LOST = BackPressureError(9, 8), RayActorError()


@dataclass
class Service:
    """Stands in for Serve's handle: raises what is listed, then answers by the predictors in turn, on by the last."""

    errors: list[Exception]
    predictors: list[Predictor]
    cancelled: int = 0

    def remote(self, graphs: PackedGraphs) -> Service:
        self.graphs = graphs
        return self

    def result(self, timeout_s: float) -> Answer | Any:
        assert timeout_s > 0
        if self.errors:
            raise self.errors.pop(0)
        predictor = self.predictors.pop(0) if len(self.predictors) > 1 else self.predictors[0]
        return answer_sets(predictor, [self.graphs])[0]

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return self.result(1)

    def cancel(self) -> None:
        self.cancelled += 1


def handle_on(*predictors: Predictor, errors: list[Exception] | None = None, **settings: Any) -> EnsembleHandle:
    service: Any = Service(errors or [], list(predictors) or [NodeCounter()])
    return EnsembleHandle(
        **{"sha256": "c", "url": None, "method": service, "max_graphs": 50, "timeout_s": 60, **settings}
    )


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is waited between tries; the clock goes on by that, and nothing is waited for."""
    waited: list[float] = []
    now = time.monotonic
    monkeypatch.setattr("gennape.platform.serving.handle.time.monotonic", lambda: now() + sum(waited))
    monkeypatch.setattr("gennape.platform.serving.handle.time.sleep", waited.append)
    return waited


def test_replicas_get_the_files_of_a_checkpoint_not_its_place(tmp_path: Path) -> None:
    def load_told(path: Path | None) -> Predictor:
        assert path is not None
        assert path != tmp_path
        return NodeCounter((path / "version").read_text())

    (tmp_path / "version").write_text("7")
    assert load_files(read_files(tmp_path), load_told).sha256 == "7" * 64


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text("7")

    def vanished(path: Path) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_bytes", vanished)
    with pytest.raises(CheckpointError, match=r"cannot read .*version"):
        read_files(tmp_path)


def test_probe_is_a_network() -> None:
    validate(probe_graphs())


def test_sets_predicted_together_are_split_again() -> None:
    first, second, third = answer_sets(UnsureCounter(), [graphs_of(4, 6), graphs_of(), graphs_of(7)])
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert isinstance(third, Answer)
    assert first.prediction.accuracy.tolist() == [4, 6]
    assert second.prediction.memberships.shape == (0, 2)
    assert third.prediction.memberships.tolist() == [[0.997, 0.003]]
    assert first.prediction.deviation == pytest.approx([0.4, 0.6])
    assert [answer.together for answer in (first, second, third)] == [3, 3, 3]
    assert first.sha256 == "c" * 64


def test_no_deviation_stays_none() -> None:
    (unknown,) = answer_sets(NodeCounter(), [graphs_of(4)])
    assert isinstance(unknown, Answer)
    assert unknown.prediction.deviation is None


def test_a_refused_set_does_not_spoil_the_others() -> None:
    good, bad = answer_sets(NodeCounter(), [graphs_of(4), graphs_of(6, REFUSED)])
    assert isinstance(good, Answer)
    assert good.prediction.accuracy.tolist() == [4]
    assert isinstance(bad, InvalidGraphError)
    assert "graph 1" in str(bad)  # counted within its own request


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"min_replicas": 0}, "replicas"),
        ({"min_replicas": 3}, "got 3 and 2"),
        ({"http_port": 70000}, "got 70000"),
        ({"http_port": 0, "max_batch_graphs": 100}, "256 graphs would not fit a batch of 100"),
    ],
)
def test_bad_setting(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ServiceError, match=says):
        ServingConfig(**settings)


@pytest.mark.parametrize("settings", [{"max_nodes": 0}, {"timeout_s": float("nan")}, {"body_timeout_s": float("inf")}])
def test_bad_limit(settings: dict[str, Any]) -> None:
    with pytest.raises(ServiceError, match=f"{next(iter(settings))} must be a positive number"):
        RequestLimits(**settings)


def test_a_full_queue_is_tried_again_after_growing_pauses(pauses: list[float]) -> None:
    handle = handle_on(errors=[FULL] * 7)
    assert handle.predict(graphs_of(4)).accuracy.tolist() == [4]
    assert len(pauses) == 7
    for i, pause in enumerate(pauses):
        assert FIRST_PAUSE_S * 2**i / 2 <= pause <= FIRST_PAUSE_S * 2**i
    handle = replace(handle, method=handle_on(errors=[FULL]).method)
    handle.predict(graphs_of(4))
    assert pauses[-1] >= FIRST_PAUSE_S * 2**6 / 2  # it remembers: one answer does not make it hasty again


def test_a_queue_that_stays_full_is_given_up_in_time(pauses: list[float]) -> None:
    with pytest.raises(OverloadedError, match=r"did not take 1 graphs.*replicas") as raised:
        handle_on(errors=[FULL] * 1000).predict(graphs_of(4))
    assert isinstance(raised.value, ServiceError)
    assert isinstance(raised.value.__cause__, BackPressureError)  # by which a search tells lateness from loss
    assert 60 - MAX_PAUSE_S <= sum(pauses) <= 60
    assert max(pauses) <= MAX_PAUSE_S


def test_clients_that_were_refused_together_do_not_come_back_together() -> None:
    handle = handle_on()
    others = [handle.backoff, pickle.loads(pickle.dumps(handle.backoff)), copy.deepcopy(handle.backoff)]  # noqa: S301
    assert len({one.pause() for one in others}) == 3
    equal = [Backoff(np.random.default_rng(3)).pause() for _ in range(2)]
    assert equal[0] == equal[1]
    assert Backoff().pause(at_least=7) > 7


def test_a_network_over_which_replicas_keep_dying_is_given_up(pauses: list[float]) -> None:
    assert handle_on(errors=[LOST] * MAX_LOSSES).predict(graphs_of(4)).accuracy.tolist() == [4]
    with pytest.raises(ServiceError, match="replicas were lost while they predicted 1 graphs") as raised:
        handle_on(errors=[LOST] * 1000).predict(graphs_of(4))
    assert isinstance(raised.value.__cause__, RayActorError)
    assert len(pauses) == 2 * MAX_LOSSES


def test_in_an_event_loop_as_many_losses_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gennape.platform.serving.handle.FIRST_PAUSE_S", 0)
    answer = asyncio.run(handle_on(errors=[LOST] * MAX_LOSSES).ask(graphs_of(4)))
    assert answer.prediction.accuracy.tolist() == [4]
    with pytest.raises(ServiceError, match=f"{MAX_LOSSES + 1} replicas were lost while they predicted 1") as raised:
        asyncio.run(handle_on(errors=[LOST] * 1000).ask(graphs_of(4)))
    assert not isinstance(raised.value, OverloadedError)  # which counts as healthy


def test_an_ensemble_starts_again_where_another_ended_serve_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster that several share, the last to serve something ends Serve, maybe as another begins."""
    errors: list[Exception] = [LOST]
    started = []

    def run(*_: Any, **__: Any) -> str:
        if errors:
            raise errors.pop()
        return "deployed"

    monkeypatch.setattr(serving.serve, "start", lambda **_: started.append(1))
    monkeypatch.setattr(serving.serve, "run", run)
    monkeypatch.setattr(serving, "_reason", lambda _: "")
    application = Application("a", ServingConfig(), {}, lambda _: NodeCounter())
    assert serving._deploy(application) == "deployed"
    assert len(started) == 2
    errors += [LOST, LOST]
    with pytest.raises(ServiceError, match="the ensemble did not start"):
        serving._deploy(application)


def test_what_cannot_even_be_sent_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_self: Service, _graphs: PackedGraphs) -> Service:
        raise RayServeException("no such deployment")

    monkeypatch.setattr(Service, "remote", gone)
    with pytest.raises(ServiceError, match="not being served any more"):
        asyncio.run(handle_on().ask(graphs_of(4)))
    with pytest.raises(ServiceError, match="not being served any more"):
        handle_on().predict(graphs_of(4))


def test_a_late_answer_is_given_up_and_not_worked_on() -> None:
    handle = handle_on(errors=[TimeoutError()])
    with pytest.raises(OutOfTimeError, match="no prediction of 1 graphs within 60 s"):
        handle.predict(graphs_of(4))
    service: Any = handle.method
    assert service.cancelled == 1


def test_pieces_keep_their_deviations_and_none_stays_none() -> None:
    answer = handle_on(UnsureCounter(), max_graphs=2).predict(graphs_of(10, 20, 30))
    assert answer.accuracy.tolist() == [10, 20, 30]
    assert answer.deviation is not None
    assert answer.deviation.tolist() == [1, 2, 3]
    assert handle_on(max_graphs=2).predict(graphs_of(10, 20, 30)).deviation is None
    assert handle_on(UnsureCounter(), NodeCounter(), max_graphs=2).predict(graphs_of(10, 20, 30)).deviation is None


def test_pieces_that_an_update_mixed_are_asked_again() -> None:
    old, new = NodeCounter("a"), UnsureCounter("b")
    handle = handle_on(old, old, new, old, new, max_graphs=1)  # the second piece is asked three times
    prediction, sha256 = handle.answer(graphs_of(10, 20, 30))
    assert sha256 == "b" * 64
    assert prediction.accuracy.tolist() == [10, 20, 30]
    assert prediction.deviation is not None  # of the new one alone


def test_in_an_event_loop_a_full_queue_is_told_at_once_and_a_loss_tried_again() -> None:
    with pytest.raises(OverloadedError, match="send this request again later") as raised:
        asyncio.run(handle_on(errors=[FULL]).ask(graphs_of(4)))
    assert raised.value.retry_after_s == 1
    assert asyncio.run(handle_on(errors=[LOST, LOST]).ask(graphs_of(4))).prediction.accuracy.tolist() == [4]
    with pytest.raises(InvalidGraphError, match="single node"):
        asyncio.run(handle_on(errors=[InvalidGraphError("a single node")]).ask(graphs_of(4)))


def test_what_travels_does_not_hold_the_checkpoint() -> None:
    application = Application("a", ServingConfig(), {"weights": b"0" * 10**6}, lambda _: NodeCounter())
    sent = copy.copy(handle_on(application=application))  # copies are made by what would be pickled
    assert sent.application is None


def test_errors_survive_their_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(OverloadedError("too much", 3.0)))  # noqa: S301
    assert (str(error), error.retry_after_s) == ("too much", 3.0)
