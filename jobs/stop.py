"""``gennape stop``: stop a job."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from gennape.jobs.submit import DASHBOARD, WORKSPACE, Address, JobId, at

if TYPE_CHECKING:
    from gennape.platform.cluster_jobs import Job


def stop(job: JobId, address: Address = DASHBOARD) -> None:
    """Stop a job, wait until it has stopped, and say what it leaves behind."""
    from gennape.platform.cluster_jobs import read_log, stop_job

    sys.stderr.write(f"stopping {job} ...\n")
    stopped = stop_job(address, job)
    text, _ = read_log(address, job)
    sys.stdout.write(left_behind(stopped, text, address))


def left_behind(job: Job, log: str, address: str) -> str:
    """How the job ended, what of it is kept, and how a search goes on."""
    from gennape.platform.cluster_jobs import resume_command

    if job.state != "stopped":
        return f"{job.id} {job.state} before it could be stopped\n"
    kept = f"; what it has written is kept in {job.workspace} on the head" if job.workspace else ""
    text = f"stopped {job.id}{kept}\n"
    if job.verb != "search":
        return text
    where = f" --workspace {job.workspace}" if job.workspace not in (None, WORKSPACE) else ""
    run = resume_command(log)
    go_on = f"gennape submit{at(address)}{where} -- search --resume {'NAME' if run is None else shlex.quote(run)}"
    named = f", where NAME is the newest folder in {job.workspace}/runs, if it had come so far" if run is None else ""
    return f"{text}continue it with: {go_on}{named}\n"
