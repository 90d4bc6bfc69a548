"""How many examples hypothesis draws of what takes seconds: all of them in the nightly run, a quarter otherwise.

The nightly run says ``--hypothesis-profile nightly``, which ``tests/conftest.py`` registers.
"""

from __future__ import annotations

from hypothesis import settings

NIGHTLY = "nightly"


def examples(count: int) -> int:
    """``count`` in the nightly run; a quarter of them, and at least three, otherwise."""
    return count if settings.get_current_profile_name() == NIGHTLY else max(3, count // 4)
