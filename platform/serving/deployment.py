"""The ensemble as a Ray Serve deployment, which predicts whole populations for workers and over HTTP."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.config import ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from gennape.errors import CheckpointError, ServiceError
from gennape.platform.serving.answers import probe_graphs
from gennape.platform.serving.config import ServingConfig
from gennape.platform.serving.handle import Application, EnsembleHandle, brief
from gennape.platform.serving.http.auth import require_token
from gennape.platform.serving.replica import Ensemble, load_checkpoint_at, load_files, read_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ray.serve.handle import DeploymentHandle

    from gennape.platform.serving.replica import Load
    from gennape.predictors.evaluation.scale import AccuracyScale

__all__ = ["EnsembleHandle", "ServingConfig", "serve_ensemble", "update_ensemble"]

#: CPUs reserved per replica: few, so that two islands, a tracker and two replicas fit two cores.
REPLICA_CPUS = 0.2
QUIET = LoggingConfig(log_level="ERROR", enable_access_log=False)
DRAIN_S = 30.0  # for requests in progress when a replica is replaced
TRIES = 2  # for a replica to start, before an update is rolled back


@contextmanager
def serve_ensemble(
    config: ServingConfig, load: Load = load_checkpoint_at, token: str | None = None
) -> Iterator[EnsembleHandle]:
    """Serve the ensemble of ``config.checkpoint`` on the Ray cluster that the caller is connected to.

    ``load`` makes the predictor from the checkpoint's path: once in this process, so that a bad checkpoint fails before
    anything starts, and in each replica. Yields after the first prediction of a replica. Leaving the context stops the
    replicas, and Ray Serve unless it serves something else. This process answers HTTP on one port, whatever the number
    of replicas and machines behind it. With ``token``, it answers only clients that send it; the token is required if
    ``config.host`` is not loopback.

    Raises :class:`CheckpointError` for a bad checkpoint and :class:`ServiceError` for a missing token, a port in use or
    a service that does not start.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with ExitStack() as stack:
        bound = None
        if config.http_port is not None:
            from gennape.platform.serving.http.server import bound_socket, url_of  # noqa: PLC0415 (searches need no HTTP)

            require_token(config.host, token)
            bound = stack.enter_context(bound_socket(config.host, config.http_port))
        application, sha256 = _application(f"gennape-{uuid.uuid4().hex[:8]}", config, load)
        stack.callback(_stop, application.name)
        deployment = _deploy(application)
        url = None if bound is None else url_of(bound)
        handle = EnsembleHandle(sha256, url, deployment.predict, config.max_batch_graphs, config.timeout_s, application)
        if bound is not None:
            from gennape.platform.serving.http.app import create_api  # noqa: PLC0415
            from gennape.platform.serving.http.server import listening  # noqa: PLC0415
            from gennape.platform.serving.http.service import HttpService  # noqa: PLC0415

            scales = {sha256: _scale(config.checkpoint)}
            api = create_api(HttpService(handle.ask, sha256, config.limits, token, scales=scales))
            stack.enter_context(listening(api, bound))
        yield handle


def _scale(checkpoint: Path | None) -> AccuracyScale:
    """The accuracy scale of a checkpoint; an empty one for a checkpoint that is not gennape's."""
    from gennape.predictors.evaluation.scale import AccuracyScale, scale_of  # noqa: PLC0415
    from gennape.predictors.model.checkpoint import provenance_of  # noqa: PLC0415 (it imports torch)

    try:
        return scale_of(provenance_of(checkpoint))
    except CheckpointError:
        return AccuracyScale(frozenset())


