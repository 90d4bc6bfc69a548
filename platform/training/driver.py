"""The driver of a pretraining: starts its workers by Ray Train, and passes on what they tell, to the end."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gennape.errors import ConfigError, GennapeError, ServiceError
from gennape.platform.cluster.connection import local_ray, on_loopback
from gennape.platform.tracking.journal import new_name
from gennape.platform.tracking.tracker import track
from gennape.platform.training.settings import WorkersConfig
from gennape.platform.training.worker import Point, ProgressChannel, work
from gennape.platform.workspace.run_files import read_json
from gennape.platform.workspace.settings import flat
from gennape.predictors.encoder.data_parallel import join_group
from gennape.search_spaces.files.atomic import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gennape.platform.tracking.tracker import Tracker
    from gennape.predictors.encoder.settings import EncoderConfig, PretrainConfig

#: In the folder of a pretraining: its run in MLflow and what it computes on; what Ray Train keeps.
STATUS, RAY = "status.json", "ray"
_POLL_S = 0.5
_START_TIMEOUT_S = "300"  # of a group of workers; Ray's own 60 s are short for machines that are busy or just starting
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Training:
    """A pretraining that :func:`train` brings to its end: where its state is, where its encoder will be, its data."""

    workspace: Path
    folder: Path
    out: Path
    stored: Mapping[str, Any]
    encoder: EncoderConfig
    config: PretrainConfig

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.config.epochs * max(1, self.stored["networks"] // self.config.batch)


def train(
    training: Training,
    scale: WorkersConfig,
    address: str | None,
    follow: Callable[[int, int, str], None],
    server: str | None,
) -> None:
    """Train to the end, or as far as workers come; raises as :func:`pretrain_on_workers` says."""
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_TIMEOUT_S)
    folder, stored = training.folder, training.stored
    known = status_of(folder)
    parameters = flat(
        {**stored["description"], "out": training.out, "networks": stored["networks"], "workers": asdict(scale)}
    )
    with local_ray(address, max(scale.workers, os.cpu_count() or 1)):
        if address is None:
            _refuse_absent_gpus(scale)
        name = known.get("run") or new_name(training.workspace, "pretrain")
        with track(training.workspace, name, parameters, known.get("tracking_run"), server) as tracker:
            # Before any step: whatever is lost, one run.
            write_json(folder / STATUS, {**known, "run": name, "tracking_run": tracker.run_id})
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            channel: Any = ray.remote(ProgressChannel).options(num_cpus=0, scheduling_strategy=here).remote()
            task = {
                "channel": channel, "folder": str(folder.absolute()), "encoder": training.encoder,
                "config": training.config, "rng": stored["rng"], "every": scale.checkpoint_every,
            }  # fmt: skip
            watch = _PretrainingWatch(channel, tracker, follow, training, scale)
            with warnings.catch_warnings():
                # Ray's own, of settings that it makes itself.
                warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.")
                error = _fit(folder, task, scale, watch)
            ray.kill(channel)
            if watch.refusal is not None:
                raise watch.refusal
            if error is not None:
                raise ServiceError(f"pretraining was given up: {error}; repeat the command to go on") from error


def status_of(folder: Path) -> dict[str, str]:
    """``run`` and ``tracking_run``, of MLflow, and the ``device`` that was computed on; empty before the first."""
    status: dict[str, str] = read_json(folder / STATUS) if (folder / STATUS).exists() else {}
    return status


def _fit(folder: Path, task: dict[str, Any], scale: WorkersConfig, watch: _PretrainingWatch) -> Exception | None:
    """Train to the end; returns what Ray raised.

    In a thread of its own: from the main thread Ray would turn Ctrl-C into an end of the process.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415 (they take a second)
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    gpu = scale.gpus_per_worker > 0
    number: Any = scale.workers if scale.minimum == scale.workers else (scale.minimum, scale.workers)
    trainer = TorchTrainer(
        work,
        train_loop_config=task,
        torch_config=_torch_config(folder.absolute() / RAY if on_loopback() else None),
        scaling_config=ScalingConfig(
            num_workers=number,
            use_gpu=gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})},
        ),
        # A name of its own for each call: what to go on from is told by our checkpoints, not by Ray's records.
        run_config=RunConfig(
            name=f"call-{time.time_ns()}",
            storage_path=str(folder.absolute() / RAY),
            failure_config=FailureConfig(max_failures=scale.max_failures),
        ),
    )
    failures: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 (it is raised by the main thread)
            failures.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        watch.poll()
    watch.poll()
    return failures[0] if failures else None


def _torch_config(meeting: Path | None) -> Any:
    """NCCL where all workers find their GPUs, else gloo: Ray goes by what was asked for, not by what is there.

    ``meeting``: a folder that workers of one machine find each other by. Without one the first opens a port to every
    network, which asks nobody who they are, as workers of several machines need it.
    """
    import torch  # noqa: PLC0415
    from ray.train.torch import TorchConfig  # noqa: PLC0415

    usual: Any = TorchConfig().backend_cls

    class ByDevice(usual):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
            backend = "nccl" if gpus and all(worker_group.execute(torch.cuda.is_available)) else "gloo"
            if meeting is None:
                super().on_start(worker_group, replace(backend_config, backend=backend))
                return
            meeting.mkdir(parents=True, exist_ok=True)
            file, size = meeting / f"meeting-{uuid.uuid4().hex}", len(worker_group)
            ray.get(
                [
                    worker_group.execute_single_async(
                        rank, join_group, backend, str(file), rank, size, backend_config.timeout_s
                    )  # by position: Ray has arguments of its own
                    for rank in range(size)
                ]
            )

    class Chosen(TorchConfig):
        @property
        def backend_cls(self) -> type:
            return ByDevice

    return Chosen()


def _refuse_absent_gpus(scale: WorkersConfig) -> None:
    found = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    if scale.gpus_per_worker and found < scale.minimum:
        raise ConfigError(
            f"{scale.minimum} workers need as many GPUs, this machine has {found}; use fewer workers, leave out "
            "--gpus-per-worker, or name a cluster with --address"
        )


class _PretrainingWatch:
    """Passes on the points of the progress channel."""

    def __init__(
        self,
        channel: Any,
        tracker: Tracker,
        follow: Callable[[int, int, str], None],
        training: Training,
        scale: WorkersConfig,
    ) -> None:
        self._channel, self._tracker, self._follow = channel, tracker, follow
        self._folder, self._scale = training.folder, scale
        self._total, self._step = training.steps * training.config.batch, 0
        self.refusal: GennapeError | None = None

    def poll(self) -> None:
        """Steps that are repeated after a loss are not passed on again: they were the same."""
        points: list[Point]
        try:
            points, self.refusal = ray.get(self._channel.take.remote())
        except RayError as error:
            raise ServiceError(f"lost the workers: {error}; repeat the command to go on") from error
        for point in points:
            if point.step <= self._step:
                continue
            if self._step == 0:
                self._tell_device(point.device)
            self._step = point.step
            values = {"loss": point.loss, "graphs_per_second": point.rate, "workers": point.workers}
            self._tracker.metrics(point.step, values)
            note = f"loss {point.loss:.3f} · {point.rate:,.0f} graphs/s · {point.workers} workers"
            self._follow(min(point.graphs, self._total), self._total, note)

    def _tell_device(self, device: str) -> None:
        write_json(self._folder / STATUS, status_of(self._folder) | {"device": device})
        if self._scale.gpus_per_worker and device == "cpu":
            log.warning(
                "workers hold GPUs that PyTorch does not find there: they train on processors; check driver and build"
            )
