"""``gennape status``: how the jobs of a cluster stand."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.jobs.shared.cluster_options import DASHBOARD, Address
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.text_table import text_table

if TYPE_CHECKING:
    from gennape.platform.cluster.jobs import Job

HEAD = ("ID", "VERB", "STATE", "STARTED", "TOOK", "FAILED")


@one_document
def status(
    job: Annotated[str | None, typer.Argument(metavar="[ID]", help="Name of a job.", show_default="all jobs")] = None,
    address: Address = DASHBOARD,
) -> Result:
    """Show the state of one job or of all.

    Exits with 1 if the job asked for failed or was stopped.
    """
    from gennape.platform.cluster.jobs import all_jobs, find_job

    jobs = all_jobs(address) if job is None else [find_job(address, job)]
    if not jobs:
        sys.stderr.write(f"no jobs yet at {address}\n")
    else:
        sys.stdout.write(table(jobs, time.time()))
    failed = job is not None and jobs[0].status != 0
    return Result({"jobs": [asdict(one) for one in jobs]}, int(failed))


def table(jobs: list[Job], now: float) -> str:
    """One line per job below a heading; ``now`` is in seconds since 1970, as are the times of the jobs."""
    return text_table(HEAD, [_row(job, now) for job in jobs])


def _row(job: Job, now: float) -> tuple[str, ...]:
    started = took = "-"
    if job.started is not None:
        started = datetime.fromtimestamp(job.started).strftime("%Y-%m-%d %H:%M:%S")
        took = duration((job.ended or now) - job.started)
    return (job.id, job.verb, job.state, started, took, job.failure or "-")


def duration(seconds: float) -> str:
    """Readable, such as 8 s, 3 min 05 s, or 2 h 07 min; what is below zero, as by a clock that is wrong, is 0 s."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
