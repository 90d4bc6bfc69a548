"""Addresses of servers, checked where they come in."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gennape.errors import ConfigError

if TYPE_CHECKING:
    from urllib.parse import SplitResult


def holds_secret(address: str) -> bool:
    """Whether an address, of whatever scheme, holds a user or password."""
    return "@" in address.partition("://")[2].partition("/")[0]


def web_address(text: str, what: str, secrets: str = "leave them out") -> SplitResult:
    """The parts of ``text``, an address http://... or https://...

    Raises :class:`ConfigError`, which says ``what`` it is the address of, for any other text and for one that holds a
    user or password: these would show in logs and in lists of processes, so that they are never repeated. ``secrets``
    tells where they belong.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:  # brackets that do not match
        parts, host = urlsplit(""), None
    if parts.scheme in ("http", "https") and host and "@" not in parts.netloc:
        return parts
    if "@" in text:
        raise ConfigError(f"{what} holds a user or password; {secrets}")
    raise ConfigError(f"{what} must be an address http://... or https://..., got {text!r}")
