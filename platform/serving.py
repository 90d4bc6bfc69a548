"""The ensemble as a Ray Serve deployment: whole populations in, predictions out, to workers and over HTTP."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.schema import LoggingConfig

from gennape.errors import GennapeError, ServiceError
from gennape.platform.http_api import create_api
from gennape.platform.ports import claim_port
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.builder import GraphBuilder
from gennape.search_spaces.graph import PackedGraphs, concatenate, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle

    from gennape.predictors.predictor import Predictor

    Load = Callable[[Path | None], Predictor]

#: CPU share of a replica. Small, so that two islands, a tracker and two replicas fit two cores.
REPLICA_CPUS = 0.2
QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # seconds between tries when the queue is full or a replica was lost


@dataclass(frozen=True)
class ServingConfig:
    """How to serve.

    ``checkpoint`` None serves the shipped one. ``http_port`` None starts no HTTP, 0 takes a free port. ``host`` other
    than loopback exposes the service, which has no authentication. A replica works on one batch of up to
    ``max_batch_graphs`` graphs at a time and waits ``batch_wait_s`` for more requests to join it; beyond
    ``max_queued_requests`` waiting requests further ones are refused (HTTP 503). ``timeout_s`` bounds one call.
    """

    checkpoint: Path | None = None
    min_replicas: int = 1
    max_replicas: int = 2
    http_port: int | None = None
    host: str = "127.0.0.1"
    max_queued_requests: int = 64
    max_batch_graphs: int = 1024
    batch_wait_s: float = 0.002
    torch_threads: int = 1
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ServiceError(
                f"replicas must be 1 <= minimum <= maximum, got {self.min_replicas} and {self.max_replicas}"
            )
        if self.http_port is not None and not 0 <= self.http_port < 65536:
            raise ServiceError(f"the HTTP port must be 0..65535 (0 takes a free one), got {self.http_port}")


@dataclass(frozen=True)
class EnsembleHandle:
    """A served ensemble as workers see it; may be sent into Ray tasks and actors. ``url`` is None without HTTP.

    ``method`` is the deployment's handle with its method already chosen. Choosing it makes a new handle, with a router
    of its own that reports its own load: chosen at every call, no router would see the load that adds a replica.
    """

    sha256: str
    url: str | None
    method: DeploymentHandle[Any]
    max_graphs: int
    timeout_s: float

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Predict and wait; see :meth:`gennape.predictors.predictor.Predictor.predict`.

        Large sets travel in pieces that replicas share. Safe to repeat, so a full queue or a lost replica is tried
        again with growing pauses. Raises :class:`ServiceError` when the service does not answer, and the predictor's
        own error (such as ``InvalidGraphError``) when it refuses the graphs.
        """
        if len(graphs) <= self.max_graphs:
            return self._call(graphs)
        pieces = np.array_split(np.arange(len(graphs)), -(-len(graphs) // self.max_graphs))
        return _joined([self._call(graphs.take(piece)) for piece in pieces])

    def _call(self, graphs: PackedGraphs) -> Prediction:
        deadline = time.monotonic() + self.timeout_s
        for wait in (*WAITS, None):
            try:
                answer: Prediction = self.method.remote(graphs).result(
                    timeout_s=max(deadline - time.monotonic(), 0.001)
                )
                return answer
            except (BackPressureError, RayActorError) as error:
                if wait is None or time.monotonic() + wait > deadline:
                    raise ServiceError(
                        f"the ensemble did not take {len(graphs)} graphs after {len(WAITS)} tries ({_brief(error)}); "
                        f"raise the number of replicas, or send fewer requests at a time"
                    ) from error
            except (TimeoutError, GetTimeoutError) as error:
                raise ServiceError(
                    f"no prediction of {len(graphs)} graphs within {self.timeout_s:g} s; "
                    f"raise the number of replicas or the timeout, or predict fewer graphs at a time"
                ) from error
            except RayTaskError as error:
                raise _refusal(error) from error
            except (RayError, RayServeException) as error:
                raise ServiceError(f"the ensemble is not being served any more: {_brief(error)}") from error
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def _joined(answers: Sequence[Prediction]) -> Prediction:
    """One answer of many, without deviations where a piece has none: a replica that is told less may have given it."""
    deviations = [answer.deviation for answer in answers if answer.deviation is not None]
    return Prediction(
        np.concatenate([answer.accuracy for answer in answers]),
        np.concatenate([answer.memberships for answer in answers]),
        np.concatenate(deviations) if len(deviations) == len(answers) else None,
    )


def _refusal(error: RayTaskError) -> GennapeError:
    """What a replica raised: an expected error as it is, any other as one line."""
    cause = error.cause
    return cause if isinstance(cause, GennapeError) else ServiceError(f"the ensemble failed: {_brief(cause)}")


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


class Ensemble:
    """What a replica runs: one predictor, loaded once, asked in batches."""

    def __init__(self, config: ServingConfig, files: Mapping[str, bytes], load: Load) -> None:
        import torch  # noqa: PLC0415 (only replicas need it)

        torch.set_num_threads(config.torch_threads)
        self.predictor = _load_files(files, load) if files else load(config.checkpoint)
        self.probe = probe_graphs()
        self.answer_many.set_max_batch_size(config.max_batch_graphs)  # type: ignore[attr-defined]
        self.answer_many.set_batch_wait_timeout_s(config.batch_wait_s)  # type: ignore[attr-defined]

    @serve.batch(max_batch_size=1024, batch_size_fn=lambda sets: sum(map(len, sets)))
    async def answer_many(self, sets: list[PackedGraphs]) -> list[Prediction | GennapeError]:
        """One answer per request; off the event loop, which keeps answering health checks and taking requests."""
        return await asyncio.to_thread(predict_sets, self.predictor, sets)

    async def predict(self, graphs: PackedGraphs) -> Prediction:
        """One request's answer, computed together with those that arrived beside it."""
        answer: Prediction | GennapeError = await self.answer_many(graphs)
        if isinstance(answer, GennapeError):
            raise answer
        return answer

    async def check_health(self) -> None:
        """Make a real prediction; Serve replaces a replica whose answer is not one."""
        answer = await asyncio.to_thread(self.predictor.predict, self.probe)
        if not np.isfinite(answer.accuracy).all() or not np.allclose(answer.memberships.sum(1), 1, atol=1e-3):
            raise ServiceError(f"the ensemble predicts {answer.accuracy} % with memberships {answer.memberships}")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self.predict, self.predictor.sha256)


def predict_sets(predictor: Predictor, sets: Sequence[PackedGraphs]) -> list[Prediction | GennapeError]:
    """Predict several sets in one go; where the predictor refuses, find out which set it refuses."""
    try:
        whole = predictor.predict(concatenate(sets))
    except GennapeError as error:
        return [error] if len(sets) == 1 else [predict_sets(predictor, [one])[0] for one in sets]
    ends = np.cumsum([len(one) for one in sets])[:-1]
    none = [None] * len(sets)
    deviations = none if whole.deviation is None else np.split(whole.deviation, ends)
    rows = zip(np.split(whole.accuracy, ends), np.split(whole.memberships, ends), deviations, strict=True)
    return [Prediction(*row) for row in rows]


def probe_graphs() -> PackedGraphs:
    """The small network that health checks predict."""
    b = GraphBuilder()
    x = b.relu(b.batchnorm(b.conv(b.input(3, 32, 32), 16, 3)))
    b.output(b.linear(b.mean(x), 10))
    return pack([b.build()])


def _read_files(checkpoint: Path | None) -> dict[str, bytes]:
    """What a checkpoint's folder holds, for replicas on machines that do not have it."""
    if checkpoint is None or not checkpoint.is_dir():
        return {}
    return {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir()) if path.is_file()}


