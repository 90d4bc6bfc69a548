"""Options that depend on one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gennape.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def require_one(question: str, options: Mapping[str, object]) -> None:
    """Raise :class:`ConfigError`, which asks the question, unless exactly one option has a value other than None."""
    given = [option.partition(" ")[0] for option, value in options.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(f"{question} Give one of {', '.join(options)}; got {' and '.join(given) or 'none of them'}")
