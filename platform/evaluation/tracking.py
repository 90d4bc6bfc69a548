"""An evaluation as a run in MLflow."""

from __future__ import annotations

import math
import re
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gennape.errors import WorkspaceError
from gennape.platform.evaluation.results import PREDICTOR
from gennape.platform.evaluation.tables import learning_curves
from gennape.platform.tracking.sender import MAX_METRICS
from gennape.platform.tracking.store import open_store, provenance, server_address
from gennape.predictors.evaluation.protocol import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlflow import MlflowClient

    from gennape.platform.evaluation.results import Evaluation

_FORBIDDEN = re.compile(r"[^\w./ :-]+")  # in names of metrics


@contextmanager
def evaluation_run(
    workspace: Path, name: str, parameters: Mapping[str, str], server: str | None = None
) -> Iterator[Callable[[Evaluation, Sequence[Path]], None]]:
    """A run of the experiment "gennape"; yields ``log(evaluation, files)``, to call once the files are written.

    It is recorded at ``server``, else at $MLFLOW_TRACKING_URI, else in the store of ``workspace``. Metrics are called
    benchmark/subset/setting/method/figure, the step is the seed. Where the setting reads "learning curve", the step is
    the number of labels and the value a mean over seeds. The run ends FINISHED, KILLED on ``KeyboardInterrupt`` and
    FAILED on any other exception. Raises :class:`WorkspaceError` or :class:`ServiceError` when the store or the server
    cannot be used, and :class:`WorkspaceError` when it does not take what is logged. One process writes once, at the
    end: no actor is needed, and no journal, since the report is on disk.
    """
    with _open_run(workspace, name, parameters, server) as log:
        yield lambda evaluation, files: log(list(_values(evaluation)), files)


def finished_run(
    workspace: Path,
    name: str,
    parameters: Mapping[str, str],
    metrics: Mapping[str, float],
    files: Sequence[Path],
    server: str | None = None,
) -> None:
    """Record what is done already, as :func:`evaluation_run` does; the same errors."""
    with _open_run(workspace, name, parameters, server) as log:
        log([(key, value, 0) for key, value in metrics.items()], files)


@contextmanager
def _open_run(
    workspace: Path, name: str, parameters: Mapping[str, str], server: str | None
) -> Iterator[Callable[[Sequence[tuple[str, float, int]], Sequence[Path]], None]]:
    with warnings.catch_warnings():
        # MLflow's own, of its tables.
        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
        address = server_address(server)
        client, experiment = open_store(workspace, address)
        where = address or str(workspace)
        with _refusals(where):
            run = _begin(client, experiment, name, parameters)

        def log(values: Sequence[tuple[str, float, int]], files: Sequence[Path]) -> None:
            with _refusals(where):
                _log(client, run, values, files)

        status = "FAILED"
        try:
            yield log
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            with _refusals(where):
                client.set_terminated(run, status=status)


@contextmanager
def _refusals(where: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 (2 s; open_store sets its environment)
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise WorkspaceError(
            f"MLflow does not take the evaluation into {where}: {str(error).splitlines()[0]}; what is written of the "
            "report stays; give another folder with --workspace, or another server"
        ) from error


def _begin(client: MlflowClient, experiment: str, name: str, parameters: Mapping[str, str]) -> str:
    from mlflow.entities import Param, RunTag  # noqa: PLC0415

    run: str = client.create_run(experiment, run_name=name).info.run_id
    tags = [RunTag(key, value) for key, value in provenance().items()]
    client.log_batch(run, params=[Param(key, value) for key, value in parameters.items()], tags=tags)
    return run


def _log(client: MlflowClient, run: str, values: Sequence[tuple[str, float, int]], files: Sequence[Path]) -> None:
    from mlflow.entities import Metric  # noqa: PLC0415

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, step) for key, value, step in values if math.isfinite(value)]
    for first in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run, metrics=metrics[first : first + MAX_METRICS])
    for path in files:
        client.log_artifact(run, str(path))


def _values(evaluation: Evaluation) -> Iterator[tuple[str, float, int]]:
    for _, outcome in evaluation.everything:
        for m in outcome.measurements:
            for figure, value in m.figures.items():
                yield _key(m.benchmark, m.subset, m.setting, m.method, figure), value, m.seed
    for benchmark, points in learning_curves(evaluation).items():
        for labels, point in points.items():
            yield _key(benchmark, ALL, "learning curve", PREDICTOR, "srcc"), point["srcc"], labels


def _key(*parts: str) -> str:
    return "/".join(_FORBIDDEN.sub("", part).strip() for part in parts)
