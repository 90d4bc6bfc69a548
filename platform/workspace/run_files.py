"""JSON files of a run folder, written with digests of their fields and verified by them."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from gennape.errors import WorkspaceError
from gennape.search_spaces.files.bounded import read_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)
#: The field that holds the digest of every other one.
DIGESTS = "digests"
_MAX_BYTES = 1 << 30
_ABSENT = object()
#: The remedy for a file whose content is stored nowhere else.
_RESTORE = "restore it from a copy"

#: Digests of values by field name.
Digests = dict[str, str]


def read_json(path: Path, remedy: str = _RESTORE) -> Any:
    """Read JSON; raises :class:`WorkspaceError`, ending in ``remedy``, when the file is absent, not a regular file, or
    not JSON."""
    try:
        return json.loads(read_regular(path, _MAX_BYTES))
    except FileNotFoundError:
        raise WorkspaceError(f"{path} does not exist; is {path.parent} a run folder of gennape?") from None
    except OSError as error:
        raise WorkspaceError(f"cannot read {path}: {error.strerror or error}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise WorkspaceError(f"cannot read {path}: it is no JSON ({error}); {remedy}") from error


def read_as(path: Path, kind: Any, what: str, remedy: str = _RESTORE) -> Any:
    """Read JSON of a pydantic type; raises :class:`WorkspaceError`, which calls the file ``what``."""
    return checked(path, read_json(path, remedy), kind, what, remedy)


def checked(path: Path, value: Any, kind: Any, what: str, remedy: str = _RESTORE) -> Any:
    """Validate ``value``, read from ``path``, as a pydantic type in strict mode.

    Raises :class:`WorkspaceError`, which calls it ``what``, says which part is wrong, and ends in ``remedy``.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        shown = repr(first["input"])
        shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
        raise WorkspaceError(
            f"{path} does not hold {what}: {where}{': ' if where else ''}{first['msg']}, got {shown}; {remedy}"
        ) from error


def digests_of(fields: Mapping[str, Any]) -> Digests:
    """The digest of each field's value."""
    return {name: _digest(value) for name, value in fields.items()}


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()


def refuse_edited(path: Path, fields: Mapping[str, Any], digests: Mapping[str, str], remedy: str) -> None:
    """Raise :class:`WorkspaceError` naming the fields that do not match their digests."""
    found = digests_of(fields)
    differing = [name for name in sorted({*found, *digests}) if found.get(name) != digests.get(name)]
    if differing:
        told = "; ".join(_told(name, fields.get(name, _ABSENT), name in digests) for name in differing[:5])
        raise WorkspaceError(f"{path} was edited or damaged: {told}; {remedy}")


def _told(name: str, value: object, known: bool) -> str:
    if value is _ABSENT:
        return f"{name} is missing"
    shown = repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:100]}…"
    return f"{name} is {shown} now" if known else f"{name} ({shown}) was added"


@cache  # once for each file
def warn_of_age(path: Path) -> None:
    """Warn that a file was written by a version without digests."""
    log.warning("%s was written by an older gennape, without digests; an edited value would not be noticed", path)
