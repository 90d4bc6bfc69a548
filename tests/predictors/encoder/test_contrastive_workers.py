"""The contrastive loss of two real workers is that of one process on both their batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gennape.errors import ConfigError
from gennape.predictors.encoder.contrastive import ProjectionHead, Views, contrastive_loss, worker_loss
from gennape.predictors.encoder.data_parallel import join_group
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import featurize
from gennape.predictors.encoder.settings import GENERAL, GENNAPE, ContrastiveConfig, EncoderConfig
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.graph import PackedGraphs, concatenate
from gennape.search_spaces.graphs.spectrum import laplacian_spectra

WORKERS, EACH = 2, 5  # 20 views: distances of more than 25 are made by products of matrices, and less exact
CONFIGS = {"gennape": replace(GENNAPE, spectral_temperature=0.2), "general": GENERAL}


class _Model(nn.Module):
    """Encoder and projection in double precision, as pretraining puts them together, without dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = GraphEncoder(EncoderConfig(hidden=8, layers=2, embedding=6, dropout=0.0))
        self.head = ProjectionHead(6)
        self.double().train()
        # Batch statistics are a matter of synchronised normalisation, which needs GPUs.
        self.encoder.centre.eval()

    def forward(self, graphs: PackedGraphs) -> Tensor:
        """Projected embeddings."""
        return self.head(self.encoder(featurize(graphs)))


def _graphs() -> tuple[PackedGraphs, np.ndarray]:
    """Six cells and four networks of another family, and who belongs to which."""
    rng = np.random.default_rng(1)
    sets = [family(name).graphs(family(name).sample(rng, n)) for name, n in (("nb101", 6), ("hiaml", 4))]
    return concatenate(sets), np.repeat([0, 1], [6, 4])


def _batch(rows: np.ndarray, eigenvalues: int) -> tuple[PackedGraphs, Views]:
    """Two views of each of these graphs."""
    graphs, families = _graphs()
    twice = np.tile(rows, 2)
    spectra = laplacian_spectra(graphs, eigenvalues)[twice]
    return graphs.take(twice), Views(*(torch.from_numpy(a) for a in (twice, families[twice], spectra)))


def _result(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def _work(rank: int, folder: Path) -> None:
    """One worker: both configurations by data-parallel training, then batches of different sizes."""
    torch.set_num_threads(1)
    join_group("gloo", str(folder / "meeting"), rank, WORKERS, 120.0)
    rows = np.random.default_rng(0).permutation(WORKERS * EACH)[rank::WORKERS]
    for name, config in CONFIGS.items():
        torch.save(_of_worker(rows, config), folder / f"{name}-{rank}.pt")
    _, views = _batch(rows[: EACH - rank], 3)
    with pytest.raises(ConfigError, match=r"equally many views, got \[10, 8\]"):
        worker_loss(torch.ones(len(views.graph), 2), views, GENERAL)
    (folder / f"refused-{rank}").touch()
    distributed.destroy_process_group()
    (folder / f"threads-{rank}").write_text(_threads_of_groups())


def _of_worker(rows: np.ndarray, config: ContrastiveConfig) -> dict[str, Tensor]:
    # The model must be gone before the process group is: where it holds the last reference to the group, that ends with
    # Python's lock held, and now and then waits for ever for a thread of gloo's that wants the lock.
    graphs, views = _batch(rows, config.eigenvalues)
    model = DistributedDataParallel(_Model())
    return _result(model, worker_loss(model(graphs), views, config))


def _threads_of_groups() -> str:
    """The names of this process's threads that belong to a process group, where the system tells them."""
    names = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").glob("*")]
    return " ".join(name for name in names if "gloo" in name)


@pytest.mark.cluster
def test_two_workers_make_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    """A few hundred sums of rounded doubles: relative errors of 1e-16 x some thousand stay below 1e-12."""
    torch.multiprocessing.spawn(_work, (tmp_path,), nprocs=WORKERS)
    for name, config in CONFIGS.items():
        graphs, views = _batch(np.arange(WORKERS * EACH), config.eigenvalues)
        model = _Model()
        expected = _result(model, contrastive_loss(model(graphs), views, config))
        assert len(expected) == 1 + len(list(model.parameters()))
        workers = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(WORKERS)]
        losses = [worker.pop("loss") for worker in workers]
        assert losses[0] != losses[1]
        torch.testing.assert_close(sum(losses) / WORKERS, expected.pop("loss"), rtol=1e-12, atol=0)
        for worker in workers:
            for parameter, gradient in expected.items():
                torch.testing.assert_close(worker[parameter], gradient, rtol=1e-11, atol=1e-14)
    assert all((tmp_path / f"refused-{rank}").is_file() for rank in range(WORKERS))
    # Where they outlived the group, every third run ended with SIGABRT.
    assert [(tmp_path / f"threads-{rank}").read_text() for rank in range(WORKERS)] == [""] * WORKERS


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_without_a_group_it_is_the_loss_of_the_batch(config: ContrastiveConfig) -> None:
    graphs, views = _batch(np.arange(6), config.eigenvalues)
    embeddings = _Model()(graphs)
    assert torch.equal(worker_loss(embeddings, views, config), contrastive_loss(embeddings, views, config))
