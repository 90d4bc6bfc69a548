"""Jobs of a cluster: their state, their output, and how to stop them."""

from __future__ import annotations

import asyncio
import re
import shlex
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from gennape.errors import ServiceError
from gennape.platform.cluster.client import asking, connect, first_line
from gennape.platform.workspace.hints import command

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 0.5
STOP_TIMEOUT_S = 90.0
WORKSPACE = "GENNAPE_WORKSPACE"
_ID = re.compile(r"\w[\w.-]*")
_ERROR = "gennape: error: "
#: Text that Ray adds to the messages of a job.
_RAYS_WORDS = re.compile(r"^Job entrypoint command failed|^Running entrypoint for job|\sjob_manager\.py:\d+ -- ")


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it.

    ``verb``: the verb of gennape, else the program. ``state``: pending, running, succeeded, failed or stopped.
    ``started`` and ``ended``: seconds since 1970, or None. ``status``: the exit status if it failed or was stopped,
    else 0. ``failure``: one line, empty unless it failed. ``workspace``: on the head, if the job was given one.
    """

    id: str
    verb: str
    state: str
    started: float | None
    ended: float | None
    status: int
    failure: str
    workspace: str | None

    @property
    def is_over(self) -> bool:
        """Whether its state cannot change any more."""
        return self.state in ("succeeded", "failed", "stopped")


def all_jobs(address: str) -> list[Job]:
    """Every job that was submitted to the cluster since it started, newest first.

    Raises :class:`ServiceError` when the cluster does not answer.
    """
    client = connect(address)
    with asking(address):
        details = client.list_jobs()
    jobs = [_job(one) for one in details if one.type == "SUBMISSION"]
    return sorted(jobs, key=lambda job: (-(job.started or 0.0), job.id))


def find_job(address: str, job: str) -> Job:
    """The state of a job. Raises :class:`ServiceError` when the cluster does not answer or does not know the job."""
    return _find(connect(address), address, job)


def read_log(address: str, job: str) -> tuple[str, Job]:
    """The output of a job so far, and its state just before. Raises :class:`ServiceError` as find_job does."""
    client = connect(address)
    found = _find(client, address, job)
    with asking(address):
        return client.get_job_logs(found.id), found


def stop_job(address: str, job: str) -> Job:
    """Stop a job and wait until it has stopped. Returns its state (it may have ended by itself just before).

    Raises :class:`ServiceError` as find_job does, if the job had already ended, and if it does not stop within
    ``STOP_TIMEOUT_S``.
    """
    client = connect(address)
    found = _find(client, address, job)
    if found.is_over:
        raise ServiceError(f"job {job} has ended already ({found.state}), nothing is left to stop")
    end = time.monotonic() + STOP_TIMEOUT_S
    asked = False
    while time.monotonic() < end:
        # A job whose first process is still starting cannot be stopped yet.
        with asking(address):
            asked = asked or client.stop_job(found.id)
        found = _find(client, address, found.id)
        if found.is_over:
            return found
        time.sleep(POLL_S)
    raise ServiceError(
        f"job {job} is still {found.state} {STOP_TIMEOUT_S:.0f} s after it was told to stop; see its log, and try again"
    )


def resume_command(log: str) -> str | None:
    """The options that resume a stopped search, from the end of its output, without the address of the cluster that it
    ran on; None if it printed none."""
    named = re.findall(r"gennape search (--resume .+)$", log, re.MULTILINE)
    words = shlex.split(named[-1]) if named else []
    if "--address" in words:
        at = words.index("--address")
        del words[at : at + 2]
    return shlex.join(words) or None


def _find(client: JobSubmissionClient, address: str, job: str) -> Job:
    listing = command("status", address=address)
    unknown = ServiceError(f"the cluster at {address} knows no job {job!r}; `{listing}` lists those it does")
    if not _ID.fullmatch(job):  # it becomes part of a URL
        raise unknown
    with asking(address, unknown):
        details = client.get_job_info(job)
    if details.type != "SUBMISSION":
        raise unknown
    return _job(details)


def _job(details: JobDetails) -> Job:
    state = str(details.status).lower()
    variables = (details.runtime_env or {}).get("env_vars") or {}
    return Job(
        id=str(details.submission_id),
        verb=verb_of(details.entrypoint),
        state=state,
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        status=_exit_status(details.driver_exit_code) if state in ("failed", "stopped") else 0,
        failure=failure_of(details.message or "", details.driver_exit_code) if state == "failed" else "",
        workspace=variables.get(WORKSPACE),
    )


def verb_of(command: str) -> str:
    """The verb of gennape that a job runs, or the name of the program for any other command."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written by gennape
        words = command.split()
    for here, after in zip(words, words[1:], strict=False):
        if here == "gennape" or here.endswith("/gennape"):
            return after
    return PurePosixPath(words[0]).name if words else ""


