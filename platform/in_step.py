"""Islands in step: all finish a generation before any starts the next, and the seed alone decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gennape.platform.archive import concatenate, first_of_each
from gennape.platform.evaluation_log import count_shards, read_shard
from gennape.platform.failures import Loss
from gennape.platform.known import findings_of, no_findings

if TYPE_CHECKING:
    from gennape.platform.islands import Step, Task
    from gennape.platform.known import Findings
    from gennape.platform.rounds import Rounds


def run_in_step(rounds: Rounds) -> str:
    """Generation by generation to the end; returns the reason for it.

    Of a network that two islands found at once, the first island's counts. An island that is lost runs its step again
    while the others keep theirs: a step is a function of the searcher's state and of what the island was told.
    """
    config, state = rounds.config, rounds.state
    news = no_findings()  # of before, all islands were told as they started
    while (reason := rounds.reason_to_end(state.idle)) is None:
        steps = _advance(rounds, _tasks(rounds), news)
        rounds.close(
            first_of_each(concatenate([steps[i].evaluations for i in range(config.islands)])),
            sum(step.asked for step in steps.values()),
        )
        news = findings_of(state.news)
    return reason


def _tasks(rounds: Rounds) -> dict[int, Task]:
    """What each island does next; the quotas add up to what is left, so that the total is never overshot.

    A generation that the log holds, though the state does not, is run again with the recorded answers.
    """
    config, state = rounds.config, rounds.state
    share, rest = divmod(config.evaluations - state.evaluations, config.islands)
    recorded = read_shard(rounds.folder, state.rounds) if state.rounds < count_shards(rounds.folder) else None
    return {i: rounds.task(i, share + (i < rest), recorded) for i in range(config.islands)}


def _advance(rounds: Rounds, tasks: dict[int, Task], news: Findings) -> dict[int, Step]:
    steps: dict[int, Step] = {}
    rounds.islands.send(tasks, news)
    while len(steps) < len(tasks):
        for island, result in rounds.islands.receive():
            if isinstance(result, Loss):
                rounds.lost(island, tasks[island].generation, result)
                rounds.islands.send({island: tasks[island]}, no_findings())
            else:
                steps[island] = result
    for island, step in steps.items():
        rounds.done(island, step)
    return steps