def _load_files(files: Mapping[str, bytes], load: Load) -> Predictor:
    with tempfile.TemporaryDirectory(prefix="gennape-checkpoint-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return load(Path(folder))


def _load_checkpoint(path: Path | None) -> Predictor:
    from gennape.predictors.checkpoint import load_checkpoint  # noqa: PLC0415 (it imports torch)

    return load_checkpoint(path)


@contextmanager
def serve_ensemble(config: ServingConfig, load: Load = _load_checkpoint) -> Iterator[EnsembleHandle]:
    """Serve the ensemble of ``config.checkpoint`` on the Ray cluster that the caller is connected to.

    ``load`` makes the predictor from the checkpoint's path, in this process once (so that a bad checkpoint stops
    before anything starts) and in each replica. Yields when a replica has made its first prediction; leaving the
    context stops the replicas, and Ray Serve with them unless something else is served.

    Raises :class:`CheckpointError` for a bad checkpoint and :class:`ServiceError` for a port in use or a service
    that does not start.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if config.http_port is not None and ray.is_initialized():
        _make_way()
    port = None if config.http_port is None else claim_port(config.host, config.http_port)
    checkpoint = None if config.checkpoint is None else config.checkpoint.resolve()
    config = replace(config, checkpoint=checkpoint, http_port=port)
    sha256 = load(checkpoint).sha256
    name = f"gennape-{uuid.uuid4().hex[:8]}"
    url = None if port is None else f"http://{config.host}:{port}"
    try:
        deployment = _start(config, load, name)
        _expect_answer(config.host, port, sha256)
        yield EnsembleHandle(sha256, url, deployment.predict, config.max_batch_graphs, config.timeout_s)
    finally:
        _stop(name)


def _start(config: ServingConfig, load: Load, name: str) -> DeploymentHandle[Any]:
    port = config.http_port
    deployment = serve.deployment(
        name="ensemble",
        ray_actor_options={"num_cpus": REPLICA_CPUS},
        max_ongoing_requests=config.max_queued_requests,
        max_queued_requests=config.max_queued_requests,
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": 4,
            "upscale_delay_s": 5,
        },
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=5,
        health_check_period_s=10,
        health_check_timeout_s=60,
        logging_config=QUIET,
    )(serve.ingress()(Ensemble))
    try:
        serve.start(
            proxy_location=ProxyLocation.Disabled if port is None else ProxyLocation.HeadOnly,
            http_options=None
            if port is None
            else HTTPOptions(host=config.host, port=port, request_timeout_s=config.timeout_s),
            logging_config=QUIET,
        )
        return serve.run(
            deployment.bind(config, _read_files(config.checkpoint), load),
            name=name,
            route_prefix=None if port is None else "/",
        )
    except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
        raise ServiceError(f"the ensemble did not start: {error}") from error


def _expect_answer(host: str, port: int | None, sha256: str) -> None:
    """Refuse to go on when the port is not ours, as where Ray Serve ran before with other HTTP settings."""
    if port is None:
        return
    connection = HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse().read()
    except OSError as error:
        raise ServiceError(f"nothing answers on {host} port {port} ({error}); is Ray Serve already running?") from error
    finally:
        connection.close()
    if sha256.encode() not in answer:
        raise ServiceError(f"something else answers on {host} port {port}: {answer[:80]!r}; pass another port")


def _make_way() -> None:
    """End a Ray Serve that serves nothing: a running one does not take new HTTP settings."""
    if serve.status().applications:
        raise ServiceError("Ray Serve already runs on this cluster; stop what it serves, or serve without HTTP")
    _end_serve()


def _stop(name: str) -> None:
    """Stop our application, and Ray Serve itself when nothing else is served.

    Serve left behind would go on listening, and its threads here would start a new Ray when this one has ended.
    """
    try:
        if set(serve.status().applications) <= {name}:
            _end_serve()
        else:
            serve.delete(name)
    except (RayError, RayServeException) as error:
        logging.getLogger(__name__).warning("the served ensemble may still run: %s", _brief(error))


def _end_serve() -> None:
    """End Ray Serve. Ray reports what its controller leaves undone as failures: not shown, for nothing failed."""
    worker = ray._private.worker
    worker._worker_logs_enabled = False
    serve.shutdown()  # type: ignore[no-untyped-call]
    again = threading.Timer(5, setattr, (worker, "_worker_logs_enabled", True))  # the reports come late
    again.daemon = True
    again.start()
