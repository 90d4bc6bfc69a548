"""How many requests may be under way at a time, and when those that are refused should come again."""

from __future__ import annotations

import math
import time

from gennape.platform.serving.answers import OverloadedError


class Gate:
    """Lets at most ``most`` requests in at a time, and tells those it refuses when to come again."""

    MAX_WAIT_S = 30
    _MEMORY = 0.9  # of what the pace was, at each departure

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0
        self._pace_s = 0.0  # mean time between departures while others wait
        self._left: float | None = None

    def enter(self) -> None:
        """Take a place, to be given back by :meth:`leave`; raises :class:`OverloadedError` when none is free."""
        if self.inside >= self.most:
            raise OverloadedError(
                f"{self.inside} requests are in progress, as many as are taken at a time; send this one again later",
                self.retry_after_s,
            )
        self.inside += 1

    def leave(self) -> None:
        """Give a place back."""
        now = time.monotonic()
        if self._left is not None:
            self._pace_s = self._MEMORY * self._pace_s + (1 - self._MEMORY) * (now - self._left)
        self.inside -= 1
        self._left = now if self.inside else None  # a pause without requests says nothing of the pace

    @property
    def retry_after_s(self) -> int:
        """About how long those inside take, in whole seconds, at least 1 and at most ``MAX_WAIT_S``."""
        return min(max(1, math.ceil(self._pace_s * self.inside)), self.MAX_WAIT_S)
