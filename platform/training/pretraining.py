"""Pretraining on several workers of Ray Train. What was begun is continued, whether a worker was lost or the driver.

Graphs reach the workers as Parquet shards in the workspace, and each worker reads all of them, as packed arrays: which
graphs a step takes shall depend on the seed alone, whoever trains (``docs/adr/0015-every-worker-reads-all-graphs.md``).
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gennape.errors import ConfigError, ServiceError
from gennape.platform.training.driver import Training, status_of, train
from gennape.platform.training.settings import WorkersConfig
from gennape.platform.training.worker import CONFIG, GRAPHS, newest_state, step_of
from gennape.platform.workspace.files import make_writable, work_folder
from gennape.platform.workspace.run_files import read_json
from gennape.platform.workspace.run_lock import lock_run
from gennape.platform.workspace.settings import differences
from gennape.predictors.encoder.data_parallel import PretrainData, state_of_encoder
from gennape.predictors.model.checkpoint import save_encoder
from gennape.search_spaces.files.atomic import remove_partial_files, write_json
from gennape.search_spaces.graphs.parquet import write_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gennape.predictors.encoder.settings import EncoderConfig, PretrainConfig

__all__ = ["Prepared", "Pretrained", "WorkersConfig", "newest_state", "pretrain_on_workers", "training_folder"]

#: Within a workspace: a folder for each pretraining that is under way.
FOLDER = "pretraining"


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
    server: str | None = None,
) -> Pretrained:
    """Pretrain an encoder and write it to ``out``, or go on where an earlier call with the same ``out`` was cut off.

    ``description`` tells one pretraining from another, as JSON, and becomes the provenance of the encoder;
    ``prepare`` makes the data, unless an earlier call has. The state is kept in ``workspace`` until the encoder is
    written, and has to be reached by every machine that trains. ``follow`` is told of graphs done, of how many, and a
    note. A worker that is lost, or its machine, costs the steps since the last checkpoint: the others are restarted
    with it. The learning curve goes to MLflow, to ``server`` as :func:`track` says.

    Raises :class:`ConfigError` where ``out`` was begun with another description, :class:`WorkspaceError` where
    ``workspace`` cannot be written or is not shared, :class:`ServiceError` where workers are lost too often.
    """
    _check(config, scale)
    out = out.resolve()
    folder = training_folder(out, workspace)
    finished = folder.with_name(f".{folder.name}-{time.time_ns()}")
    make_writable(folder, "give another folder with --workspace")
    with lock_run(folder):
        stored = _stored(folder, {**description, "encoder": asdict(encoder), "pretrain": asdict(config)}, prepare)
        training = Training(workspace, folder, out, stored, encoder, config)
        if step_of(newest_state(folder)) < training.steps:
            train(training, scale, address, follow, server)
        state = newest_state(folder)
        if state is None or step_of(state) < training.steps:
            raise ServiceError(f"training ended before its last step; repeat the command to go on from {folder}")
        network, groups = state_of_encoder(state, encoder)
        # Sizes are in the checkpoint's own description.
        record = {name: value for name, value in stored["description"].items() if name != "encoder"}
        record |= {**stored["source"], "device": status_of(folder).get("device", "cpu")}
        record["workers"] = {str(start): n for start, n in groups}
        sha256 = save_encoder(out, network, record)
        with suppress(OSError):  # else it stays as it is, and the same command writes the encoder again
            folder.rename(finished)  # in one step: a part of it would be taken for a training that goes on
    shutil.rmtree(finished, ignore_errors=True)  # once the lock is let go of: network file systems keep what is open
    return Pretrained(sha256, stored["networks"])


def training_folder(out: Path, workspace: Path) -> Path:
    """Where the pretraining of ``out`` is kept while it is under way."""
    return work_folder(workspace / FOLDER, out, out.name)


def _check(config: PretrainConfig, scale: WorkersConfig) -> None:
    if not 1 <= scale.minimum <= scale.workers:
        raise ConfigError(f"at least {scale.minimum} of {scale.workers} workers; give a number from 1 to all of them")
    if config.batch % scale.workers:
        raise ConfigError(
            f"a batch of {config.batch} cannot be dealt out evenly to {scale.workers} workers; change one of the two"
        )


def _stored(folder: Path, description: Mapping[str, Any], prepare: Callable[[], Prepared]) -> dict[str, Any]:
    """What a folder says of its training, which is this one; a folder that says nothing yet is filled first."""
    if (folder / CONFIG).exists():
        training: dict[str, Any] = read_json(folder / CONFIG)
        differing = differences(training["description"], description)
        if differing:
            raise ConfigError(
                f"another pretraining of the same --out is under way: {differing}. Repeat the command and "
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
