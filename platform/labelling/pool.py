"""The pool of workers that train networks, several per GPU, and its recovery from lost workers."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError

from gennape.errors import CheckpointError, GennapeError, InvalidDataError, WorkspaceError
from gennape.platform.cluster.worker_pool import TRIES, Allocation, PoolWorker, WorkerPool
from gennape.platform.labelling.rows import LabellingTask, read_row, row_path, write_row
from gennape.platform.labelling.training.device_images import put
from gennape.platform.labelling.training.failures import DeviceMemoryError, DivergedError, memory_named
from gennape.platform.labelling.training.images import ImageSet, kept_images
from gennape.platform.labelling.training.network_training import train
from gennape.platform.labelling.training.recipe import Seed
from gennape.search_spaces.families.registry import REGISTRY, family
from gennape.search_spaces.files.atomic import atomic_write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gennape.platform.labelling.training.device_images import DeviceImages
    from gennape.platform.labelling.training.network_training import TrainingResult
    from gennape.platform.labelling.training.recipe import Recipe
    from gennape.search_spaces.families.space import SearchSpace

#: At most so often a worker notes how many epochs are done.
_NOTE_S = 1.0


@dataclass(frozen=True, slots=True)
class LabellingStudy:
    """Settings of all trainings: recipe, seed, the files of decoded images with their hash, and the folder of rows,
    checkpoints and progress files, which every training machine must reach."""

    recipe: Recipe
    seed: int
    train: Path
    test: Path | None
    data: str
    folder: Path
    save_after: float = 30.0


@dataclass(frozen=True, slots=True)
class WorkerAllocation(Allocation):
    """``workers`` in all, each on a CPU of its own or, with ``device`` cuda, ``per_gpu`` of them on each GPU."""

    device: str
    per_gpu: int = 1

    @property
    def per_device(self) -> int:
        """Trainings that share a device's memory (on CPUs an upper bound, where workers are on several machines)."""
        return self.workers if self.device == "cpu" else self.per_gpu

    @property
    def resources(self) -> dict[str, float]:
        """The Ray resources of one worker."""
        if self.device == "cpu":
            return {"num_cpus": 1}
        return {"num_cpus": 0.5, "num_gpus": 1 / self.per_gpu}

    def halved(self) -> WorkerAllocation:
        """Half as many trainings per device."""
        if self.device == "cpu":
            return WorkerAllocation(self.workers // 2, self.device)
        fewer = self.per_gpu // 2
        return WorkerAllocation(max(1, self.workers * fewer // self.per_gpu), self.device, fewer)


# On a worker ---------------------------------------------------------------------------------------------------------


class Trainer:
    """A worker: trains one network after another, on images that it holds."""

    _data: DeviceImages

    def __init__(self, study: LabellingStudy, device: str, own: Sequence[SearchSpace] = ()) -> None:
        REGISTRY.take(own)
        self._study, self._device = study, torch.device(device)
        if device == "cpu":
            torch.set_num_threads(1)

    def ready(self) -> str:
        """Returns when images are on the device, with the node that this is."""
        with memory_named(self._device):
            self._data = put(_images(self._study), self._study.recipe, self._device)
        if self._data.sha256 != self._study.data:
            raise InvalidDataError("the images have changed since the study began; give another --out for these")
        return str(ray.get_runtime_context().get_node_id())

    def train(self, task: LabellingTask) -> None:
        """Train, from where an earlier worker was lost, and write the row; nothing where it is written already."""
        study = self._study
        if read_row(study.folder, task) is not None:
            return
        checkpoint = checkpoint_path(study.folder, task)
        try:
            found = self._found(task, checkpoint)
        except CheckpointError:  # of another version: from the beginning then
            checkpoint.unlink(missing_ok=True)
            found = self._found(task, checkpoint)
        write_row(study.folder, task, study.recipe.sha256, study.data, found)
        checkpoint.unlink(missing_ok=True)
        epochs_path(study.folder, task).unlink(missing_ok=True)

    def _found(self, task: LabellingTask, checkpoint: Path) -> TrainingResult | str:
        try:
            return self._trained(task, checkpoint)
        except DivergedError as error:
            return str(error)

    def _trained(self, task: LabellingTask, checkpoint: Path) -> TrainingResult:
        study, space = self._study, family(task.family)
        reported = 0.0

        def on_epoch(epoch: int, _accuracy: float) -> None:
            nonlocal reported
            if time.monotonic() - reported > _NOTE_S:
                atomic_write_bytes(epochs_path(study.folder, task), str(epoch).encode())
                reported = time.monotonic()

        graph = space.graph(space.decode(json.loads(task.architecture)))
        seed = Seed(study.seed, task.network, task.training)
        return train(graph, self._data, study.recipe, seed, checkpoint, on_epoch, save_after=study.save_after)


def _images(study: LabellingStudy) -> ImageSet:
    parts = [kept_images(path) for path in (study.train, study.test) if path is not None]
    if parts[0] is None or parts[-1] is None:
        raise WorkspaceError(
            f"{study.train} cannot be read on {platform.node()}; give a --workspace that all machines share, and "
            "repeat the command"
        )
    return ImageSet(parts[0], None if study.test is None else parts[-1])


def checkpoint_path(folder: Path, task: LabellingTask) -> Path:
    """Where a training that is under way keeps its state."""
    return folder / "checkpoints" / f"{task.key}.safetensors"


def epochs_path(folder: Path, task: LabellingTask) -> Path:
    """Where a training that is under way notes how many epochs are done."""
    return folder / "checkpoints" / f"{task.key}.epochs"


# The driver ----------------------------------------------------------------------------------------------------------


class Pool(WorkerPool[LabellingTask, LabellingTask]):
    """Hands trainings out to workers and yields them as their rows are written.

    A training whose worker is lost goes on from its checkpoint with another; so does one that met an unknown error. One
    that this happens to :data:`TRIES` times has FAILED; lost machines are not counted. Where the memory of a GPU does
    not suffice, fewer train beside each other from then on; a network that does not fit alone has FAILED.
    """

    allocation: WorkerAllocation

    def __init__(self, study: LabellingStudy, allocation: WorkerAllocation, note: Callable[[str], None]) -> None:
        super().__init__(Trainer, allocation)
        self._study, self._note = study, note

    def arguments(self) -> tuple[LabellingStudy, str]:
        """The study, and where to train."""
        return self._study, self.allocation.device

    def begin(self, actor: Any, task: LabellingTask) -> Any:
        """Train."""
        return actor.train.remote(task)

    def finished(self, task: LabellingTask, answer: None) -> LabellingTask:  # noqa: ARG002
        """A row is written."""
        if not (row := row_path(self._study.folder, task)).is_file():
            raise WorkspaceError(f"{row} was written elsewhere; give a --workspace that all machines share")
        return task

    def died(self, task: LabellingTask, error: Exception) -> LabellingTask | None:
        """Try again, some times."""
        return self._tried(task, f"the process that trained it died {TRIES} times, last by: {error}")

    def lost(self, worker: PoolWorker, task: LabellingTask | None, error: Exception) -> LabellingTask | None:
        """Where a machine's memory did not suffice, fewer train beside each other."""
        if isinstance(error, OutOfMemoryError):
            return self._crowded(worker, task, f"its machine ran out of memory: {error}")
        return super().lost(worker, task, error)

    def failed(self, worker: PoolWorker, task: LabellingTask | None, error: RayTaskError) -> LabellingTask | None:
        """Where a GPU's memory did not suffice, fewer train beside each other; an unknown error is tried again."""
        cause = error.cause
        if isinstance(cause, DeviceMemoryError):
            return self._crowded(worker, task, str(cause))
        if task is None or isinstance(cause, GennapeError):
            return super().failed(worker, task, error)
        return self._tried(task, f"{type(cause).__name__}: {cause}")

    def _crowded(self, worker: PoolWorker, task: LabellingTask | None, reason: str) -> LabellingTask | None:
        """Out of memory: halve the trainings per device, unless that was done since the worker was started."""
        if worker.allocation == self.allocation:
            if (before := self.allocation.per_device) == 1:
                if task is None:
                    raise DeviceMemoryError(reason)
                return self._give_up(task, reason)
            self.allocation = self.allocation.halved()
            now = self.allocation.per_device
            self._note(f"out of memory with {before} trainings beside each other, on with {now}")
        return None

    def _tried(self, task: LabellingTask, reason: str) -> LabellingTask | None:
        return self._give_up(task, reason) if self.was_last_try(task) else None

    def _give_up(self, task: LabellingTask, reason: str) -> LabellingTask:
        study = self._study
        if read_row(study.folder, task) is None:
            write_row(study.folder, task, study.recipe.sha256, study.data, reason)
        for left in (checkpoint_path(study.folder, task), epochs_path(study.folder, task)):
            left.unlink(missing_ok=True)
        return task
