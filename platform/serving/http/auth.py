"""Authentication: on loopback anyone may send requests, elsewhere only holders of the token."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING

from gennape.addresses import is_loopback
from gennape.errors import ServiceError
from gennape.search_spaces.files.bounded import read_regular

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "GENNAPE_TOKEN"  # noqa: S105 (the name of the variable, not its value)
SHORTEST = 16
#: Maximum size of a token file, bytes.
_LARGEST = 1 << 16


def read_token(file: Path | None = None) -> str | None:
    """The bearer token in ``file``, else in the environment's ``GENNAPE_TOKEN``, else None.

    It is never taken from the command line, which every user of the machine can read.
    Raises :class:`ServiceError` for a file that cannot be read, and for a token that is short or not printable ASCII.
    """
    if file is None:
        token, source = os.environ.get(TOKEN), f"the environment's {TOKEN}"
    else:
        try:
            token, source = read_regular(file, _LARGEST).decode(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or error
            raise ServiceError(f"cannot read the token in {file}: {reason}; name a file that holds it") from error
    if token is None:
        return None
    token = token.strip()
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ServiceError(
            f"the token in {source} must be at least {SHORTEST} printable ASCII characters without spaces, got "
            f"{len(token)} characters; make one with: openssl rand -hex 32"
        )
    return token


def require_token(host: str, token: str | None) -> None:
    """Raise :class:`ServiceError` if ``host`` is reachable from other machines and there is no token."""
    if token is None and not is_loopback(host):
        raise ServiceError(
            f"{host} can be reached from other machines, so a bearer token is required, and none is set; put one of at "
            f"least {SHORTEST} characters into the environment's {TOKEN} or into a file (--token-file FILE), "
            "or serve on 127.0.0.1"
        )


def is_authorised(header: str | None, token: str | None) -> bool:
    """Whether an ``Authorization`` header carries ``token``, compared in constant time."""
    if token is None:
        return True
    scheme, _, given = (header or "").partition(" ")
    right = hmac.compare_digest(_digest(given.strip()), _digest(token))
    return right and scheme.lower() == "bearer"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