def failure_of(message: str, exit_status: int | None) -> str:
    """The reason of a failed job in one line: gennape's error if there is one, else the end of its output."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if exit_status is None:
        # It never started. A traceback says why in its last line, any other text in its first.
        says = -1 if lines and lines[0].startswith("Traceback") else 0
        return lines[says] if lines else "for no known reason"
    words = [line for line in lines if not _RAYS_WORDS.search(line)]
    errors = [line.partition(_ERROR)[2] for line in words if _ERROR in line]
    said = errors[-1:] or _boxed(words) or words[-1:]
    return ": ".join([f"exit status {_exit_status(exit_status)}", *said])


def _boxed(lines: list[str]) -> list[str]:
    """The last error that the command line printed in a frame for wrong arguments, in one line, if any."""
    tops = [place for place, line in enumerate(lines) if line.startswith("╭─ Error")]
    if not tops:
        return []
    inside = takewhile(lambda line: line.startswith("│"), lines[tops[-1] + 1 :])
    text = " ".join(line.strip("│ ") for line in inside)
    return [text] if text else []


def _exit_status(code: int | None) -> int:
    """The exit status as in a shell: 128 plus the signal for a killed process; 1 if there was no process."""
    if not code:
        return 1
    return code if code > 0 else 128 - code


def follow(address: str, job: str, write: Callable[[str], object]) -> int:
    """Pass the output of a job to ``write`` until it ends. Returns its exit status (0 only if it succeeded).

    Reconnects after a lost connection. Raises :class:`ServiceError` if the job is unknown or the cluster is gone.
    """
    client = connect(address)
    job = _find(client, address, job).id
    seen = 0
    while True:
        seen = asyncio.run(_stream(client, job, write, seen))
        try:
            info = client.get_job_info(job)
            rest = client.get_job_logs(job)[seen:] if info.status.is_terminal() else None
        except (RuntimeError, OSError) as error:
            raise ServiceError(f"lost the cluster at {address} while job {job} ran: {first_line(error)}") from error
        if rest is not None:
            write(rest)
            break
        time.sleep(POLL_S)
    if info.status == "SUCCEEDED":
        return 0
    if not info.driver_exit_code:  # stopped or never started: no output says why
        write(f"job {job} {info.status.lower()}: {info.message}\n")
    return _exit_status(info.driver_exit_code)


async def _stream(client: JobSubmissionClient, job: str, write: Callable[[str], object], seen: int) -> int:
    """Follow the log from character ``seen`` on (each connection starts at the beginning). Returns the new position."""
    from aiohttp import ClientError  # noqa: PLC0415 (Ray's own client; slow to import)

    position = 0
    texts = aiter(client.tail_job_logs(job))
    while True:
        try:  # around the connection only: errors of ``write`` are not to be caught
            text = await anext(texts, None)
        except (RuntimeError, OSError, ClientError):
            return seen  # a lost connection; the caller asks for the state of the job
        if text is None:
            return seen
        position += len(text)
        if position > seen:
            write(text[len(text) - (position - seen) :])
            seen = position
