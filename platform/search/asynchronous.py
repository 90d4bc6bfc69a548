"""Asynchronous islands: none waits for another, so the result depends on the order in which steps arrive."""

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
    from gennape.platform.search.search_run import SearchRun

#: A round is closed after as many generations as there are islands, or after this many seconds.
ROUND_S = 5.0


@dataclass(slots=True, eq=False)
class _OpenRound:
    """Steps since the last round was closed, and what each island has received.

    ``heard``: position in ``recent`` up to which each island is informed. ``stalled``: consecutive steps without a new
    network.
    """

    heard: list[int]
    recent: RecentArrivals = field(default_factory=RecentArrivals)
    arrived: list[Evaluations] = field(default_factory=list)
    arrivals: int = 0
    asked: int = 0
    stalled: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        return sum(map(len, self.arrived))


def run_asynchronously(run: SearchRun) -> str:
    """Process steps as they arrive until the search stops; returns the reason.

    The log is in the order of arrival. Steps that are unfinished when the last evaluation arrives are dropped.
    """
    config = run.config
    now = _OpenRound([0] * config.islands)
    if (reason := run.stop_reason(0)) is not None:
        return reason
    run.islands.send({i: run.task(i, _left(run, now)) for i in range(config.islands)}, now.recent.since(0))
    while True:
        for island, result in run.islands.receive():
            news = _take(run, now, island, result)
            _close_if_due(run, now)
            if (reason := run.stop_reason(now.stalled // config.islands)) is not None:
                return reason
            run.islands.send({island: run.task(island, _left(run, now))}, news)


def _left(run: SearchRun, now: _OpenRound) -> int:
    return run.config.evaluations - run.state.evaluations - now.rows


def _take(run: SearchRun, now: _OpenRound, island: int, result: Step | Loss) -> Measurements:
    """Record one step. Returns the measurements that its island has not received yet."""
    if isinstance(result, Loss):
        run.restart_island(island, run.state.steps[island], result, now.arrived)
        now.heard[island] = now.recent.end
        return now.recent.since(now.recent.end)
    news = now.recent.since(now.heard[island])
    fresh = np.flatnonzero(~now.recent.holds(result.evaluations.digests, now.heard[island]))
    kept = result.evaluations.take(fresh[: _left(run, now)])
    now.recent.append(measurements_of(kept))
    now.heard[island] = now.recent.end
    now.recent.forget(min(now.heard))
    now.arrived.append(kept)
    now.arrivals += 1
    now.asked += result.asked
    now.stalled = 0 if len(kept) else now.stalled + 1
    run.record_step(island, result)
    return news


def _close_if_due(run: SearchRun, now: _OpenRound) -> None:
    """Close the round if it is full, old or the last. Only closed rounds survive the death of the driver."""
    islands, waited = run.config.islands, time.monotonic() - now.since
    ending = _left(run, now) == 0 or now.stalled >= islands * run.config.patience
    if not now.arrived or (now.arrivals < islands and waited < ROUND_S and not ending):
        return
    run.close_round(concatenate([none_evaluated(len(run.space.genes), run.config.columns), *now.arrived]), now.asked)
    now.arrived, now.arrivals, now.asked, now.since = [], 0, 0, time.monotonic()
