"""``gennape submit``: run a verb on a Ray cluster."""

from __future__ import annotations

import inspect
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from gennape.errors import ConfigError


def submit(
    verb: Annotated[
        list[str],
        typer.Argument(metavar="-- VERB [OPTIONS]...", help="What to run there, as here: -- search --space ofa_mbv3"),
    ],
    address: Annotated[str, typer.Option(help="Dashboard of the cluster.")] = "http://127.0.0.1:8265",
    wait: Annotated[
        bool, typer.Option("--wait", help="Show what the job prints and end with its exit status.")
    ] = False,
    wheel: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Wheel to ship.  [default: built from the source tree]"),
    ] = None,
    workspace: Annotated[str, typer.Option(help="Folder on the head for the runs.")] = "~/gennape-workspace",
    python: Annotated[str, typer.Option(help="Python on the head.")] = "python",
) -> None:
    """Run a verb on a Ray cluster, with this version of gennape."""
    from gennape.platform.submission import Submission, build_wheel, source_tree
    from gennape.platform.submission import submit as submit_job

    # -P: nothing that lies in the head's current folder may stand in for the shipped package.
    command = [python, "-P", "-m", "gennape", *on_cluster(verb)]
    with tempfile.TemporaryDirectory(prefix="gennape-build-") as folder:
        built = wheel or build_wheel(source_tree(), Path(folder))
        job = submit_job(Submission(address, command, built, {"GENNAPE_WORKSPACE": workspace}))
    sys.stderr.write(f"submitted {job}\n")
    if wait:
        _wait(address, job)
    else:
        sys.stderr.write(f"follow it with: ray job logs --address {address} --follow {job}\n")


def _wait(address: str, job: str) -> None:
    from gennape.platform.submission import follow

    try:
        status = follow(address, job, _write)
    except KeyboardInterrupt:
        sys.stderr.write(f"job {job} goes on; stop it with: ray job stop --address {address} {job}\n")
        raise
    if status != 0:
        raise typer.Exit(status)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def on_cluster(verb: list[str]) -> list[str]:
    """The verb's arguments, with ``--address auto`` where it takes an address and none is given.

    Raises :class:`ConfigError` for a verb that does not exist, before anything is shipped.
    """
    from gennape.jobs.cli import app

    known = {command.callback.__name__: command.callback for command in app.registered_commands if command.callback}
    if verb[0] not in known:
        raise ConfigError(f"unknown verb {verb[0]!r}; known are {', '.join(sorted(known))}")
    takes_address = "address" in inspect.signature(known[verb[0]]).parameters
    given = any(argument.partition("=")[0] == "--address" for argument in verb)
    return [*verb, "--address", "auto"] if takes_address and not given else verb
