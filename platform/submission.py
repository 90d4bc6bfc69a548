"""Running gennape on a cluster: the wheel is built here, shipped by Ray's job API and run on the head."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import gennape
from gennape.errors import ConfigError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ray.job_submission import JobSubmissionClient

POLL_S = 0.5
BUILD_TIMEOUT_S = 600


@dataclass(frozen=True)
class Submission:
    """What to run where: ``command`` on the head of the cluster whose dashboard is at ``address``, with ``wheel``."""

    address: str
    command: Sequence[str]
    wheel: Path
    environment: Mapping[str, str] = field(default_factory=dict)


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


def unpack_wheel(wheel: Path, into: Path) -> list[Path]:
    """Unpack a wheel of gennape; the folders that it holds. Raises :class:`ConfigError` when it is none."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if "gennape/__init__.py" not in archive.namelist():
                raise ConfigError(f"{wheel} is not a wheel of gennape")
            archive.extractall(into)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read the wheel {wheel}: {error}") from error
    return sorted(path for path in into.iterdir() if path.is_dir())


def submit(submission: Submission) -> str:
    """Ship the wheel and start the command; returns Ray's name of the job.

    The wheel's content goes as folders, which Ray keys by content: a wheel it would key by file name, so that a changed
    one of the same version would not arrive, and would install with all dependencies on every node. The nodes must
    hold the dependencies (see ``cluster.yaml``). Raises :class:`ServiceError` when the cluster cannot be reached or
    refuses.
    """
    client = _connect(submission.address)
    metadata = {
        "gennape.version": gennape.__version__,
        "gennape.wheel": submission.wheel.name,
        "gennape.wheel.sha256": hashlib.sha256(submission.wheel.read_bytes()).hexdigest(),
    }
    with tempfile.TemporaryDirectory(prefix="gennape-wheel-") as folder:
        modules = [str(path) for path in unpack_wheel(submission.wheel, Path(folder))]
        environment = {"PYTHONUNBUFFERED": "1", **submission.environment}
        try:
            job: str = client.submit_job(
                entrypoint=shlex.join(submission.command),
                runtime_env={"py_modules": modules, "env_vars": environment},
                metadata=metadata,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ServiceError(f"the cluster at {submission.address} refused the job: {error}") from error
    return job


def follow(address: str, job: str, write: Callable[[str], object]) -> int:
    """Hand what the job prints to ``write`` until it ends; its exit status (0 only when it succeeded).

    A cut connection is taken up again. Raises :class:`ServiceError` when the cluster is gone.
    """
    client = _connect(address)
    seen = 0
    while True:
        seen = asyncio.run(_stream(client, job, write, seen))
        try:
            info = client.get_job_info(job)
            if info.status.is_terminal():
                write(client.get_job_logs(job)[seen:])
                break
        except (RuntimeError, OSError) as error:
            raise ServiceError(f"lost the cluster at {address} while job {job} ran: {error}") from error
        time.sleep(POLL_S)
    if info.status == "SUCCEEDED":
        return 0
    if not info.driver_exit_code:  # stopped, or never started: nothing else says why
        write(f"job {job} {info.status.lower()}: {info.message}\n")
    return info.driver_exit_code or 1


async def _stream(client: JobSubmissionClient, job: str, write: Callable[[str], object], seen: int) -> int:
    """Follow the log from character ``seen`` on (each connection starts at the beginning); how many are seen now."""
    from aiohttp import ClientError  # noqa: PLC0415 (Ray's own client; slow to import)

    position = 0
    try:
        async for text in client.tail_job_logs(job):
            position += len(text)
            if position > seen:
                write(text[len(text) - (position - seen) :])
                seen = position
    except (RuntimeError, OSError, ClientError):
        pass  # a cut connection; the caller asks what became of the job
    return seen


def _connect(address: str) -> JobSubmissionClient:
    """A client of the dashboard at ``address``, with the token of the cluster where this machine holds one."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(f"--address is where the cluster's dashboard listens, http://HOST:8265, got {address!r}")
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Here, for Ray reads the mode as it is imported.
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (RuntimeError, ValueError, OSError) as error:
        hint = "; is it the dashboard's port (8265), and forwarded to this machine (ray dashboard cluster.yaml)?"
        token = " (copy its ~/.ray/auth_token here, or set RAY_AUTH_TOKEN)" if "401" in str(error) else ""
        raise ServiceError(f"cannot use the cluster at {address}: {_first_line(error)}{token or hint}") from error


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def _first_line(error: BaseException) -> str:
    lines: list[Any] = str(error).strip().splitlines() or [type(error).__name__]
    return str(lines[0])
