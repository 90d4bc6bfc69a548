"""Free islands: none waits for another, and what each hears depends on what has arrived by then."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gennape.platform.search.evaluations import concatenate, none_evaluated
from gennape.platform.search.failures import Loss
from gennape.platform.search.seen import Measurements, RecentArrivals, measurements_of

if TYPE_CHECKING:
    from gennape.platform.search.evaluations import Evaluations
    from gennape.platform.search.islands import Step
    from gennape.platform.search.rounds import Rounds

#: A round is closed after as many generations as there are islands, or after so many seconds.
ROUND_S = 5.0


@dataclass(slots=True, eq=False)
class _Open:
    """What has arrived since the last round was closed, and what each island has heard.

    ``heard``: how far in the ``recent`` each island has been told. ``idle``: arrivals in a row without a new network.
    """

    heard: list[int]
    recent: RecentArrivals = field(default_factory=RecentArrivals)
    arrived: list[Evaluations] = field(default_factory=list)
    arrivals: int = 0
    asked: int = 0
    idle: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        return sum(map(len, self.arrived))


def run_freely(rounds: Rounds) -> str:
    """Steps as they arrive, to the end; returns the reason for it.

    The log is in the order of arrival. What islands are still at work on when the last evaluation arrives is dropped.
    """
    config = rounds.config
    now = _Open([0] * config.islands)
    if (reason := rounds.reason_to_end(0)) is not None:
        return reason
    rounds.islands.send({i: rounds.task(i, _left(rounds, now)) for i in range(config.islands)}, now.recent.since(0))
    while True:
        for island, result in rounds.islands.receive():
            news = _take(rounds, now, island, result)
            _close_if_due(rounds, now)
            if (reason := rounds.reason_to_end(now.idle // config.islands)) is not None:
                return reason
            rounds.islands.send({island: rounds.task(island, _left(rounds, now))}, news)


def _left(rounds: Rounds, now: _Open) -> int:
    return rounds.config.evaluations - rounds.state.evaluations - now.rows


def _take(rounds: Rounds, now: _Open, island: int, result: Step | Loss) -> Measurements:
    """Take in one arrival; returns what the island has to hear."""
    if isinstance(result, Loss):
        rounds.lost(island, rounds.state.steps[island], result, now.arrived)
        now.heard[island] = now.recent.end
        return now.recent.since(now.recent.end)
    news = now.recent.since(now.heard[island])
    fresh = np.flatnonzero(~now.recent.holds(result.evaluations.digests, now.heard[island]))
    kept = result.evaluations.take(fresh[: _left(rounds, now)])
    now.recent.append(measurements_of(kept))
    now.heard[island] = now.recent.end
    now.recent.forget(min(now.heard))
    now.arrived.append(kept)
    now.arrivals += 1
    now.asked += result.asked
    now.idle = 0 if len(kept) else now.idle + 1
    rounds.done(island, result)
    return news


def _close_if_due(rounds: Rounds, now: _Open) -> None:
    """What closes a round makes it durable: later arrivals are computed again after the driver's death."""
    islands, waited = rounds.config.islands, time.monotonic() - now.since
    ending = _left(rounds, now) == 0 or now.idle >= islands * rounds.config.patience
    if not now.arrived or (now.arrivals < islands and waited < ROUND_S and not ending):
        return
    rounds.close(concatenate([none_evaluated(len(rounds.space.genes)), *now.arrived]), now.asked)
    now.arrived, now.arrivals, now.asked, now.since = [], 0, 0, time.monotonic()
