"""Running gennape on a cluster: the wheel is built here, shipped by Ray's job API and run on the head.

No secret travels: a job is told the workspace, how it is to be stopped, and nothing of this machine's environment.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import gennape
from gennape.errors import ConfigError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ray.job_submission import JobDetails, JobSubmissionClient

POLL_S = 0.5
BUILD_TIMEOUT_S = 600
REQUEST_TIMEOUT_S = (10.0, 120.0)  # to connect, and to answer; Ray would wait for ever
#: What is shipped, at most and unpacked. The package is 2 MiB; Ray itself gives up at 512 MiB, after the upload.
LIMIT_BYTES = 100 * 2**20
#: Never shipped, whatever a wheel holds: names of files or folders.
EXCLUDES = (
    *(".git", ".venv", "venv", "__pycache__", "*.pyc", ".*_cache", ".hypothesis", ".ipynb_checkpoints", "node_modules"),
    *("gennape-workspace", "mlruns", "mlflow.db*"),
)
LARGEST_SHOWN = 5
#: A job is stopped as by Ctrl-C, so that a search notes where it stands and ends what it serves; killed after a minute.
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
STOP_TIMEOUT_S = 90.0
WORKSPACE = "GENNAPE_WORKSPACE"
_ID = re.compile(r"\w[\w.-]*")
_ERROR = "gennape: error: "
#: What Ray adds to the words of a job.
_RAYS_WORDS = re.compile(r"^Job entrypoint command failed|^Running entrypoint for job|\sjob_manager\.py:\d+ -- ")
_RAYS_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class Submission:
    """What to run where: ``command`` on the head of the cluster whose dashboard is at ``address``, with ``wheel``.

    ``excludes``: files of the wheel that stay here, besides ``EXCLUDES``; see :func:`unpack_wheel`.
    """

    address: str
    command: Sequence[str]
    wheel: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    excludes: Sequence[str] = ()


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it.

    ``verb``: of gennape, else the program. ``state``: pending, running, succeeded, failed or stopped. ``started`` and
    ``ended``: seconds since 1970, None before. ``status``: its exit status where it failed or was stopped, else 0.
    ``failure``: one line, empty unless it failed. ``workspace``: on the head, where the job was told one.
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


def source_tree() -> Path:
    """The source that this gennape comes from: the checkout it is imported from, or the folder it was installed from.

    Raises :class:`ConfigError` when there is none.
    """
    candidates = [Path(gennape.__file__).resolve().parent.parent, *_installed_from()]
    for folder in candidates:
        if (folder / "pyproject.toml").is_file() and (folder / "gennape" / "__init__.py").is_file():
            return folder
    raise ConfigError("this gennape was not installed from a source tree, so no wheel can be built; pass --wheel PATH")


def _installed_from() -> list[Path]:
    """The folder that the installer recorded (PEP 610), if it did."""
    try:
        record = distribution("gennape").read_text("direct_url.json")
    except PackageNotFoundError:
        record = None
    url = urlsplit(json.loads(record)["url"] if record else "")
    return [Path(unquote(url.path))] if url.scheme == "file" else []


def build_wheel(source: Path, into: Path) -> Path:
    """Build the wheel of ``source`` in the folder ``into``.

    The build backend that is installed is used, else one is downloaded. Raises :class:`ConfigError` with the builder's
    last words when it fails.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into), str(source)]
    if importlib.util.find_spec("hatchling") is not None:
        command.append("--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S)  # noqa: S603
    wheels = list(into.glob("gennape-*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        words = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise ConfigError(f"cannot build the wheel of {source}: {words}; build it yourself and pass --wheel PATH")
    return wheels[0]


def unpack_wheel(wheel: Path, into: Path, excludes: Sequence[str] = ()) -> list[Path]:
    """Unpack what is to be shipped of a wheel of gennape; the folders that hold it.

    ``EXCLUDES`` and ``excludes`` stay out: shell patterns of the name of a file or folder (``*.csv``), or of a whole
    path in the wheel (``gennape/predictors/mine/*``). Raises :class:`ConfigError` when it is no wheel of gennape, or
    holds more than ``LIMIT_BYTES``.
    """
    patterns = (*EXCLUDES, *excludes)
    try:
        with zipfile.ZipFile(wheel) as archive:
            if "gennape/__init__.py" not in archive.namelist():
                raise ConfigError(f"{wheel} is not a wheel of gennape")
            shipped = [i for i in archive.infolist() if not i.is_dir() and not _matches(i.filename, patterns)]
            _refuse_too_much(wheel, {member.filename: member.file_size for member in shipped})
            archive.extractall(into, [member.filename for member in shipped])
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read the wheel {wheel}: {error}") from error
    return sorted(path for path in into.iterdir() if path.is_dir())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    texts = (name, *PurePosixPath(name).parts)
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in texts)


def _refuse_too_much(wheel: Path, sizes: Mapping[str, int]) -> None:
    if "gennape/__init__.py" not in sizes:
        raise ConfigError("--exclude leaves nothing of gennape to ship; exclude single files or folders of it")
    total = sum(sizes.values())
    if total <= LIMIT_BYTES:
        return
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:LARGEST_SHOWN]
    listed = ", ".join(f"{name} ({_mib(sizes[name])})" for name in largest)
    raise ConfigError(
        f"{wheel.name} holds {_mib(total)} to ship, at most {_mib(LIMIT_BYTES)} are; the largest: {listed}. "
        f"Leave out what the job does not need, as by --exclude '{largest[0]}', "
        "and bring data to the head by other means"
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def submit(submission: Submission) -> str:
    """Ship the wheel and start the command; returns Ray's name of the job.

    The wheel's content goes as folders, which Ray keys by content: a wheel it would key by file name, so that a changed
    one of the same version would not arrive, and would install with all dependencies on every node. The nodes must
    hold the dependencies (see ``cluster.yaml``). Raises :class:`ConfigError` for a wheel that cannot be shipped, before
    anything is sent, and :class:`ServiceError` when the cluster cannot be reached or refuses.
    """
    with tempfile.TemporaryDirectory(prefix="gennape-wheel-") as folder:
        modules = [str(path) for path in unpack_wheel(submission.wheel, Path(folder), submission.excludes)]
        client = _connect(submission.address)
        metadata = {
            "gennape.version": gennape.__version__,
            "gennape.wheel": submission.wheel.name,
            "gennape.wheel.sha256": hashlib.sha256(submission.wheel.read_bytes()).hexdigest(),
        }
        environment = {"PYTHONUNBUFFERED": "1", **STOPPING, **submission.environment}
        with _asking(submission.address):
            job: str = client.submit_job(
                entrypoint=shlex.join(submission.command),
                runtime_env={"py_modules": modules, "env_vars": environment},
                metadata=metadata,
            )
    return job


def dashboard_page(address: str, job: str) -> str:
    """Where a browser shows the job."""
    return f"{address.rstrip('/')}/#/jobs/{job}"


# Asking about jobs ----------------------------------------------------------------------------------------------------


def all_jobs(address: str) -> list[Job]:
    """Every job that was submitted to the cluster since it started, newest first.

    Raises :class:`ServiceError` when it cannot be asked.
    """
    client = _connect(address)
    with _asking(address):
        details = client.list_jobs()
    jobs = [_job(one) for one in details if one.type == "SUBMISSION"]
    return sorted(jobs, key=lambda job: (-(job.started or 0.0), job.id))


def find_job(address: str, job: str) -> Job:
    """How a job stands. Raises :class:`ServiceError` when the cluster cannot be asked, or does not know it."""
    return _find(_connect(address), address, job)


def read_log(address: str, job: str) -> tuple[str, Job]:
    """What a job has printed so far, and how it stood just before. Raises :class:`ServiceError` as find_job does."""
    client = _connect(address)
    found = _find(client, address, job)
    with _asking(address):
        return client.get_job_logs(found.id), found


def stop_job(address: str, job: str) -> Job:
    """Stop a job and wait until it has stopped; how it stands then (it may have ended by itself just before).

    Raises :class:`ServiceError` as find_job does, when it had ended already, and when it has not stopped in
    ``STOP_TIMEOUT_S``.
    """
    client = _connect(address)
    found = _find(client, address, job)
    if found.is_over:
        raise ServiceError(f"job {job} has ended already ({found.state}), nothing is left to stop")
    end = time.monotonic() + STOP_TIMEOUT_S
    asked = False
    while time.monotonic() < end:
        # A job whose first process is still being started cannot be told yet.
        with _asking(address):
            asked = asked or client.stop_job(found.id)
        found = _find(client, address, found.id)
        if found.is_over:
            return found
        time.sleep(POLL_S)
    raise ServiceError(
        f"job {job} is still {found.state} {STOP_TIMEOUT_S:.0f} s after it was told to stop; see its log, and try again"
    )


def resume_command(log: str) -> str | None:
    """How a search that was stopped goes on, by its own last words: the name of its run; None if it left none."""
    named = re.findall(r"gennape search --resume (\S+)", log)
    return str(named[-1]) if named else None


def _find(client: JobSubmissionClient, address: str, job: str) -> Job:
    unknown = ServiceError(f"the cluster at {address} knows no job {job!r}; `gennape status` lists those it does")
    if not _ID.fullmatch(job):  # it becomes part of an address
        raise unknown
    with _asking(address, unknown):
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
    """The verb that a job's command runs; of any other command the name of the program."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written by us
        words = command.split()
    for here, after in zip(words, words[1:], strict=False):
        if here == "gennape" or here.endswith("/gennape"):
            return after
    return PurePosixPath(words[0]).name if words else ""


def failure_of(message: str, exit_status: int | None) -> str:
    """In one line what Ray says of a failed job: gennape's error if it ended with one, else its last words."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if exit_status is None:
        # It never started. A traceback's last line says why; any other text says so first.
        says = -1 if lines and lines[0].startswith("Traceback") else 0
        return lines[says] if lines else "for no known reason"
    words = [line for line in lines if not _RAYS_WORDS.search(line)]
    errors = [line.partition(_ERROR)[2] for line in words if _ERROR in line]
    said = errors[-1:] or words[-1:]
    return ": ".join([f"exit status {_exit_status(exit_status)}", *said])


def _exit_status(code: int | None) -> int:
    """As a shell has it: 128 and the signal for a process that was killed; 1 where there was none."""
    if not code:
        return 1
    return code if code > 0 else 128 - code


def follow(address: str, job: str, write: Callable[[str], object]) -> int:
    """Hand what the job prints to ``write`` until it ends; its exit status (0 only when it succeeded).

    A cut connection is taken up again. Raises :class:`ServiceError` when the job is unknown or the cluster is gone.
    """
    client = _connect(address)
    job = _find(client, address, job).id
    seen = 0
    while True:
        seen = asyncio.run(_stream(client, job, write, seen))
        try:
            info = client.get_job_info(job)
            rest = client.get_job_logs(job)[seen:] if info.status.is_terminal() else None
        except (RuntimeError, OSError) as error:
            raise ServiceError(f"lost the cluster at {address} while job {job} ran: {_first_line(error)}") from error
        if rest is not None:
            write(rest)
            break
        time.sleep(POLL_S)
    if info.status == "SUCCEEDED":
        return 0
    if not info.driver_exit_code:  # stopped, or never started: nothing else says why
        write(f"job {job} {info.status.lower()}: {info.message}\n")
    return _exit_status(info.driver_exit_code)


async def _stream(client: JobSubmissionClient, job: str, write: Callable[[str], object], seen: int) -> int:
    """Follow the log from character ``seen`` on (each connection starts at the beginning); how many are seen now."""
    from aiohttp import ClientError  # noqa: PLC0415 (Ray's own client; slow to import)

    position = 0
    texts = aiter(client.tail_job_logs(job))
    while True:
        try:  # around the connection only: that nobody reads what is written is another matter
            text = await anext(texts, None)
        except (RuntimeError, OSError, ClientError):
            return seen  # a cut connection; the caller asks what became of the job
        if text is None:
            return seen
        position += len(text)
        if position > seen:
            write(text[len(text) - (position - seen) :])
            seen = position


# Connecting -----------------------------------------------------------------------------------------------------------


def _connect(address: str) -> JobSubmissionClient:
    """A client of the dashboard at ``address``, with the token of the cluster where this machine holds one."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--address is where the cluster's dashboard listens, http://HOST:8265, got {address!r}")
    with _token_mode():
        return _client(address)


def _client(address: str) -> JobSubmissionClient:
    # Here, for Ray reads the mode as it is imported.
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, timeout=REQUEST_TIMEOUT_S, **kwargs)

    with _asking(address), _without(_RAYS_ADDRESSES):
        return Client(address)


@contextmanager
def _token_mode() -> Iterator[None]:
    """Where this machine holds a token, Ray shows it; processes that this one starts later are not told to want it."""
    if not _has_token() or "RAY_AUTH_MODE" in os.environ:
        yield
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_MODE"]


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Take variables out of the environment for the length of the block: Ray puts them above what it is told."""
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


@contextmanager
def _asking(address: str, unknown: ServiceError | None = None) -> Iterator[None]:
    """Ray's errors as ours, in one line each; ``unknown`` is raised where the answer is that there is no such thing."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if unknown is not None and "status code 404" in str(error):
            raise unknown from error
        hint = "is it the dashboard's port (8265), and forwarded to this machine (ray dashboard cluster.yaml)?"
        raise ServiceError(f"cannot use the cluster at {address}: {_first_line(error).rstrip('.')}; {hint}") from error
    except Exception as error:
        from ray.exceptions import AuthenticationError  # noqa: PLC0415

        if not isinstance(error, AuthenticationError):
            raise
        raise ServiceError(
            f"the cluster at {address} wants a token and does not accept this machine's: "
            f"{_first_line(error).partition('. Ensure')[0]}; copy its ~/.ray/auth_token here, or set RAY_AUTH_TOKEN"
        ) from error


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
