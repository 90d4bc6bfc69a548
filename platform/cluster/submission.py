"""Running gennape on a cluster: the wheel is built here, shipped by Ray's job API and run on the head.

No secret travels: a job is told the workspace, how it is to be stopped, and nothing of this machine's environment.
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

#: A job is stopped as by Ctrl-C, so that a search notes where it stands and ends what it serves; killed after a minute.
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}


@dataclass(frozen=True)
class Submission:
    """What to run where: ``command`` on the head of the cluster whose dashboard is at ``address``, with ``wheel``.

    ``excludes``: files of the wheel that stay here, besides ``EXCLUDES``; see :func:`unpack_wheel`. ``own``: files and
    packages of the user's, which the job finds in the folder that it starts in.
    """

    address: str
    command: Sequence[str]
    wheel: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    excludes: Sequence[str] = ()
    own: Sequence[Path] = ()


def submit(submission: Submission) -> str:
    """Ship the wheel and start the command; returns Ray's name of the job.

    The wheel's content goes as folders, which Ray keys by content: a wheel it would key by file name, so that a changed
    one of the same version would not arrive, and would install with all dependencies on every node. The nodes must
    hold the dependencies (see ``cluster.yaml``). Raises :class:`ConfigError` for a wheel that cannot be shipped, before
    anything is sent, and :class:`ServiceError` when the cluster cannot be reached or refuses.
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
    """Where a browser shows the job."""
    return f"{address.rstrip('/')}/#/jobs/{job}"
