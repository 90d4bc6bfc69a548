"""Run gennape on a cluster: the wheel is built here, shipped through Ray's job API and run on the head.

No secret is sent: a job gets the workspace and how to stop it, but nothing of this machine's environment.
"""

from __future__ import annotations

import hashlib
import shlex
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import gennape
from gennape.platform.cluster.client import asking, connect
from gennape.platform.cluster.own_files import gather
from gennape.platform.cluster.wheel import unpack_wheel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: A job is stopped by SIGINT, so that a search stores its state and ends its services; after a minute it is killed.
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}


@dataclass(frozen=True)
class Submission:
    """A job: ``command``, run with ``wheel`` on the head of the cluster whose dashboard is at ``address``.

    ``excludes``: files of the wheel not to ship, besides ``EXCLUDES``; see :func:`unpack_wheel`. ``own``: files
    and packages of the user, which are copied into the job's working folder.
    """

    address: str
    command: Sequence[str]
    wheel: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    excludes: Sequence[str] = ()
    own: Sequence[Path] = ()


def submit(submission: Submission) -> str:
    """Ship the wheel and start the command. Returns Ray's id of the job.

    The wheel is shipped unpacked, because Ray identifies folders by content but wheels by file name: a changed wheel of
    the same version would not arrive, and Ray would install it with all dependencies on every node. The nodes must
    have the dependencies (see ``cluster.yaml``). Raises :class:`ConfigError` for a wheel that cannot be shipped, before
    anything is sent, and :class:`ServiceError` when the cluster cannot be reached or refuses the job.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gennape-wheel-"))
        modules = [str(path) for path in unpack_wheel(submission.wheel, Path(folder), submission.excludes)]
        shipped: dict[str, object] = {"py_modules": modules}
        if submission.own:
            shipped["working_dir"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="gennape-own-"))
            gather(submission.own, Path(str(shipped["working_dir"])))
        client = connect(submission.address)
        metadata = {
            "gennape.version": gennape.__version__,
            "gennape.wheel": submission.wheel.name,
            "gennape.wheel.sha256": hashlib.sha256(submission.wheel.read_bytes()).hexdigest(),
        }
        environment = {"PYTHONUNBUFFERED": "1", **STOPPING, **submission.environment}
        with asking(submission.address):
            job: str = client.submit_job(
                entrypoint=shlex.join(submission.command),
                runtime_env={**shipped, "env_vars": environment},
                metadata=metadata,
            )
    return job


def dashboard_page(address: str, job: str) -> str:
    """The URL of the job in the dashboard."""
    return f"{address.rstrip('/')}/#/jobs/{job}"
