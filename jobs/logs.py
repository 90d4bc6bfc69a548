"""``gennape logs``: what a job prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gennape.jobs.shared.cluster_options import DASHBOARD, Address, JobId, show, show_until_end


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing until the job ends.")] = False,
    address: Address = DASHBOARD,
) -> None:
    """Show the output of a job.

    Exits with the status of the job, or 0 while it runs.
    """
    from gennape.platform.cluster.jobs import read_log

    if follow:
        show_until_end(address, job)
        return
    text, found = read_log(address, job)
    show(text)
    if not text:
        sys.stderr.write(f"job {job} is {found.state} and has printed nothing\n")
    if found.status != 0:
        raise typer.Exit(found.status)
