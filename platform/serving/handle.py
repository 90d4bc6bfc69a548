"""The client's handle of a served ensemble: it predicts populations and retries while the service is busy."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, ReplicaUnavailableError

from gennape.errors import GennapeError, ServiceError
from gennape.platform.serving.answers import Answer, OutOfTimeError, OverloadedError, joined

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.serve.handle import DeploymentHandle

    from gennape.platform.serving.config import ServingConfig
    from gennape.platform.serving.replica import Load
    from gennape.predictors.predictor import Prediction
    from gennape.search_spaces.graphs.graph import PackedGraphs

LOST = (RayActorError, ReplicaUnavailableError)
MAX_LOSSES = 6  # replicas that may die during one request before it is regarded as the cause
FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 5.0


class Backoff:
    """The backoff of one client: its pauses grow with every refusal and shrink with every answer.

    Half of each pause is random, from a generator of the client's own, so that clients that were refused together do
    not retry together. A pickled copy is another client with its own generator.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self._rng = np.random.default_rng() if rng is None else rng
        self._refusals = 0

    def __reduce__(self) -> tuple[type[Backoff], tuple[()]]:
        return Backoff, ()

    def pause(self, at_least: float = 0.0) -> float:
        """Seconds to wait after a refusal. ``at_least``: the pause that the refusal asked for."""
        longest = min(FIRST_PAUSE_S * 2.0**self._refusals, MAX_PAUSE_S)
        self._refusals = min(self._refusals + 1, 32)
        return at_least + float(self._rng.uniform(longest / 2, longest))

    def answered(self) -> None:
        """Shorten pauses after an accepted request."""
        self._refusals = max(self._refusals - 1, 0)


@dataclass(frozen=True)
class Application:
    """What is needed to replace the deployment behind a handle by another checkpoint."""

    name: str
    config: ServingConfig
    files: Mapping[str, bytes] = field(repr=False)
    load: Load


@dataclass(frozen=True)
class EnsembleHandle:
    """A served ensemble, for workers; it can be sent to Ray tasks and actors. ``url`` is None without HTTP.

    ``sha256`` belongs to the checkpoint at the time when the handle was made. An update of the service reaches every
    handle; :meth:`answer` returns which checkpoint answered. ``method`` is the deployment's handle with its method
    already selected: selecting it makes a new handle with its own router, which reports its own load, so with a
    selection per call no router would see the load that makes Serve add a replica.
    """

    sha256: str
    url: str | None
    method: DeploymentHandle[Any]
    max_graphs: int
    timeout_s: float
    application: Application | None = None
    backoff: Backoff = field(default_factory=Backoff, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without ``application``: only the serving process updates, and workers need no checkpoint files."""
        return {**self.__dict__, "application": None}

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """Predict and wait; see :meth:`gennape.predictors.predictor.Predictor.predict` and :meth:`answer`."""
        return self.answer(graphs)[0]

    def answer(self, graphs: PackedGraphs) -> tuple[Prediction, str]:
        """The prediction, and the SHA-256 of the one checkpoint that made all of it.

        Large sets are split among replicas; parts that would mix two checkpoints during an update are predicted again.
        After a refusal or the loss of a replica the request is retried, with growing random pauses. Raises
        :class:`ServiceError` when the service does not answer within ``timeout_s`` (:class:`OverloadedError` if it
        refused all that time), and the predictor's own error (such as ``InvalidGraphError``) if it refuses the graphs.
        """
        deadline = time.monotonic() + self.timeout_s
        if len(graphs) <= self.max_graphs:
            whole = self._call(graphs, deadline)
            return whole.prediction, whole.sha256
        places = np.array_split(np.arange(len(graphs)), -(-len(graphs) // self.max_graphs))
        pieces = [graphs.take(place) for place in places]
        answers = [self._call(piece, time.monotonic() + self.timeout_s) for piece in pieces]
        deadline = time.monotonic() + self.timeout_s
        while len({answer.sha256 for answer in answers}) > 1:
            newest = answers[-1].sha256
            answers = [
                answer if answer.sha256 == newest else self._call(piece, deadline)
                for piece, answer in zip(pieces, answers, strict=True)
            ]
        return joined(answers), answers[-1].sha256

    def _call(self, graphs: PackedGraphs, deadline: float) -> Answer:
        losses = 0
        while True:
            response = self._send(graphs)
            try:
                answer: Answer = response.result(timeout_s=max(deadline - time.monotonic(), 0.001))
            except (TimeoutError, GetTimeoutError) as error:
                response.cancel()
                raise _late(len(graphs), self.timeout_s) from error
            except (BackPressureError, *LOST) as error:
                losses += isinstance(error, LOST)
                pause = self.backoff.pause(_asked_for(error))
                if losses > MAX_LOSSES or time.monotonic() + pause > deadline:
                    raise _given_up(len(graphs), losses, pause, error) from error
            except (RayError, RayServeException) as error:
                raise _failure_of(error) from error
            else:
                self.backoff.answered()
                return answer
            time.sleep(pause)

    async def ask(self, graphs: PackedGraphs) -> Answer:
        """Like :meth:`answer`, but in an event loop, for at most ``max_graphs`` graphs, and without retries when busy.

        A full queue raises :class:`OverloadedError` at once; after the loss of a replica the request is retried. If the
        caller stops waiting, the replica does not start to work on it.
        """
        losses = 0
        while True:
            response = self._send(graphs)
            try:
                answer: Answer = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except BackPressureError as error:
                raise OverloadedError(
                    "the queue of the ensemble is full; send this request again later", _asked_for(error) or 1.0
                ) from error
            except LOST as error:
                losses += 1
                if losses > MAX_LOSSES:
                    raise _given_up(len(graphs), losses, 1.0, error) from error
                await asyncio.sleep(self.backoff.pause())
            except (RayError, RayServeException) as error:
                raise _failure_of(error) from error
            else:
                return answer

    def _send(self, graphs: PackedGraphs) -> Any:
        try:
            return self.method.remote(graphs)
        except (RayError, RayServeException) as error:
            raise _failure_of(error) from error


def _asked_for(error: BaseException) -> float:
    """The pause that a refusal asks for, in seconds."""
    return getattr(error, "retry_after_s", None) or 0.0


def _late(n: int, timeout_s: float) -> OutOfTimeError:
    return OutOfTimeError(
        f"no prediction of {n} graphs within {timeout_s:g} s; raise the number of replicas or the timeout, or predict "
        f"fewer graphs at a time"
    )


def _given_up(n: int, losses: int, pause: float, error: BaseException) -> ServiceError:
    if losses > MAX_LOSSES:
        return ServiceError(f"{losses} replicas were lost while they predicted {n} graphs: {brief(error)}")
    return OverloadedError(
        f"the ensemble did not take {n} graphs in time ({brief(error)}); raise the number of replicas or the timeout, "
        f"or send fewer requests at a time",
        pause,
    )


def _failure_of(error: BaseException) -> GennapeError:
    """Convert an error of Ray or of a replica: expected ones stay as they are, others become one line."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, GennapeError) else ServiceError(f"the ensemble failed: {brief(cause)}")
    return ServiceError(f"the ensemble is not being served any more: {brief(error)}")


def brief(error: BaseException) -> str:
    """An error's class and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
