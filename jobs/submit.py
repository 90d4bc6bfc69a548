"""``gennape submit``: run a verb on a Ray cluster."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gennape.addresses import holds_secret
from gennape.errors import ConfigError
from gennape.jobs.shared.cluster_options import DASHBOARD, WORKSPACE, Address, at, option_of, show, show_until_end
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import own_sources, there
from gennape.search_spaces.files.nearby import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Verbs about jobs, which run where the cluster is asked from.
ABOUT_JOBS = ("submit", "status", "logs", "stop")
#: Verbs that always record in MLflow.
TRACKED = ("search", "evaluate", "label", "verify", "tune")


@one_document
def submit(
    context: typer.Context,
    verb: Annotated[
        list[str],
        typer.Argument(
            metavar="-- VERB [OPTIONS]...",
            help="The verb to run with its options, for example: -- search --space ofa_mbv3.",
        ),
    ],
    address: Address = DASHBOARD,
    wait: Annotated[bool, typer.Option("--wait", help="Print the output of the job and exit with its status.")] = False,
    wheel: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Wheel to ship.", show_default="built from the source tree"),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files of the wheel not to ship, for example '*.csv'. May be repeated."),
    ] = None,
    workspace: Annotated[str, typer.Option(help="Workspace on the head node.")] = WORKSPACE,
    python: Annotated[str, typer.Option(help="Python interpreter on the head node.")] = "python",
) -> Result:
    """Run a verb as a job on a Ray cluster, with this version of gennape."""
    from gennape.platform.cluster.submission import Submission
    from gennape.platform.cluster.submission import submit as submit_job
    from gennape.platform.cluster.wheel import build_wheel, source_tree

    verbs = context.find_root().command.commands  # type: ignore[attr-defined]
    refuse_unparsable(verb, verbs)
    own = own_sources(verb)  # which has now been run
    # -P: nothing that lies in the head's current folder may stand in for the shipped package.
    command = [python, "-P", "-m", "gennape", *on_cluster(there(verb), verbs)]
    with tempfile.TemporaryDirectory(prefix="gennape-build-") as folder:
        built = wheel or build_wheel(source_tree(), Path(folder))
        where = {"GENNAPE_WORKSPACE": workspace}
        job = submit_job(Submission(address, command, built, where, exclude or [], own))
    if wait:
        sys.stderr.write(f"submitted {job}\n{_about(address, job, verb, workspace)}")
        show_until_end(address, job)
    else:
        show(f"{job}\n")  # alone on stdout, for scripts
        sys.stderr.write(_about(address, job, verb, workspace))
    return Result({"job": job, "address": address, "command": verb})


def _about(address: str, job: str, verb: list[str], workspace: str) -> str:
    """Where to look, and what to do next."""
    from gennape.platform.cluster.submission import dashboard_page

    lines = [f"dashboard  {dashboard_page(address, job)}"]
    if (runs := tracked_in(verb, workspace)) is not None:
        lines.append(f"MLflow     on the head: gennape ui --workspace {runs}")
    lines.append(f"next       gennape status {job}{at(address)}")
    lines.append(f"           gennape logs {job} --follow{at(address)}")
    return "".join(f"  {line}\n" for line in lines)


def tracked_in(verb: list[str], workspace: str) -> str | None:
    """The workspace on the head whose MLflow store holds what the verb logs; None for one that logs nothing."""
    if verb[0] not in TRACKED and "--register" not in verb:
        return None
    if (own := option_of(verb, "--workspace")) is not None:
        return shlex.quote(own)
    return workspace


def refuse_unparsable(verb: list[str], verbs: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` for arguments that the command line would refuse there, before anything is shipped."""
    on_cluster(verb, verbs)
    name, *arguments = verb
    try:
        verbs[name].make_context(name, arguments)
    except typer.TyperException as error:
        said = error.format_message()
        raise ConfigError(f"`gennape {name}` would refuse this: {said}; see `gennape {name} --help`") from error


def on_cluster(verb: list[str], verbs: Mapping[str, Any]) -> list[str]:
    """The arguments of one of ``verbs``, with ``--address auto`` where it takes an address and none is given.

    Raises :class:`ConfigError` for a verb that does not exist or is about jobs, before anything is shipped.
    """
    if verb[0] not in verbs:
        meant = did_you_mean(verb[0], verbs)
        raise ConfigError(f"unknown verb {verb[0]!r}; known are {', '.join(sorted(verbs))}{meant}")
    if verb[0] in ABOUT_JOBS:
        raise ConfigError(f"`{verb[0]}` is about jobs and runs here, not in one; leave out `submit --`")
    if any(holds_secret(argument) for argument in verb):
        raise ConfigError(
            "an option of the verb holds a user, password, token or signature, which would show in the list of jobs; "
            "leave it out, and set up on the cluster how it proves who it is"
        )
    takes_address = any(parameter.name == "address" for parameter in verbs[verb[0]].params)
    given = any(argument.partition("=")[0] == "--address" for argument in verb)
    return [*verb, "--address", "auto"] if takes_address and not given else verb
