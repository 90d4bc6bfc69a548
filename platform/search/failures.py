"""Outcomes of evaluations and of island steps, and how often failed steps are retried."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from gennape.errors import ServiceError

if TYPE_CHECKING:
    from pathlib import Path

#: Consecutive losses of an island in the same step after which it is assumed not to fit its machine.
LOSSES = 10
#: Failures of the same step that end the search.
FAILURES = 3
FILE = "failures.jsonl"


class Outcome(StrEnum):
    """The outcome of an evaluation (the first three), or of an island's step (the last three).

    DONE: every measure is known. INFEASIBLE: the predictor refuses the network or gives no finite value. It counts
    towards the evaluation budget and is not retried. TIMEOUT: no prediction in time. A population is halved and tried
    again; a single network that times out twice is recorded like INFEASIBLE. PREEMPTED: an island, a replica or a node
    was lost. The step is run again and does not count as a failure. FAILED: an error. The step is run again, up to
    :data:`FAILURES` times.
    """

    DONE = "DONE"
    INFEASIBLE = "INFEASIBLE"
    TIMEOUT = "TIMEOUT"
    PREEMPTED = "PREEMPTED"
    FAILED = "FAILED"


class IslandLostError(ServiceError):
    """An island, or the service it uses, was lost; its step has to be run again."""


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """A step without a result: whether it was PREEMPTED or FAILED, and the error."""

    outcome: Outcome
    error: Exception


class Failures:
    """Counts lost and failed steps, logs each in the run's folder, and ends the search after too many."""

    def __init__(self, folder: Path, islands: int) -> None:
        self._path = folder / FILE
        self._lost = [0] * islands
        self._failed = [0] * islands
        self.counts = {Outcome.PREEMPTED: 0, Outcome.FAILED: 0, Outcome.TIMEOUT: 0}

    def note(self, island: int, generation: int, loss: Loss) -> None:
        """Record a loss. Raises its error after too many in the same step of the same island."""
        self._write(loss.outcome, island, generation, str(loss.error))
        if loss.outcome is Outcome.FAILED:
            self._failed[island] += 1
            if self._failed[island] >= FAILURES:
                raise loss.error
            return
        self._lost[island] += 1
        if self._lost[island] >= LOSSES:
            raise ServiceError(
                f"island {island} was lost {LOSSES} times in generation {generation}, last by: {loss.error}; the usual "
                "cause is too little memory: try fewer islands or a smaller population"
            ) from loss.error

    def succeeded(self, island: int, generation: int, timeouts: int) -> None:
        """Record a finished step, during which ``timeouts`` requests timed out."""
        self._lost[island] = self._failed[island] = 0
        if timeouts:
            self._write(Outcome.TIMEOUT, island, generation, f"{timeouts} requests were not answered in time")

    def _write(self, outcome: Outcome, island: int, generation: int, error: str) -> None:
        self.counts[outcome] += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "state": outcome, "island": island, "generation": generation, "error": error}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
