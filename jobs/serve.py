"""``gennape serve``: the predictor over HTTP."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import GennapeError
from gennape.jobs.shared.config_options import field_option
from gennape.platform.serving.config import MIB, RequestLimits, ServingConfig

_LOOK_EVERY_S = 1.0
_USUAL = ServingConfig()
_LIMITS = _USUAL.limits

if TYPE_CHECKING:
    from rich.console import Console

    from gennape.platform.serving.deployment import EnsembleHandle


def serve(
    *,
    checkpoint: Annotated[
        Path | None, field_option(ServingConfig, "checkpoint", show_default="the shipped one")
    ] = None,
    host: Annotated[str, field_option(ServingConfig, "host", show_default=True)] = _USUAL.host,
    port: Annotated[int, field_option(ServingConfig, "http_port", show_default=True)] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token.", show_default="$GENNAPE_TOKEN, else none")
    ] = None,
    min_replicas: Annotated[int, field_option(ServingConfig, "min_replicas", show_default=True)] = _USUAL.min_replicas,
    max_replicas: Annotated[int, field_option(ServingConfig, "max_replicas", show_default=True)] = _USUAL.max_replicas,
    max_graphs: Annotated[int, field_option(RequestLimits, "max_graphs", show_default=True)] = _LIMITS.max_graphs,
    max_nodes: Annotated[int, field_option(RequestLimits, "max_nodes", show_default=True)] = _LIMITS.max_nodes,
    max_mib: Annotated[int, field_option(RequestLimits, "max_bytes", show_default=True)] = _LIMITS.max_bytes // MIB,
    max_onnx_mib: Annotated[
        int, field_option(RequestLimits, "max_onnx_bytes", show_default=True)
    ] = _LIMITS.max_onnx_bytes // MIB,
    max_requests: Annotated[int, field_option(RequestLimits, "max_requests", show_default=True)] = _LIMITS.max_requests,
    timeout: Annotated[float, field_option(RequestLimits, "timeout_s", show_default=True)] = _LIMITS.timeout_s,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to serve on.", show_default="a local one while this runs")
    ] = None,
) -> None:
    """Serve predictions of accuracy and cost over HTTP. Ctrl-C stops it."""
    from rich.console import Console

    from gennape.platform.cluster.connection import local_ray
    from gennape.platform.serving.deployment import serve_ensemble
    from gennape.platform.serving.http.auth import read_token, require_token
    from gennape.platform.serving.http.server import bound_socket
    from gennape.predictors.model.checkpoint import provenance_of

    out = Console(highlight=False, markup=False, soft_wrap=True)
    limits = RequestLimits(max_graphs, max_nodes, max_mib * MIB, max_onnx_mib * MIB, max_requests, timeout_s=timeout)
    config = ServingConfig(checkpoint, min_replicas, max_replicas, http_port=port, host=host, limits=limits)
    token = read_token(token_file)
    require_token(host, token)
    provenance_of(checkpoint)  # what is no checkpoint, or no free port, is found out before Ray starts
    with bound_socket(host, port):
        pass
    out.print("starting ...")
    with local_ray(address), serve_ensemble(config, token=token) as ensemble:
        out.print(f"serving checkpoint {ensemble.sha256[:12]} on {ensemble.url}  (Ctrl-C stops it); try")
        out.print(f"\n  {example_request(str(ensemble.url), token is not None)}\n")
        _tell_tuning(checkpoint, out)
        out.print(f"families and an example of each: {ensemble.url}/spaces")
        with suppress(KeyboardInterrupt):  # its usual end
            _update_when_asked(ensemble, checkpoint, out)
    out.print("stopped")


def _update_when_asked(ensemble: EnsembleHandle, checkpoint: Path | None, out: Console) -> None:
    """Serve what the checkpoint's folder holds by then, at every SIGUSR1, until Ctrl-C."""
    asked: SimpleQueue[int] = SimpleQueue()  # the only queue that a handler of signals may put into
    signal.signal(signal.SIGUSR1, lambda number, _: asked.put(number))
    out.print(f"after a change of the checkpoint: kill -USR1 {os.getpid()}")
    while True:
        try:
            # Not without end: a signal that the system gives to another thread would not end it.
            asked.get(timeout=_LOOK_EVERY_S)
        except Empty:
            continue
        ensemble = _updated(ensemble, checkpoint, out)


def _updated(ensemble: EnsembleHandle, checkpoint: Path | None, out: Console) -> EnsembleHandle:
    from gennape.platform.serving.deployment import update_ensemble

    try:
        ensemble = update_ensemble(ensemble, checkpoint)
    except GennapeError as error:
        out.print(f"not updated: {error}")
    else:
        out.print(f"serving checkpoint {ensemble.sha256[:12]}")
        _tell_tuning(checkpoint, out)
    return ensemble


def _tell_tuning(checkpoint: Path | None, out: Console) -> None:
    """Say what a fine-tuned checkpoint knows, and that answers of other families can mislead."""
    from gennape.predictors.evaluation.scale import scale_of
    from gennape.predictors.model.checkpoint import provenance_of

    scale = scale_of(provenance_of(checkpoint))
    if scale.tuned:
        out.print(f"{scale.sentence}; answers for networks of other families can mislead")


def example_request(url: str, token: bool) -> str:
    """A shell command that asks for one prediction."""
    from gennape.platform.serving.http.app import example
    from gennape.search_spaces.families.registry import family

    space = family("hiaml")
    body = json.dumps({"space": space.name, "architecture": example(space)})
    authorization = ' -H "authorization: Bearer $GENNAPE_TOKEN"' if token else ""
    return f"curl {url}/predict{authorization} -H 'content-type: application/json' -d '{body}'"