def update_ensemble(handle: EnsembleHandle, checkpoint: Path | None) -> EnsembleHandle:
    """Replace the served checkpoint without refusing or dropping a request.

    New replicas start beside the old ones, which stop once the new ones have made a prediction and their own requests
    are answered; meanwhile both answer, each with its own SHA-256. Existing handles and HTTP continue to work. The
    returned handle has the new SHA-256 and is the one to update next.

    Raises :class:`CheckpointError` for a bad checkpoint, before anything changes, and :class:`ServiceError` if its
    replicas do not start; the old checkpoint then continues to be served.
    """
    old = handle.application
    if old is None:
        raise ServiceError("this handle does not lead to a served ensemble; update the one that serve_ensemble yields")
    new, sha256 = _application(old.name, replace(old.config, checkpoint=checkpoint), old.load)
    try:
        _deploy(new)
    except ServiceError as error:
        _deploy(old)
        raise ServiceError(f"{handle.sha256[:12]} is served on, for the update did not succeed: {error}") from error
    updated = replace(handle, sha256=sha256, application=new)
    _await_answer_of(updated)
    return updated


def _application(name: str, config: ServingConfig, load: Load) -> tuple[Application, str]:
    """The deployment, and the SHA-256 of its checkpoint, which is loaded here to check it."""
    checkpoint = None if config.checkpoint is None else config.checkpoint.resolve()
    files = read_files(checkpoint)
    predictor = load_files(files, load) if files else load(checkpoint)
    return Application(name, replace(config, checkpoint=checkpoint), files, load), predictor.sha256


def _deploy(application: Application) -> DeploymentHandle[Any]:
    """Deploy, replacing what has the same name: new replicas answer before old ones stop."""
    config = application.config
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
        max_surge_percent=100,
        rolling_update_percentage=1.0,
        max_constructor_retry_count=TRIES,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=DRAIN_S,
        health_check_period_s=10,
        health_check_timeout_s=60,
        logging_config=QUIET,
    )(Ensemble)
    bound = deployment.bind(config, application.files, application.load)
    try:
        try:
            return _run(bound, application.name)
        except RayActorError:  # on a shared cluster, another user whose application was the last has ended Serve
            return _run(bound, application.name)
    except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
        raise ServiceError(f"the ensemble did not start: {_reason(application.name) or error}") from error


def _run(bound: serve.Application, name: str) -> DeploymentHandle[Any]:
    """Start Serve if necessary, and the bound application in it. Returns when that is running."""
    serve.start(proxy_location=ProxyLocation.Disabled, logging_config=QUIET)
    return serve.run(bound, name=name, route_prefix=None)


def _reason(name: str) -> str:
    """Why a replica did not start: the last line of its traceback, or nothing if there is none."""
    try:
        deployment = serve.status().applications[name].deployments["ensemble"]
    except (RayError, RayServeException, KeyError):
        return ""
    said = [line for line in deployment.message.splitlines() if line.strip() and not line.startswith(" ")]
    return said[-1] if said else ""


def _await_answer_of(handle: EnsembleHandle) -> None:
    """Wait until an answer comes from the handle's checkpoint."""
    deadline = time.monotonic() + handle.timeout_s
    while handle.answer(probe_graphs())[1] != handle.sha256:
        if time.monotonic() > deadline:
            raise ServiceError(
                f"{handle.sha256[:12]} does not answer {handle.timeout_s:g} s after its replicas started"
            )
        time.sleep(0.1)


def _stop(name: str) -> None:
    """Stop this application, and Ray Serve itself if nothing else is served.

    Otherwise threads of Serve in this process would start a new Ray after this one has ended.
    """
    try:
        if set(serve.status().applications) <= {name}:
            _end_serve()
        else:
            serve.delete(name)
    except (RayError, RayServeException) as error:
        logging.getLogger(__name__).warning("the served ensemble may still run: %s", brief(error))


def _end_serve() -> None:
    """End Ray Serve. Ray reports unfinished tasks of its controller as failures; these messages are hidden."""
    worker = ray._private.worker
    worker._worker_logs_enabled = False
    serve.shutdown()  # type: ignore[no-untyped-call]
    again = threading.Timer(5, setattr, (worker, "_worker_logs_enabled", True))  # reports arrive late
    again.daemon = True
    again.start()
