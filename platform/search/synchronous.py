"""Islands in step: all finish a generation before any starts the next, and the seed alone decides."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gennape.platform.search.evaluations import concatenate, first_of_each
from gennape.platform.search.failures import Loss, Outcome
from gennape.platform.search.log import read_measurements
from gennape.platform.search.seen import measurements_of, no_measurements

if TYPE_CHECKING:
    from gennape.platform.search.islands import Step, Task
    from gennape.platform.search.rounds import Rounds
    from gennape.platform.search.seen import Measurements


def run_in_step(rounds: Rounds) -> str:
    """Generation by generation to the end; returns the reason for it.

    Of a network that two islands found at once, the first island's counts; an answer that only one of them got is given
    to the other too. An island that is lost runs its step again while the others keep theirs: a step is a function of
    the searcher's state and of what the island was told.
    """
    config, state = rounds.config, rounds.state
    news = no_measurements()  # of before, all islands were told as they started
    while (reason := rounds.reason_to_end(state.idle)) is None:
        tasks = _tasks(rounds)
        steps = _with_shared_results(rounds, tasks, _advance(rounds, tasks, news))
        for island, step in steps.items():
            rounds.done(island, step)
        rounds.close(
            first_of_each(concatenate([steps[i].evaluations for i in range(config.islands)])),
            sum(step.asked for step in steps.values()),
            cut=any(len(step.evaluations) >= tasks[i].quota for i, step in steps.items()),
        )
        news = measurements_of(state.news)
    return reason


def _tasks(rounds: Rounds) -> dict[int, Task]:
    """What each island does next; the quotas add up to what is left, so that the total is never overshot.

    After rounds in which nothing was found the remainder goes to other islands, lest it stay with one that has
    converged. A generation that the log holds, though the state does not, is run again with the recorded answers.
    """
    config, state = rounds.config, rounds.state
    share, rest = divmod(config.evaluations - state.evaluations, config.islands)
    recorded = rounds.recorded()
    quotas = [share + ((i - state.idle) % config.islands < rest) for i in range(config.islands)]
    return {i: rounds.task(i, quota, recorded) for i, quota in enumerate(quotas)}


def _advance(rounds: Rounds, tasks: dict[int, Task], news: Measurements) -> dict[int, Step]:
    steps: dict[int, Step] = {}
    rounds.islands.send(tasks, news)
    while len(steps) < len(tasks):
        for island, result in rounds.islands.receive():
            if isinstance(result, Loss):
                rounds.lost(island, tasks[island].generation, result)
                rounds.islands.send({island: tasks[island]}, no_measurements())
            else:
                steps[island] = result
    return steps


def _with_shared_results(rounds: Rounds, tasks: dict[int, Task], steps: dict[int, Step]) -> dict[int, Step]:
    """The steps, run again where another island has the answer to a network that this one has none of.

    The searcher is then told what the log will say, as it would be if the search were continued from the log.
    """
    found = concatenate([steps[i].evaluations for i in sorted(steps)])
    finished = found.take(found.states == Outcome.DONE)
    late = [i for i, step in sorted(steps.items()) if _lacks_results_of(step, finished.hashes)]
    if not late:
        return steps
    recorded = first_of_each(concatenate([finished, found]))
    states = rounds.state.searchers
    rounds.islands.start({i: states[i] for i in late}, read_measurements(rounds.folder, rounds.state.rounds))
    again = _advance(rounds, {i: replace(tasks[i], recorded=recorded) for i in late}, no_measurements())
    return steps | {i: replace(step, timeouts=steps[i].timeouts) for i, step in again.items()}


def _lacks_results_of(step: Step, finished: np.ndarray) -> bool:
    """Whether a step has no answer to any of some networks."""
    mine = step.evaluations
    return bool(np.isin(mine.hashes[mine.states != Outcome.DONE], finished).any())
