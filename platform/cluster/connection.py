"""The connection to Ray: a private local Ray, or a running cluster.

Every verb that uses Ray connects here, so this module decides who can reach it. A local Ray listens only on loopback,
always requires the token, and shares no files with other users of the machine.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gennape.addresses import is_loopback
from gennape.errors import ServiceError
from gennape.platform.cluster.memory import refuse_small_machine
from gennape.platform.cluster.session import end_processes, marked, session_folder
from gennape.platform.cluster.signals import keep_own_signals, uninterrupted
from gennape.platform.cluster.start import turn_to_start

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

#: Environment variables that Ray reads when it starts; values set by the user take precedence.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
#: Environment variables of a local Ray, whatever the user has set: all sockets on loopback, no metrics exported.
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the node's address becomes 127.0.0.1, which all of Ray uses
    "RAY_enable_metrics_collection": "0",
    # No option turns off two more metrics servers: with an invalid port they log an error and go on.
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
AUTH_MODE = "RAY_AUTH_MODE"
START_ATTEMPTS = 8
#: How long to wait for the cluster's head, which may just be starting.
ANSWER_S = 5.0
#: The preface of an HTTP/2 client with an empty SETTINGS frame; the size of a frame header, and the byte of its type.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_FRAME, _SETTINGS = 9, b"\4"
OBJECT_STORE_BYTES = 256 * 2**20  # populations and reports take megabytes; by default Ray reserves 30 % of memory
_SCARCE_BYTES = 32 * 2**20


@contextmanager
def local_ray(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to Ray for the length of the block: to the cluster at ``address``, or to a local Ray that is started.

    A Ray that this process has already started or joined is used and left running. ``num_cpus``, the size of a local
    Ray, defaults to the CPUs of this machine, but at least 2, since the actors of a search reserve fractions of them. A
    local Ray requires the token even if RAY_AUTH_MODE is "disabled"; joining a cluster that does not gives a warning.
    Raises :class:`ServiceError` when the cluster cannot be started or reached.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None and "ray" not in sys.modules:
        refuse_small_machine()  # if Ray could not even be imported
    import ray  # noqa: PLC0415 (it reads the environment as it is imported)

    if ray.is_initialized():
        yield
        return
    tighten_token()
    keep_own_signals()
    with ExitStack() as stack:
        if address is None:
            refuse_small_machine()
            folder = stack.enter_context(session_folder())
            stack.enter_context(_environment(LOOPBACK, without=(AUTH_MODE,)))
            stack.callback(ray.shutdown)
            _start(num_cpus or max(2, os.cpu_count() or 2), folder)
        else:
            stack.callback(ray.shutdown)
            _join(address)
        yield


def connected() -> bool:
    """Whether this process has started or joined a Ray."""
    if "ray" not in sys.modules:
        return False
    import ray  # noqa: PLC0415 (see above)

    return bool(ray.is_initialized())


def alive_nodes() -> frozenset[str]:
    """Ray's ids of the nodes that are alive."""
    import ray  # noqa: PLC0415 (see above)

    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def on_loopback() -> bool:
    """Whether the cluster of this process is unreachable from other machines."""
    import ray  # noqa: PLC0415

    nodes: list[dict[str, Any]] = ray.nodes()
    return all(is_loopback(node["NodeManagerAddress"]) for node in nodes if node["Alive"])


def keep_replica_on_loopback() -> None:
    """Keep a replica's server for other replicas, which Serve opens to all networks, on loopback with a local Ray."""
    import ray  # noqa: PLC0415

    if not ray.is_initialized() or not is_loopback(ray.util.get_node_ip_address()):
        return
    from ray.serve._private import replica  # noqa: PLC0415

    add_port = replica.add_port_to_grpc_server  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = lambda server, _: add_port(server, "127.0.0.1:0")  # type: ignore[attr-defined]


