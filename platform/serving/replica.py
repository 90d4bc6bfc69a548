"""A replica of the ensemble, and the transfer of checkpoints to it."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ray import serve

from gennape.errors import CheckpointError, GennapeError, ServiceError
from gennape.platform.cluster.connection import keep_replica_on_loopback
from gennape.platform.serving.answers import Answer, answer_sets, probe_graphs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gennape.platform.serving.config import ServingConfig
    from gennape.predictors.predictor import Predictor
    from gennape.search_spaces.graphs.graph import PackedGraphs

    Load = Callable[[Path | None], Predictor]


class Ensemble:
    """One predictor, loaded once, which predicts requests in batches."""

    def __init__(self, config: ServingConfig, files: Mapping[str, bytes], load: Load) -> None:
        import torch  # noqa: PLC0415 (only replicas need it)

        keep_replica_on_loopback()
        torch.set_num_threads(config.torch_threads)
        self.predictor = load_files(files, load) if files else load(config.checkpoint)
        self.probe = probe_graphs()
        self.answer_many.set_max_batch_size(config.max_batch_graphs)  # type: ignore[attr-defined]
        self.answer_many.set_batch_wait_timeout_s(config.batch_wait_s)  # type: ignore[attr-defined]

    @serve.batch(max_batch_size=1024, batch_size_fn=lambda sets: sum(map(len, sets)))
    async def answer_many(self, sets: list[PackedGraphs]) -> list[Answer | GennapeError]:
        """One answer per request, computed in a thread so that the event loop stays free for health checks."""
        return await asyncio.to_thread(answer_sets, self.predictor, sets)

    async def predict(self, graphs: PackedGraphs) -> Answer:
        """Answer one request, in a batch with others that arrive at the same time."""
        answer: Answer | GennapeError = await self.answer_many(graphs)
        if isinstance(answer, GennapeError):
            raise answer
        return answer

    async def check_health(self) -> None:
        """Health check: make a real prediction. Serve replaces a replica that fails."""
        answer = await asyncio.to_thread(self.predictor.predict, self.probe)
        if not np.isfinite(answer.accuracy).all() or not np.allclose(answer.memberships.sum(1), 1, atol=1e-3):
            raise ServiceError(f"the ensemble predicts {answer.accuracy} % with memberships {answer.memberships}")


def read_files(checkpoint: Path | None) -> dict[str, bytes]:
    """The files of a checkpoint's folder, for replicas on machines that do not have it.

    Raises :class:`CheckpointError` if a file cannot be read or is replaced while reading.
    """
    if checkpoint is None or not checkpoint.is_dir():
        return {}
    try:
        return {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir()) if path.is_file()}
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename} ({error.strerror}); repair the checkpoint") from error


def load_files(files: Mapping[str, bytes], load: Load) -> Predictor:
    """Load the predictor from a checkpoint's files, as :func:`read_files` returns them."""
    with tempfile.TemporaryDirectory(prefix="gennape-checkpoint-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return load(Path(folder))


@dataclass(frozen=True)
class LoadForSearch:
    """Loads the predictor of a search.

    ``heads``: what the search learnt, the bytes of a safetensors file, or none. ``zero_shot``: without calibrations.
    """

    heads: bytes = b""
    zero_shot: bool = False

    def __call__(self, path: Path | None) -> Predictor:
        """The predictor of the checkpoint at ``path`` with its heads."""
        from gennape.predictors.model.checkpoint import load_checkpoint  # noqa: PLC0415 (it imports torch)
        from gennape.predictors.model.heads import unpack_heads  # noqa: PLC0415

        predictor = load_checkpoint(path, zero_shot=self.zero_shot)
        return unpack_heads(predictor, self.heads) if self.heads else predictor


def load_checkpoint_at(path: Path | None) -> Predictor:
    """Load the predictor from the checkpoint at ``path``, or the shipped one for None."""
    from gennape.predictors.model.checkpoint import load_checkpoint  # noqa: PLC0415 (it imports torch)

    return load_checkpoint(path)
