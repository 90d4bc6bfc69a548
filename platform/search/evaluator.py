"""Evaluate a population even if the predictor refuses some of its networks or times out on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gennape.errors import InvalidArchitectureError, InvalidDataError, InvalidGraphError, ServiceError
from gennape.platform.search.evaluations import stacked
from gennape.platform.search.failures import IslandLostError, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float64

    from gennape.predictors.predictor import Prediction
    from gennape.search_spaces.graphs.graph import PackedGraphs

#: Timeouts of a network that is evaluated alone, after which it is recorded as TIMEOUT.
MAX_TIMEOUTS_PER_NETWORK = 2
#: Timeouts in one population before its step fails: enough to find two networks of hundreds that always time out.
MAX_TIMEOUTS = 24
_REFUSALS = (InvalidGraphError, InvalidArchitectureError, InvalidDataError)


class Evaluator(Protocol):
    """Anything that predicts a population in one call: the handle of a served ensemble, or a predictor."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """One row per graph, independent of the other graphs.

        May raise ``InvalidGraphError``, ``InvalidDataError`` or ``InvalidArchitectureError`` to refuse some of them,
        and ``TimeoutError``.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PopulationResult:
    """One row per graph: ``accuracy`` [g] in percent and ``memberships`` [g, c], NaN without a prediction;
    ``deviation`` [g] in percent, NaN also where the predictor gives none; ``states`` [g], an :class:`Outcome` each.
    ``heads`` [g] each: what heads beside the predictor say, by name, NaN without a prediction. ``timeouts``: requests
    that timed out."""

    accuracy: Float64[np.ndarray, " g"]
    memberships: Float64[np.ndarray, "g c"]
    deviation: Float64[np.ndarray, " g"]
    states: np.ndarray
    timeouts: int
    heads: Mapping[str, Float64[np.ndarray, " g"]] = field(default_factory=dict)

    def take(self, rows: np.ndarray) -> PopulationResult:
        """Some rows, by index."""
        columns = (self.accuracy[rows], self.memberships[rows], self.deviation[rows], self.states[rows])
        return PopulationResult(*columns, self.timeouts, {name: head[rows] for name, head in self.heads.items()})


def concatenate_results(first: PopulationResult, second: PopulationResult) -> PopulationResult:
    """The rows of both. Memberships are padded with NaN to the larger number of clusters."""
    return PopulationResult(
        np.concatenate([first.accuracy, second.accuracy]),
        stacked([first.memberships, second.memberships]),
        np.concatenate([first.deviation, second.deviation]),
        np.concatenate([first.states, second.states]),
        first.timeouts + second.timeouts,
        {name: np.concatenate([first.heads[name], second.heads[name]]) for name in first.heads},
    )


def evaluate_population(evaluator: Evaluator, graphs: PackedGraphs, heads: Sequence[str] = ()) -> PopulationResult:
    """Predict all graphs in one call; refused or late sets are halved and tried again, down to single networks.

    ``heads``: names of the heads whose predictions are wanted. Raises :class:`IslandLostError` when the service was
    lost, :class:`ServiceError` after :data:`MAX_TIMEOUTS`, and any other error of the evaluator.
    """
    accuracy, states = np.full(len(graphs), np.nan), np.full(len(graphs), Outcome.DONE, "U10")
    deviation, memberships = np.full(len(graphs), np.nan), dict[int, np.ndarray]()
    beside = {name: np.full(len(graphs), np.nan) for name in heads}
    parts, timeouts, late = [np.arange(len(graphs))], 0, np.zeros(len(graphs), np.int64)
    while parts and len(graphs):
        rows = parts.pop()
        result = _predict(evaluator, graphs if len(rows) == len(graphs) else graphs.take(rows))
        if not isinstance(result, Outcome):
            accuracy[rows] = result.accuracy
            deviation[rows] = np.nan if result.deviation is None else result.deviation
            for name, column in beside.items():
                column[rows] = _head(result, name)
            memberships |= dict(zip(rows.tolist(), np.asarray(result.memberships, np.float64), strict=True))
            continue
        if result is Outcome.TIMEOUT:
            timeouts += 1
            late[rows] += len(rows) == 1
            if timeouts > MAX_TIMEOUTS:
                raise ServiceError(
                    f"the predictor was late {timeouts} times in one population of {len(graphs)}; "
                    "add replicas, or make the population smaller"
                )
        if len(rows) > 1:
            parts += np.array_split(rows, 2)[::-1]
        elif result is Outcome.TIMEOUT and late[rows[0]] < MAX_TIMEOUTS_PER_NETWORK:
            parts.append(rows)
        else:
            states[rows] = result
    states[(states == Outcome.DONE) & ~np.isfinite(accuracy)] = Outcome.INFEASIBLE
    nothing = np.full(max((len(row) for row in memberships.values()), default=0), np.nan)
    table = [memberships.get(row, nothing) for row in range(len(graphs))]
    matrix = np.array(table, np.float64).reshape(len(graphs), len(nothing))
    return PopulationResult(accuracy, matrix, deviation, states, timeouts, beside)


def _head(prediction: Prediction, name: str) -> Float64[np.ndarray, " g"]:
    if prediction.heads is None or name not in prediction.heads:
        raise ServiceError(f"the predictor says nothing of {name}; serve it with the heads of the run")
    return prediction.heads[name]


def no_accuracy_error(states: np.ndarray, what: str) -> ServiceError:
    """The error for a population without any prediction. ``states``: of its networks; ``what``: their name."""
    late = int((states == Outcome.TIMEOUT).sum())
    if late:
        return ServiceError(
            f"the predictor gave no answer in time for {late} of {len(states)} networks of {what}, and no finite "
            "accuracy for any; add replicas or CPUs, or make the population smaller"
        )
    return ServiceError(
        f"the predictor gave no finite accuracy for any of {len(states)} networks of {what}; check its checkpoint"
    )


def _predict(evaluator: Evaluator, graphs: PackedGraphs) -> Prediction | Outcome:
    try:
        return evaluator.predict(graphs)
    except _REFUSALS:
        return Outcome.INFEASIBLE
    except TimeoutError:
        return Outcome.TIMEOUT
    except ServiceError as error:
        if _is_late(error):
            return Outcome.TIMEOUT
        if _is_lost(error):
            raise IslandLostError(f"the predictor's service was lost: {error}") from error
        raise


def _is_late(error: ServiceError) -> bool:
    from ray.serve.exceptions import BackPressureError  # noqa: PLC0415 (2 s, which searches without Ray do not need)

    return isinstance(error.__cause__, (TimeoutError, BackPressureError))


def _is_lost(error: ServiceError) -> bool:
    from ray.exceptions import RayError, RayTaskError  # noqa: PLC0415 (see above)

    return isinstance(error.__cause__, RayError) and not isinstance(error.__cause__, RayTaskError)
