"""Islands as Ray actors, spread over a cluster."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from gennape.errors import GennapeError
from gennape.platform.cluster.own_code import carried
from gennape.platform.search.failures import IslandLostError, Loss, Outcome
from gennape.platform.search.islands import Island, loss_by
from gennape.platform.search.measures import REGISTRY as MEASURES
from gennape.platform.search.searchers.registry import REGISTRY as SEARCHERS
from gennape.search_spaces.families.registry import REGISTRY as FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.evaluator import Evaluator
    from gennape.platform.search.islands import Step, Task
    from gennape.platform.search.searchers.base import State
    from gennape.platform.search.seen import Measurements

WATCH_S = 2.0


class _Host:
    """An actor, which imports what an island needs when it starts, and gets its island afterwards."""

    def __init__(self) -> None:
        import gennape.platform.serving.handle  # noqa: F401, PLC0415 (what the island will ask through)

    def settle(self, *island: Any) -> None:
        """Make the island, from the arguments of :class:`Island`."""
        self._island = Island(*island)

    def restore(self, state: State | None, measurements: Measurements) -> None:
        """See :meth:`Island.restore`."""
        self._island.restore(state, measurements)

    def advance(self, task: Task, news: Measurements) -> Step:
        """See :meth:`Island.advance`."""
        return self._island.advance(task, news)


class RayIslands:
    """Islands as Ray actors, spread over the cluster. Use as a context manager, which ends the actors.

    ``evaluator`` may be set later, before :meth:`start`.

    Each reserves a quarter of a CPU, or less if all islands would otherwise take more than half of the cluster. An
    island that finds no free CPU, as after the loss of a node, waits for one. ``watch`` is called every few seconds
    while islands are running; an error that it raises ends the wait for them.
    """

    def __init__(
        self, config: SearchConfig, evaluator: Evaluator | None, watch: Callable[[], None] = lambda: None
    ) -> None:
        self.config = config
        self.evaluator = evaluator
        self.watch = watch
        self.actors: dict[int, Any] = {}
        self._idle: list[Any] = []  # actors without an island
        self._restored: dict[int, list[Any]] = {}  # calls that the first step of each actor waits for
        self._running: dict[Any, int] = {}

    def __enter__(self) -> RayIslands:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def prepare(self) -> None:
        """Start the actors' processes, which import while the predictor starts."""
        self._idle = [self._new_actor() for _ in range(self.config.islands)]

    def start(self, states: Mapping[int, State | None], measurements: Measurements) -> None:
        """Start or restart islands from stored states; the measurements are put into the object store once."""
        shared = ray.put(measurements)
        own = carried(FAMILIES.registered), carried(SEARCHERS.registered), carried(MEASURES.registered)
        for i, state in states.items():
            self._end(i)
            actor = self.actors[i] = self._idle.pop() if self._idle else self._new_actor()
            settled = actor.settle.remote(self.config, i, self.evaluator, *own)
            self._restored[i] = [settled, actor.restore.remote(state, shared)]

    def _new_actor(self) -> Any:
        share = ray.cluster_resources().get("CPU", 1) / (2 * self.config.islands)  # type: ignore[no-untyped-call]
        cpus = max(0.001, math.floor(1000 * min(0.25, share)) / 1000)
        return ray.remote(num_cpus=cpus, scheduling_strategy="SPREAD")(_Host).remote()

    def send(self, tasks: Mapping[int, Task], news: Measurements) -> None:
        """Call the actors; news for several of them are put into the object store once."""
        shared = ray.put(news) if len(tasks) > 1 else news
        self._running |= {self.actors[i].advance.remote(task, shared): i for i, task in tasks.items()}

    def receive(self) -> list[tuple[int, Step | Loss]]:
        """Block until at least one call finishes; returns all that have finished."""
        calls = list(self._running)
        while not ray.wait(calls, num_returns=1, timeout=WATCH_S)[0]:
            self.watch()
        ended, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        islands = [(self._running.pop(call), call) for call in ended]
        return [(i, _result([*self._restored[i], call])) for i, call in sorted(islands)]

    def stop(self) -> None:
        """End the actors."""
        for i in list(self.actors):
            self._end(i)
        while self._idle:
            ray.kill(self._idle.pop())

    def _end(self, island: int) -> None:
        self._running = {call: i for call, i in self._running.items() if i != island}
        if island in self.actors:
            ray.kill(self.actors.pop(island))


def most_replicas(islands: int) -> int:
    """Maximum number of predictor replicas: one per island, on at most half of the cluster's CPUs."""
    cpus = ray.cluster_resources().get("CPU", 0) if ray.is_initialized() else 0  # type: ignore[no-untyped-call]
    return max(2, min(islands, int(cpus) // 2))


def _result(calls: list[Any]) -> Step | Loss:
    """The result of the last of an actor's calls, or the loss if any of them failed."""
    try:
        step: Step = ray.get(calls)[-1]
    except RayTaskError as error:
        return loss_by(error.cause) if isinstance(error.cause, GennapeError) else Loss(Outcome.FAILED, error)
    except RayError as error:
        return Loss(Outcome.PREEMPTED, IslandLostError(f"an island's process died: {error}"))
    return step
