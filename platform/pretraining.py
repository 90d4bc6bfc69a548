"""Pretraining on several workers of Ray Train. What was begun is continued, whether a worker was lost or the driver.

Graphs reach the workers as Parquet shards, and each worker reads all of them: a contrastive batch is a random choice
among all graphs, and which ones a step takes shall depend on the seed alone, whoever trains. Ray Data would deal rows
out by worker and shuffle within blocks, so that the batches would depend on the number of workers, and could not begin
in the middle of an epoch without reading it up to there. Shards are read as packed arrays, no node by itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gennape.errors import ConfigError, GennapeError, ServiceError, WorkspaceError
from gennape.platform.cluster import local_ray
from gennape.platform.runs import lock_run, read_json, write_json
from gennape.platform.tracking import track
from gennape.platform.workspace import atomic_write_bytes, make_writable, remove_partial_files
from gennape.predictors.checkpoint import save_encoder
from gennape.predictors.data_parallel import PretrainData, WorkerPretraining, rank, state_of_encoder, workers
from gennape.predictors.encoder import EncoderConfig
from gennape.predictors.training import PretrainConfig
from gennape.search_spaces.parquet import read_graphs, write_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gennape.platform.tracking import Tracker

#: Within a workspace: a folder for each pretraining that is under way, and what it holds.
FOLDER = "pretraining"
CONFIG, STATUS, GRAPHS, RAY = "config.json", "status.json", "graphs", "ray"
_STATES = "state-*.safetensors"
_POLL_S = 0.5
_START_TIMEOUT_S = "300"  # of a group of workers; Ray's own 60 s are short for machines that are busy or just starting


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """Who trains. None of it changes the order of the data, and any of it may differ when training is continued.

    ``minimum``: where fewer than ``workers`` can be had, train on with as few as this; the group grows again as soon
    as there is room. ``gpus_per_worker``: 1, or 0 for processors. ``checkpoint_every``: so many steps.
    ``max_failures``: how many losses of workers a call stands; nodes that a cloud takes back, having said so, are not
    counted.
    """

    workers: int
    minimum: int
    gpus_per_worker: int = 0
    checkpoint_every: int = 20
    max_failures: int = 10


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The graphs to pretrain on, the generator as it is when they are drawn, and where they come from, as JSON."""

    data: PretrainData
    rng: np.random.Generator
    source: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A finished encoder: its hash, and the number of graphs it was pretrained on."""

    sha256: str
    networks: int


def pretrain_on_workers(
    out: Path,
    workspace: Path,
    description: Mapping[str, Any],
    prepare: Callable[[], Prepared],
    encoder: EncoderConfig,
    config: PretrainConfig,
    scale: WorkersConfig,
    address: str | None = None,
    follow: Callable[[int, int, str], None] = lambda done, total, note: None,  # noqa: ARG005
) -> Pretrained:
    """Pretrain an encoder and write it to ``out``, or go on where an earlier call with the same ``out`` was cut off.

    ``description`` tells one pretraining from another, as JSON, and becomes the provenance of the encoder;
    ``prepare`` makes the data, unless an earlier call has. The state is kept in ``workspace`` until the encoder is
    written, and has to be reached by every machine that trains. ``follow`` is told of graphs done, of how many, and a
    note. A worker that is lost, or its machine, costs the steps since the last checkpoint: the others are restarted
    with it. The learning curve goes to MLflow.

    Raises :class:`ConfigError` where ``out`` was begun with another description, :class:`WorkspaceError` where
    ``workspace`` cannot be written or is not shared, :class:`ServiceError` where workers are lost too often.
    """
    _check(config, scale)
    out = out.absolute()
    folder = training_folder(out, workspace)
    make_writable(folder, "give another folder with --workspace")
    with lock_run(folder):
        training = _training(folder, {**description, "encoder": asdict(encoder), "pretrain": asdict(config)}, prepare)
        steps = config.epochs * max(1, training["networks"] // config.batch)
        if _step(newest_state(folder)) < steps:
            _train(workspace, folder, out, training, encoder, config, scale, address, follow)
        state = newest_state(folder)
        if state is None or _step(state) < steps:
            raise ServiceError(f"training ended before its last step; repeat the command to go on from {folder}")
        network, groups = state_of_encoder(state, encoder)
        # Sizes are in the checkpoint's own description.
        record = {name: value for name, value in training["description"].items() if name != "encoder"}
        device = "cuda" if scale.gpus_per_worker else "cpu"
        record |= {**training["source"], "device": device, "workers": {str(start): n for start, n in groups}}
        sha256 = save_encoder(out, network, record)
        shutil.rmtree(folder)
    return Pretrained(sha256, training["networks"])


def training_folder(out: Path, workspace: Path) -> Path:
    """Where the pretraining of ``out`` is kept while it is under way."""
    out = out.absolute()
    return workspace / FOLDER / f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:8]}"


def newest_state(folder: Path) -> Path | None:
    """The last checkpoint of a pretraining."""
    return max(folder.glob(_STATES), key=_step, default=None)


def _step(state: Path | None) -> int:
    return 0 if state is None else int(state.stem.partition("-")[2])


def _check(config: PretrainConfig, scale: WorkersConfig) -> None:
    if not 1 <= scale.minimum <= scale.workers:
        raise ConfigError(f"at least {scale.minimum} of {scale.workers} workers; give a number from 1 to all of them")
    if config.batch % scale.workers:
        raise ConfigError(
            f"a batch of {config.batch} cannot be dealt out evenly to {scale.workers} workers; change one of the two"
        )


def _training(folder: Path, description: Mapping[str, Any], prepare: Callable[[], Prepared]) -> dict[str, Any]:
    """What a folder says of its training, which is this one; a folder that says nothing yet is filled first."""
    if (folder / CONFIG).exists():
        training: dict[str, Any] = read_json(folder / CONFIG)
        stored, asked = _flat(training["description"]), _flat(description)
        differing = [
            f"{name} was {stored.get(name)}, now {asked.get(name)}"
            for name in {**stored, **asked}
            if stored.get(name) != asked.get(name)
        ]
        if differing:
            raise ConfigError(
                f"another pretraining of the same --out is under way: {'; '.join(differing)}. Repeat the command and "
                f"the version that began it, give another --out, or remove {folder} to begin anew"
            )
        remove_partial_files(folder)
        return training
    shutil.rmtree(folder / GRAPHS, ignore_errors=True)  # of a call that was cut off while it wrote them
    (folder / GRAPHS).mkdir()
    prepared = prepare()
    data = prepared.data
    values = pa.array(data.spectra.astype(np.float32).ravel())  # single precision, as the loss takes them
    spectra = pa.FixedSizeListArray.from_arrays(values, data.spectra.shape[1])
    write_shards(folder / GRAPHS, data.graphs, {"spectrum": spectra, "family": data.families})
    training = {
        "description": dict(description),
        "networks": len(data.graphs),
        "source": dict(prepared.source),
        "rng": prepared.rng.bit_generator.state,
    }
    write_json(folder / CONFIG, training)
    written: dict[str, Any] = read_json(folder / CONFIG)
    return written


# The driver ----------------------------------------------------------------------------------------------------------


def _train(
    workspace: Path,
    folder: Path,
    out: Path,
    training: Mapping[str, Any],
    encoder: EncoderConfig,
    config: PretrainConfig,
    scale: WorkersConfig,
    address: str | None,
    follow: Callable[[int, int, str], None],
) -> None:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_TIMEOUT_S)
    known = read_json(folder / STATUS) if (folder / STATUS).exists() else {}
    parameters = _flat(
        {**training["description"], "out": out, "networks": training["networks"], "workers": asdict(scale)}
    )
    total = config.epochs * max(1, training["networks"] // config.batch) * config.batch
    name = f"pretrain-{time.strftime('%Y%m%d-%H%M%S')}"
    with local_ray(address, max(scale.workers, os.cpu_count() or 1)):
        if address is None:
            _refuse_absent_gpus(scale)
        with track(workspace, name, parameters, known.get("tracking_run")) as tracker:
            write_json(folder / STATUS, {"tracking_run": tracker.run_id})  # before any step: whatever is lost, one run
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            board: Any = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
            work = {
                "board": board, "folder": str(folder.absolute()), "encoder": encoder, "config": config,
                "rng": training["rng"], "every": scale.checkpoint_every,
            }  # fmt: skip
            watch = _Watch(board, tracker, follow, total)
            with warnings.catch_warnings():
                # Ray's own, of settings that it makes itself.
                warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.")
                error = _fit(folder, work, scale, watch)
            ray.kill(board)
            if watch.refusal is not None:
                raise watch.refusal
            if error is not None:
                raise ServiceError(f"pretraining was given up: {error}; repeat the command to go on") from error


def _fit(folder: Path, work: dict[str, Any], scale: WorkersConfig, watch: _Watch) -> Exception | None:
    """Train to the end; returns what Ray raised.

    In a thread of its own: from the main thread Ray would turn Ctrl-C into an end of the process.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415 (they take a second)
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415

    gpu = scale.gpus_per_worker > 0
    number: Any = scale.workers if scale.minimum == scale.workers else (scale.minimum, scale.workers)
    trainer = TorchTrainer(
        _work,
        train_loop_config=work,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
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
        watch.look()
    watch.look()
    return failures[0] if failures else None


def _refuse_absent_gpus(scale: WorkersConfig) -> None:
    found = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    if scale.gpus_per_worker and found < scale.minimum:
        raise ConfigError(
            f"{scale.minimum} workers need as many GPUs, this machine has {found}; use fewer workers, leave out "
            "--gpus-per-worker, or name a cluster with --address"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: str(value)}
    return flat


@dataclass(frozen=True, slots=True)
class _Point:
    """The steps since the point before: mean loss, graphs per second of all workers, and graphs since the beginning."""

    step: int
    loss: float
    rate: float
    workers: int
    graphs: int


class _Board:
    """Where workers leave what the driver shall know."""

    def __init__(self) -> None:
        self._points: list[_Point] = []
        self._refusal: GennapeError | None = None

    def add(self, point: _Point) -> None:
        self._points.append(point)

    def take(self) -> tuple[list[_Point], GennapeError | None]:
        points, self._points = self._points, []
        return points, self._refusal

    def refuse(self, error: GennapeError) -> None:
        self._refusal = error

    def refused(self) -> bool:
        return self._refusal is not None


class _Watch:
    """Passes on what stands on the board."""

    def __init__(self, board: Any, tracker: Tracker, follow: Callable[[int, int, str], None], total: int) -> None:
        self._board, self._tracker = board, tracker
        self._follow, self._total, self._step = follow, total, 0
        self.refusal: GennapeError | None = None

    def look(self) -> None:
        """Steps that are repeated after a loss are not passed on again: they were the same."""
        points: list[_Point]
        try:
            points, self.refusal = ray.get(self._board.take.remote())
        except RayError as error:
            raise ServiceError(f"lost the workers: {error}; repeat the command to go on") from error
        for point in points:
            if point.step <= self._step:
                continue
            self._step = point.step
            values = {"loss": point.loss, "graphs_per_second": point.rate, "workers": point.workers}
            self._tracker.metrics(point.step, values)
            note = f"loss {point.loss:.3f} · {point.rate:,.0f} graphs/s · {point.workers} workers"
            self._follow(min(point.graphs, self._total), self._total, note)


# A worker ------------------------------------------------------------------------------------------------------------


def _work(work: dict[str, Any]) -> None:
    """What each worker of Ray Train runs, again after every loss. Our own errors would come again: they end it."""
    board = work["board"]
    if ray.get(board.refused.remote()):
        return
    try:
        _steps(board, Path(work["folder"]), work)
    except GennapeError as error:
        ray.get(board.refuse.remote(error))
        raise


def _steps(board: Any, folder: Path, work: Mapping[str, Any]) -> None:
    from ray.train.torch import get_device  # noqa: PLC0415

    pa.set_cpu_count(1)
    if not (folder / CONFIG).is_file():
        raise WorkspaceError(f"{folder} is not on every machine; give a workspace that all machines share")
    data, rng = _data(folder / GRAPHS), _rng(work["rng"])
    training = WorkerPretraining(data, work["encoder"], work["config"], rng, get_device())
    if (state := newest_state(folder)) is not None:
        training.restore(state)
    training.agree()
    losses, graphs, start = [], 0, time.perf_counter()
    while training.step < training.steps:
        n, loss = training.advance()
        losses.append(loss)
        graphs += n
        if (training.step % work["every"] == 0 or training.step == training.steps) and rank() == 0:
            rate = graphs / (time.perf_counter() - start)
            _save(folder, training)
            done = training.step * work["config"].batch
            ray.get(board.add.remote(_Point(training.step, float(np.mean(losses)), rate, workers(), done)))
            losses, graphs, start = [], 0, time.perf_counter()


def _save(folder: Path, training: WorkerPretraining) -> None:
    """Write a checkpoint, then remove those before it: a late writer of a lost group never hides a newer one."""
    atomic_write_bytes(folder / f"state-{training.step:08d}.safetensors", training.state())
    for path in folder.glob(_STATES):
        if _step(path) < training.step:
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
