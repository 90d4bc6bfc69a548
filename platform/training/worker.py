"""A worker of a pretraining, as Ray Train runs it: from the newest checkpoint on, and again after every loss.

A checkpoint is of all workers, which are equal but for their rank; the first writes it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
import torch

from gennape.errors import GennapeError, WorkspaceError
from gennape.predictors.encoder.data_parallel import PretrainData, WorkerPretraining, rank, workers
from gennape.predictors.encoder.optimisation import CPU
from gennape.search_spaces.files.atomic import atomic_write_bytes
from gennape.search_spaces.graphs.parquet import read_graphs

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What the folder of a pretraining holds: what it is, and the graphs. Its checkpoints are beside them.
CONFIG, GRAPHS = "config.json", "graphs"
_STATES = "state-*.safetensors"


@dataclass(frozen=True, slots=True)
class Point:
    """The steps since the point before: mean loss, graphs per second of all workers, and graphs since the beginning;
    how many workers there were, and whether on ``cpu`` or ``cuda``."""

    step: int
    loss: float
    rate: float
    workers: int
    graphs: int
    device: str


class ProgressChannel:
    """Progress and refusals from the workers to the driver; an actor."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._refusal: GennapeError | None = None

    def add(self, point: Point) -> None:
        """Of the steps that a checkpoint is written after."""
        self._points.append(point)

    def take(self) -> tuple[list[Point], GennapeError | None]:
        """The points since the last call, and why workers refused, if they did."""
        points, self._points = self._points, []
        return points, self._refusal

    def refuse(self, error: GennapeError) -> None:
        """End the training: the error would come again."""
        self._refusal = error

    def refused(self) -> bool:
        """Whether a worker has refused."""
        return self._refusal is not None


def newest_state(folder: Path) -> Path | None:
    """The last checkpoint of a pretraining."""
    return max(folder.glob(_STATES), key=step_of, default=None)


def step_of(state: Path | None) -> int:
    """The steps done at a checkpoint; 0 without one."""
    return 0 if state is None else int(state.stem.partition("-")[2])


def work(task: dict[str, Any]) -> None:
    """What each worker of Ray Train runs. Our own errors would come again: they end the training."""
    channel = task["channel"]
    if ray.get(channel.refused.remote()):
        return
    try:
        _steps(channel, Path(task["folder"]), task)
    except GennapeError as error:
        ray.get(channel.refuse.remote(error))
        raise


def _steps(channel: Any, folder: Path, task: Mapping[str, Any]) -> None:
    pa.set_cpu_count(1)
    if not (folder / CONFIG).is_file():
        raise WorkspaceError(f"{folder} is not on every machine; give a workspace that all machines share")
    data, device = _data(folder / GRAPHS), _device()
    training = WorkerPretraining(data, task["encoder"], task["config"], _rng(task["rng"]), device)
    if (state := newest_state(folder)) is not None:
        training.restore(state)
    training.agree()
    losses, graphs, start = [], 0, time.perf_counter()
    while training.step < training.steps:
        n, loss = training.advance()
        losses.append(loss)
        graphs += n
        if (training.step % task["every"] == 0 or training.step == training.steps) and rank() == 0:
            rate = graphs / (time.perf_counter() - start)
            _save(folder, training)
            done = training.step * task["config"].batch
            point = Point(training.step, float(np.mean(losses)), rate, workers(), done, device.type)
            ray.get(channel.add.remote(point))
            losses, graphs, start = [], 0, time.perf_counter()


def _device() -> torch.device:
    """The GPU that Ray gave this worker, if it gave one that PyTorch finds."""
    from ray.train.torch import get_device  # noqa: PLC0415 (a second)

    found = get_device()
    return found if found.type == "cpu" or torch.cuda.is_available() else CPU


def _save(folder: Path, training: WorkerPretraining) -> None:
    """Write a checkpoint, then remove those before it: a late writer of a lost group never hides a newer one."""
    atomic_write_bytes(folder / f"state-{training.step:08d}.safetensors", training.state())
    for path in folder.glob(_STATES):
        if step_of(path) < training.step:
            with suppress(FileNotFoundError):
                path.unlink()


def _data(folder: Path) -> PretrainData:
    graphs, table = read_graphs(folder, check=False)
    spectra = table["spectrum"].combine_chunks()
    return PretrainData(
        graphs,
        spectra.flatten().to_numpy().reshape(len(graphs), -1),
        table["family"].to_numpy().astype(np.int64),
    )


def _rng(state: Mapping[str, Any]) -> np.random.Generator:
    bits = np.random.PCG64()
    bits.state = dict(state)  # type: ignore[assignment]
    return np.random.Generator(bits)
