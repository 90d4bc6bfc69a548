"""``gennape stop``: stop a job."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from gennape.jobs.shared.cluster_options import DASHBOARD, WORKSPACE, Address, JobId, at, option_of
from gennape.jobs.shared.json_output import Result, one_document

if TYPE_CHECKING:
    from gennape.platform.cluster.jobs import Job


@one_document
def stop(job: JobId, address: Address = DASHBOARD) -> Result:
    """Stop a job, wait until it has stopped, and list what it leaves behind."""
    from gennape.platform.cluster.jobs import read_log, stop_job

    sys.stderr.write(f"stopping {job} ...\n")
    stopped = stop_job(address, job)
    text, _ = read_log(address, job)
    sys.stdout.write(left_behind(stopped, text, address))
    return Result({"job": stopped.id, "state": stopped.state})


def left_behind(job: Job, log: str, address: str) -> str:
    """How the job ended, what of it is kept, and how a search goes on."""
    from gennape.platform.cluster.jobs import resume_command

    if job.state != "stopped":
        return f"{job.id} {job.state} before it could be stopped\n"
    options = resume_command(log) if job.verb == "search" else None
    own = None if options is None else option_of(shlex.split(options), "--workspace")
    folder = own or job.workspace
    kept = f"; what it has written is kept in {folder} on the head" if folder else ""
    text = f"stopped {job.id}{kept}\n"
    if job.verb != "search":
        return text
    where = f" --workspace {job.workspace}" if job.workspace not in (None, WORKSPACE) and own is None else ""
    go_on = f"gennape submit{at(address)}{where} -- search {options or '--resume NAME'}"
    named = "" if options else f", where NAME is the newest folder in {job.workspace}/runs, if it had come so far"
    return f"{text}continue it with: {go_on}{named}\n"
