"""Synchronous islands: all finish a generation before any starts the next, so the seed decides the result."""

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
    from gennape.platform.search.search_run import SearchRun
    from gennape.platform.search.seen import Measurements


def run_synchronously(run: SearchRun) -> str:
    """Run generation by generation until the search stops; returns the reason.

    Where two islands find the same network at once, the evaluation of the first island counts; if only one of them got
    a prediction, the other one receives it. A lost island repeats its step while the others keep theirs: a step depends
    only on the searcher's state and on the measurements that the island received.
    """
    config, state = run.config, run.state
    news = no_measurements()  # islands received all earlier ones when they started
    while (reason := run.stop_reason(state.stalled)) is None:
        tasks = _tasks(run)
        steps = _with_shared_results(run, tasks, _advance(run, tasks, news))
        for island, step in steps.items():
            run.record_step(island, step)
        run.close_round(
            first_of_each(concatenate([steps[i].evaluations for i in range(config.islands)])),
            sum(step.asked for step in steps.values()),
            cut=any(len(step.evaluations) >= tasks[i].quota for i, step in steps.items()),
        )
        news = measurements_of(state.news)
    return reason


def _tasks(run: SearchRun) -> dict[int, Task]:
    """The next task of each island. Quotas add up to the remaining budget, so the total is never exceeded.

    After rounds without a new network the remainder moves on to other islands, so that it does not stay with one that
    has converged. A generation that is in the log but not in the state is run again with the recorded evaluations.
    """
    config, state = run.config, run.state
    share, rest = divmod(config.evaluations - state.evaluations, config.islands)
    recorded = run.recorded()
    quotas = [share + ((i - state.stalled) % config.islands < rest) for i in range(config.islands)]
    return {i: run.task(i, quota, recorded) for i, quota in enumerate(quotas)}


def _advance(run: SearchRun, tasks: dict[int, Task], news: Measurements) -> dict[int, Step]:
    steps: dict[int, Step] = {}
    run.islands.send(tasks, news)
    while len(steps) < len(tasks):
        for island, result in run.islands.receive():
            if isinstance(result, Loss):
                run.restart_island(island, tasks[island].generation, result)
                run.islands.send({island: tasks[island]}, no_measurements())
            else:
                steps[island] = result
    return steps


def _with_shared_results(run: SearchRun, tasks: dict[int, Task], steps: dict[int, Step]) -> dict[int, Step]:
    """The steps; islands that lack a prediction which another island has run theirs again with it.

    Their searchers then learn what the log will contain, exactly as if the search were resumed from the log.
    """
    found = concatenate([steps[i].evaluations for i in sorted(steps)])
    finished = found.take(found.states == Outcome.DONE)
    late = [i for i, step in sorted(steps.items()) if _lacks_results_of(step, finished.hashes)]
    if not late:
        return steps
    recorded = first_of_each(concatenate([finished, found]))
    states = run.state.searchers
    run.islands.start({i: states[i] for i in late}, read_measurements(run.folder, run.state.rounds))
    again = _advance(run, {i: replace(tasks[i], recorded=recorded) for i in late}, no_measurements())
    return steps | {i: replace(step, timeouts=steps[i].timeouts) for i, step in again.items()}


def _lacks_results_of(step: Step, finished: np.ndarray) -> bool:
    """Whether a step has no prediction for at least one of these networks, given by their hashes."""
    mine = step.evaluations
    return bool(np.isin(mine.hashes[mine.states != Outcome.DONE], finished).any())
