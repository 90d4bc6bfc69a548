"""A pool of workers: Ray actors that do one task at a time, and are replaced when they die."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from gennape.errors import GennapeError, ServiceError
from gennape.platform.cluster.connection import alive_nodes
from gennape.platform.cluster.own_code import carried
from gennape.search_spaces.families.registry import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Tries of one task that may end in a dead worker, and of workers as they start.
TRIES = 3
_POLL_S = 1.0
_DEAD = (RayActorError, WorkerCrashedError, OutOfMemoryError, NodeDiedError)


@dataclass(frozen=True, slots=True)
class Allocation:
    """``workers`` in all, each on a CPU of its own."""

    workers: int

    @property
    def resources(self) -> dict[str, float]:
        """The Ray resources of one worker."""
        return {"num_cpus": 1}


@dataclass(slots=True, eq=False)
class PoolWorker:
    """An actor, the allocation it was started with, the nodes there were then, and its node once it is up."""

    actor: Any
    allocation: Allocation
    nodes: frozenset[str]
    node: str = ""


class WorkerPool(ABC, Generic[Task, Result]):
    """Hands tasks out to workers, one at a time each, and yields results.

    A worker is an object of a class that takes what :meth:`arguments` gives, then the own search spaces of this
    process, and whose method ``ready`` returns its node once it can begin. There are as many as the allocation says and
    tasks ask for. One that dies is replaced, and its task is handed out again before all others. Subclasses say how a
    task begins and ends, and what a death or an error means for it.

    Args:
        worker: The class of the workers.
        allocation: How many there are to be, and what each reserves. :attr:`allocation` may be replaced at any time:
            workers of the former one are ended when their task is.
    """

    def __init__(self, worker: type, allocation: Allocation) -> None:
        self.allocation = allocation
        self._actor_class = worker
        self._waiting: deque[Task] = deque()
        self._running: dict[Any, tuple[PoolWorker, Task | None]] = {}
        self._tries: Counter[Hashable] = Counter()
        self._false_starts = 0

    @abstractmethod
    def arguments(self) -> tuple[Any, ...]:
        """What a worker of the present allocation is made with."""

    @abstractmethod
    def begin(self, actor: Any, task: Task) -> Any:
        """Let a worker begin a task; returns Ray's reference to its answer."""

    @abstractmethod
    def finished(self, task: Task, answer: Any) -> Result:
        """The result of a task that a worker has answered."""

    @abstractmethod
    def died(self, task: Task, error: Exception) -> Result | None:
        """A worker died of a task, while its machine stayed: the task's result, or None to try it again."""

    def failed(self, worker: PoolWorker, task: Task | None, error: RayTaskError) -> Result | None:  # noqa: ARG002
        """A worker raised an error at a task, None as it started: the task's result, or None to try it again.

        It is raised unless a subclass knows better; our own errors come out as themselves.
        """
        if isinstance(error.cause, GennapeError):
            raise error.cause from None
        raise error

    def lost(self, worker: PoolWorker, task: Task | None, error: Exception) -> Result | None:
        """A worker died, at a task or as it started; returns as :meth:`died` does. Lost machines are not counted.

        Raises :class:`ServiceError` when :data:`TRIES` workers have died as they started and none has answered since.
        """
        alive = alive_nodes()
        if task is not None:
            return self.died(task, error) if worker.node in alive else None
        if worker.nodes <= alive:  # else it may have been starting on the one that is gone
            self._false_starts += 1
            if self._false_starts == TRIES:
                raise ServiceError(f"workers die as they start: {error}; see the logs of Ray") from error
        return None

    def was_last_try(self, what: Hashable) -> bool:
        """Count one more try of something that failed; whether it has had :data:`TRIES` of them."""
        self._tries[what] += 1
        return self._tries[what] >= TRIES

    @property
    def under_way(self) -> list[Task]:
        """Tasks that a worker is at."""
        return [task for _, task in self._running.values() if task is not None]

    def run(self, tasks: Iterable[Task], poll: Callable[[], None] = lambda: None) -> Generator[Result]:
        """Yield the result of each task as it is there; ``poll`` is called every second or so.

        Raises :class:`ServiceError` where workers die as they start, and what the methods of a subclass raise.
        """
        self._waiting.extend(tasks)
        try:
            self._hire()
            while self._waiting or self.under_way:
                done, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_S)
                poll()
                for reference in done:
                    result = self._answered(reference, *self._running.pop(reference))
                    if result is not None:
                        yield result
                self._hire()
        finally:
            for worker, _ in self._running.values():
                ray.kill(worker.actor)
            self._running.clear()

    def _hire(self) -> None:
        """As many workers of the present allocation as have something to do."""
        starting = sum(task is None for _, task in self._running.values())
        present = sum(worker.allocation == self.allocation for worker, _ in self._running.values())
        count = min(self.allocation.workers - present, len(self._waiting) - starting)
        if count <= 0:
            return
        actor_class: Any = ray.remote(self._actor_class)
        nodes, given = alive_nodes(), (*self.arguments(), carried(REGISTRY.registered))
        for _ in range(count):
            actor = actor_class.options(**self.allocation.resources).remote(*given)
            self._running[actor.ready.remote()] = PoolWorker(actor, self.allocation, nodes), None

    def _answered(self, reference: Any, worker: PoolWorker, task: Task | None) -> Result | None:
        """Take in what a worker gave and hand it the next task; returns the result of the one it was at, if any."""
        try:
            answer = ray.get(reference)
        except _DEAD as error:
            return self._result_or_again(task, self.lost(worker, task, error))
        except RayTaskError as error:
            ray.kill(worker.actor)  # after an error a GPU may be of no more use to its process
            return self._result_or_again(task, self.failed(worker, task, error))
        self._false_starts, result = 0, None
        if task is None:
            worker.node = answer
        else:
            result = self.finished(task, answer)
        if self._waiting and worker.allocation == self.allocation:
            following = self._waiting.popleft()
            self._running[self.begin(worker.actor, following)] = worker, following
        else:
            ray.kill(worker.actor)
        return result

    def _result_or_again(self, task: Task | None, result: Result | None) -> Result | None:
        if task is not None and result is None:
            self._waiting.appendleft(task)
        return result
