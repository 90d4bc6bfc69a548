"""What the verbs about a cluster and its jobs have in common: options, and how a job is shown."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

DASHBOARD = "http://127.0.0.1:8265"
#: Of jobs, on the head.
WORKSPACE = "~/gennape-workspace"
Address = Annotated[str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Name of the job, as `gennape submit` printed it.")]


def option_of(words: list[str], option: str) -> str | None:
    """The value that a command gives an option, if it does."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name == option:
            return value or following
    return None


def at(address: str) -> str:
    """The option that names the cluster, where it is not the one that is asked by default."""
    return "" if address == DASHBOARD else f" --address {shlex.quote(address)}"


def show_until_end(address: str, job: str) -> None:
    """Show what a job prints; end with its exit status when it ends."""
    from gennape.platform.cluster.jobs import follow

    try:
        status = follow(address, job, show)
    except KeyboardInterrupt:
        sys.stderr.write(f"job {job} goes on; stop it with: gennape stop {job}{at(address)}\n")
        raise
    if status != 0:
        raise typer.Exit(status)


def show(text: str) -> None:
    """Write to stdout, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
