"""``gennape serve``: the predictor over HTTP."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Annotated

import typer


def serve(
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of the predictor's checkpoint.  [default: the shipped one]")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port on loopback; 0 takes a free one.")] = 8000,
    min_replicas: Annotated[int, typer.Option(min=1, help="Replicas kept when nothing is asked.")] = 1,
    max_replicas: Annotated[int, typer.Option(min=1, help="Replicas when much is asked.")] = 2,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to serve on.  [default: a local one for as long as this runs]")
    ] = None,
) -> None:
    """Answer accuracy, FLOPs and parameters of architectures over HTTP, until Ctrl-C."""
    from rich.console import Console

    from gennape.platform.cluster import local_ray
    from gennape.platform.serving import ServingConfig, serve_ensemble

    out = Console(highlight=False, markup=False, soft_wrap=True)
    config = ServingConfig(checkpoint, min_replicas, max_replicas, http_port=port)
    out.print("starting ...")
    with local_ray(address), serve_ensemble(config) as ensemble:
        out.print(f"serving checkpoint {ensemble.sha256[:12]} on {ensemble.url}  (Ctrl-C stops it); try")
        out.print(f"\n  {example_request(str(ensemble.url))}\n")
        out.print(f"families and an example of each: {ensemble.url}/spaces")
        threading.Event().wait()


def example_request(url: str) -> str:
    """A shell command that asks for one prediction."""
    from gennape.platform.http_api import example
    from gennape.search_spaces.families.registry import family

    space = family("hiaml")
    body = json.dumps({"space": space.name, "architecture": example(space)})
    return f"curl {url}/predict -H 'content-type: application/json' -d '{body}'"
