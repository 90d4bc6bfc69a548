"""What the islands of a search need: a predictor in this process, or Ray and a served predictor."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gennape.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.islands import Archipelago
    from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble


@contextmanager
def islands_here(
    config: SearchConfig,
    checkpoint: Path | None,
    predictor: FuzzyEnsemble | None,
    learnt: bytes,
    watch: Callable[[], None],
) -> Iterator[Archipelago]:
    """Islands in this process.

    ``predictor``: that of ``checkpoint``, if it is already loaded. ``learnt``: heads of the run, see ``learnt.learn``.
    """
    from gennape.platform.search.islands import LocalIslands
    from gennape.predictors.model.checkpoint import load_checkpoint
    from gennape.predictors.model.heads import unpack_heads

    with _one_thread():
        loaded = load_checkpoint(checkpoint, zero_shot=config.zero_shot) if predictor is None else predictor
        _refuse_another(loaded.sha256, config)
        yield LocalIslands(config, unpack_heads(loaded, learnt) if learnt else loaded, watch)


@contextmanager
def islands_on_ray(
    config: SearchConfig, checkpoint: Path | None, address: str | None, learnt: bytes, watch: Callable[[], None]
) -> Iterator[Archipelago]:
    """Islands on the Ray cluster at ``address``, or on one that is started on this machine."""
    from gennape.platform.cluster.connection import local_ray

    with local_ray(address):
        from gennape.platform.search.ray_islands import RayIslands, most_replicas
        from gennape.platform.serving.deployment import ServingConfig, serve_ensemble
        from gennape.platform.serving.replica import LoadForSearch

        serving = ServingConfig(checkpoint, max_replicas=most_replicas(config.islands))
        with RayIslands(config, None, watch) as islands:
            islands.prepare()  # which imports while the predictor starts
            with serve_ensemble(serving, LoadForSearch(learnt, config.zero_shot)) as handle:
                _refuse_another(handle.sha256, config)
                islands.evaluator = handle
                try:
                    yield islands
                finally:
                    islands.stop()  # before what they ask


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch computes in one thread, as in a replica: on populations further ones mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _refuse_another(sha256: str, config: SearchConfig) -> None:
    """Raise :class:`ConfigError` if the checkpoint was replaced since the search began."""
    if sha256 != config.checkpoint_sha256:
        raise ConfigError(
            f"the search began with checkpoint {config.checkpoint_sha256[:12]}…, but {sha256[:12]}… is there now; put "
            "the former back, or start a new search"
        )
