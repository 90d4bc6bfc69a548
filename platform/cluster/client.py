"""A client of Ray's job API, with token authentication and errors of gennape."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gennape.addresses import web_address
from gennape.errors import ServiceError
from gennape.platform.cluster.connection import tighten_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray.job_submission import JobSubmissionClient

REQUEST_TIMEOUT_S = (10.0, 120.0)  # to connect, and to answer; Ray has no time limit
_TOKENS = "copy the cluster's ~/.ray/auth_token here, or set RAY_AUTH_TOKEN"
_BESIDE = (
    "Beside another Ray, yours has its dashboard on the next free port, as `ray start` says: give it with "
    "--address http://127.0.0.1:8266"
)
_RAYS_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def connect(address: str) -> JobSubmissionClient:
    """A client of the dashboard at ``address``. It sends the cluster's token if this machine has one."""
    web_address(address, "--address, where the cluster's dashboard listens (port 8265),", _TOKENS)
    with _token_mode():
        return _client(address)


def _client(address: str) -> JobSubmissionClient:
    # Imported here, since Ray reads the mode on import.
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):
        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, timeout=REQUEST_TIMEOUT_S, **kwargs)

    tighten_token()
    with asking(address), _without(_RAYS_ADDRESSES):
        return Client(address)


@contextmanager
def _token_mode() -> Iterator[None]:
    """Let Ray send the token if this machine has one; processes that are started later need not ask for it."""
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
    """Remove variables from the environment for the length of the block; Ray gives them precedence over arguments."""
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


@contextmanager
def asking(address: str, unknown: ServiceError | None = None) -> Iterator[None]:
    """Turn Ray's errors into one-line errors of gennape; ``unknown`` is raised for a job that does not exist."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if unknown is not None and "status code 404" in str(error):
            raise unknown from error
        hint = (
            f"is it the dashboard's port (8265), and forwarded to this machine (ray dashboard cluster.yaml)? {_BESIDE}"
        )
        raise ServiceError(f"cannot use the cluster at {address}: {first_line(error).rstrip('.')}; {hint}") from error
    except Exception as error:
        from ray.exceptions import AuthenticationError  # noqa: PLC0415

        if not isinstance(error, AuthenticationError):
            raise
        raise ServiceError(
            f"the cluster at {address} wants a token and does not accept this machine's: "
            f"{first_line(error).partition('. Ensure')[0]}; {_TOKENS}. {_BESIDE}"
        ) from error


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
