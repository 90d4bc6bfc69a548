"""The connection to Ray: a quiet one of our own on this machine, or a running cluster."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gennape.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a local Ray reads as it starts, unless the user has set it already.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # keeps a local cluster on 127.0.0.1
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
START_ATTEMPTS = 3
OBJECT_STORE_BYTES = 256 * 2**20  # populations and reports are megabytes; Ray would take 30 % of memory


@contextmanager
def local_ray(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """Ray for the length of the block: started on this machine without ``address``, else the cluster there.

    A Ray that this process has already started or joined is used and left running. ``num_cpus`` (a local cluster's
    size) defaults to this machine's, but at least 2: the actors of a search hold fractions of them.
    Raises :class:`ServiceError` when the cluster cannot be started or reached.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray  # noqa: PLC0415 (it reads the environment as it is imported)

    if ray.is_initialized():
        yield
        return
    if address is None:
        _start(num_cpus or max(2, os.cpu_count() or 2))
    else:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, TimeoutError, ValueError, OSError) as error:
            raise ServiceError(f"cannot reach the Ray cluster at {address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def alive_nodes() -> frozenset[str]:
    """The nodes of the cluster at present, by Ray's ids."""
    import ray  # noqa: PLC0415 (see above)

    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]


def _start(num_cpus: int) -> None:
    """Start a local Ray. On a busy machine its processes can miss Ray's own limit of 30 s, so try a few times."""
    import ray  # noqa: PLC0415

    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except Exception as error:  # Ray raises bare exceptions here
            ray.shutdown()
            if attempt == START_ATTEMPTS - 1:
                raise ServiceError(
                    f"cannot start Ray on this machine, tried {START_ATTEMPTS} times: {error}"
                ) from error
        else:
            return