def tighten_token() -> None:
    """Make the token in the home folder readable only for its owner; Ray writes it readable for everyone.

    Links and other users' files are not changed.
    """
    file = Path("~/.ray/auth_token").expanduser()
    for path, mode in ((file, 0o600), (file.parent, 0o700)):
        try:
            found = path.lstat()
            if found.st_uid != os.geteuid() or not stat.S_IMODE(found.st_mode) & 0o077 or stat.S_ISLNK(found.st_mode):
                continue
            path.chmod(mode)
        except OSError:  # absent, or owned by another user
            continue
        if path == file:
            log.warning(
                "other users of this machine could read %s, and no longer can; where one may have, delete the file, "
                "and `ray get-auth-token --generate` makes a new token",
                file,
            )


def _join(address: str) -> None:
    """Connect to a running cluster."""
    import ray  # noqa: PLC0415

    _require_answer(address)
    try:
        with uninterrupted():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, OSError) as error:
        raise ServiceError(f"cannot reach the Ray cluster at {address!r}: {error}") from error
    if not _asks_for_token() and not on_loopback():
        log.warning(
            "the Ray cluster at %s asks for no token: whoever reaches one of its ports can run anything there, and on "
            "this machine, as you. Start it with RAY_AUTH_MODE=token (see `ray get-auth-token`), and set that here",
            address,
        )


def _require_answer(address: str) -> None:
    """Refuse an address where no Ray answers. Ray would retry for minutes, during which signals are ignored.

    Addresses without a port, such as "auto", are left to Ray.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    until = time.monotonic() + ANSWER_S
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S) as connection:
                _require_rpc(connection)
            return
        except (OSError, OverflowError, ValueError) as error:  # the last two for invalid ports and names
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
            raise ServiceError(
                f"cannot reach the Ray cluster at {address!r}: no Ray answers there ({error}); give the address that "
                "`ray start --head` printed, or start it"
            ) from error


def _require_rpc(connection: socket.socket) -> None:
    """Raise :class:`OSError` if the server does not speak HTTP/2, as Ray does: a dashboard, for example."""
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    connection.sendall(_PREFACE)
    if connection.recv(_FRAME, socket.MSG_WAITALL)[3:4] != _SETTINGS:
        raise OSError("what listens is no Ray, maybe its dashboard")


def _asks_for_token() -> bool:
    from ray import _raylet  # noqa: PLC0415 (Ray shows it nowhere else)

    return bool(_raylet.get_authentication_mode() == _raylet.AuthenticationMode.TOKEN)  # type: ignore[attr-defined]


def _start(num_cpus: int, folder: Path) -> None:
    """Start a local Ray, with retries, since on a busy machine its processes can exceed Ray's limits of 15 and 30 s.

    Raises :class:`ServiceError` also if it would be reachable for others.
    """
    import ray  # noqa: PLC0415

    for attempt in range(START_ATTEMPTS):
        try:
            with turn_to_start(), uninterrupted(), _private(), marked(folder):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    _temp_dir=str(folder),
                )
        except Exception as error:  # Ray raises plain exceptions here
            ray.shutdown()
            end_processes(folder, 0)
            if attempt == START_ATTEMPTS - 1:
                free = shutil.disk_usage(folder).free
                room = f" ({folder.parent.parent} has only {free / 2**20:.0f} MiB left)" if free < _SCARCE_BYTES else ""
                raise ServiceError(
                    f"cannot start Ray on this machine, tried {START_ATTEMPTS} times{room}: {error}"
                ) from error
        else:
            break
    if not (on_loopback() and _asks_for_token()):
        raise ServiceError(
            f"Ray {ray.__version__} would be open to others (on {ray.util.get_node_ip_address()}); install the release "
            "that this version of gennape is made for"
        )


@contextmanager
def _private() -> Iterator[None]:
    """For the length of the block, new files are private to this user, and new processes listen on loopback.

    Ray reads the loopback variable on import, which may have happened before; token authentication is its default.
    """
    from ray._private import ray_constants  # noqa: PLC0415

    mask, clusters = os.umask(0o077), ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        os.umask(mask)
        ray_constants.ENABLE_RAY_CLUSTER = clusters


@contextmanager
def _environment(values: Mapping[str, str], without: tuple[str, ...]) -> Iterator[None]:
    """Set environment variables of this process and its children for the length of the block."""
    before = {name: os.environ.pop(name, None) for name in (*values, *without)}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
