"""How an evaluation or a step of an island may end, and when the search stops trying."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from gennape.errors import ServiceError

if TYPE_CHECKING:
    from pathlib import Path

#: Lost this often in a row, in one and the same step, an island is not preempted but does not fit its machine.
LOSSES = 10
#: A step that failed this often ends the search.
FAILURES = 3
FILE = "failures.jsonl"


class Outcome(StrEnum):
    """The end of an evaluation (the first three), or of a step of an island (the last three).

    DONE: every measure is known. INFEASIBLE: the predictor refuses the network or has no finite value for it: that is
    an answer, paid from the budget, never asked again. TIMEOUT: no answer in time; of a whole population it is asked
    again in halves, of one network alone and late again it is recorded like INFEASIBLE. PREEMPTED: an island, a
    replica or a node was lost: the step is run again and nothing is counted. FAILED: an error: run again, counted.
    """

    DONE = "DONE"
    INFEASIBLE = "INFEASIBLE"
    TIMEOUT = "TIMEOUT"
    PREEMPTED = "PREEMPTED"
    FAILED = "FAILED"


class IslandLostError(ServiceError):
    """An island, or the service it asks, was lost; its step has to be run again."""


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """A step without a result: PREEMPTED or FAILED, and why."""

    outcome: Outcome
    error: Exception


class Failures:
    """Counts losses and failures of steps, writes each down in the run's folder, and says when to stop trying."""

    def __init__(self, folder: Path, islands: int) -> None:
        self._path = folder / FILE
        self._lost = [0] * islands
        self._failed = [0] * islands
        self.counts = {Outcome.PREEMPTED: 0, Outcome.FAILED: 0, Outcome.TIMEOUT: 0}

    def note(self, island: int, generation: int, loss: Loss) -> None:
        """Take in a loss; raises what was lost by, once too often in this step of this island."""
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
        """A step came to its end, its evaluator having been late ``timeouts`` times."""
        self._lost[island] = self._failed[island] = 0
        if timeouts:
            self._write(Outcome.TIMEOUT, island, generation, f"{timeouts} requests were not answered in time")

    def _write(self, outcome: Outcome, island: int, generation: int, error: str) -> None:
        self.counts[outcome] += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "state": outcome, "island": island, "generation": generation, "error": error}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
