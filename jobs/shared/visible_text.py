"""Text of foreign files on a terminal, which would obey what is not printable."""

from __future__ import annotations


def visible(text: str) -> str:
    """``text`` with everything but lines, tabs and printable characters written as escapes: ``\\x1b`` for an escape."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
