"""Admission control: the number of concurrent requests, and when refused ones should retry."""

from __future__ import annotations

import math
import time

from gennape.platform.serving.answers import OverloadedError


class Gate:
    """Admits at most ``most`` requests at a time, and computes when refused ones should retry."""

    MAX_WAIT_S = 30
    _MEMORY = 0.9  # weight of the former mean, at each departure

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0
        self._pace_s = 0.0  # mean time between departures while others wait
        self._left: float | None = None

    def enter(self) -> None:
        """Take a slot, which :meth:`leave` releases; raises :class:`OverloadedError` when none is free."""
        if self.inside >= self.most:
            raise OverloadedError(
                f"{self.inside} requests are in progress, as many as are taken at a time; send this one again later",
                self.retry_after_s,
            )
        self.inside += 1

    def leave(self) -> None:
        """Release a slot."""
        now = time.monotonic()
        if self._left is not None:
            self._pace_s = self._MEMORY * self._pace_s + (1 - self._MEMORY) * (now - self._left)
        self.inside -= 1
        self._left = now if self.inside else None  # idle time says nothing about the throughput

    @property
    def retry_after_s(self) -> int:
        """The estimated time until all admitted requests are done, in whole seconds from 1 to ``MAX_WAIT_S``."""
        return min(max(1, math.ceil(self._pace_s * self.inside)), self.MAX_WAIT_S)
