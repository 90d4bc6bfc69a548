"""Addresses of servers, checked where they come in."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus, urlsplit

from gennape.errors import ConfigError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_SECRET = re.compile(r"token|key|secret|pass|pwd|sig|cred|auth|session|jwt|bearer", re.IGNORECASE)
_RANDOM = re.compile(r"[A-Za-z0-9+/=_]{20,}")


def holds_secret(address: str) -> bool:
    """Whether an address, of whatever scheme, holds a user or password, or a token after ``?`` or ``#``."""
    rest = address.partition("://")[2]
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        return True
    values = re.split(r"[?#&;]", rest)[1:]
    return any(_is_secret(*map(unquote_plus, value.partition("=")[::2])) for value in values)


def without_query(address: str) -> str:
    """An address as far as it may be shown: what follows ``?`` or ``#`` may be a secret."""
    shown = re.split(r"[?#]", address, maxsplit=1)[0]
    return shown if shown == address else f"{shown}?..."


def _is_secret(name: str, value: str) -> bool:
    """Whether a value is called a secret or looks like one: long, of letters and digits as chance gives them."""
    if not value:
        name, value = "", name
    random = any(re.search(r"\d", part) and re.search(r"[A-Za-z]", part) for part in _RANDOM.findall(value))
    return random or bool(_SECRET.search(name))


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
    raise ConfigError(f"{what} must be an address http://... or https://..., got {without_query(text)!r}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
