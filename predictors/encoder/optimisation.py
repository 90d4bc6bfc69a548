"""Optimisation of all networks here: batches that are reused, the optimiser with its schedule, and one step of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gennape.errors import ConfigError
from gennape.predictors.encoder.deduplication import DistinctSteps
from gennape.predictors.encoder.features import GraphBatch, featurize
from gennape.search_spaces.graphs.graph import PackedGraphs

CPU = torch.device("cpu")
_MAX_PROCESSES = 12  # that make batches for one GPU: more are not waited for

Key = TypeVar("Key")
Batch = TypeVar("Batch", GraphBatch, DistinctSteps)


def chosen_device(name: str | None = None) -> torch.device:
    """``cpu`` or ``cuda``, by default CUDA where there is a GPU; raises :class:`ConfigError` where there is none."""
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise ConfigError("no GPU that PyTorch can use was found, got device cuda; use cpu")
    return torch.device(name or ("cuda" if present else "cpu"))


def mixed_precision(device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 on GPUs; full precision on CPUs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


@dataclass(frozen=True)
class _ToBeMade(Dataset[Batch], Generic[Key, Batch]):
    """Batches, each made on access."""

    make: Callable[[Key], Batch]
    keys: Sequence[Key]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Batch:
        return self.make(self.keys[i])


def made(make: Callable[[Key], Batch], keys: Sequence[Key], device: torch.device) -> Iterator[Batch]:
    """The batch of each of the ``keys``, such as the rows of graphs, in their order, on ``device``.

    ``make`` gives it on the processor. A GPU takes less time for a step than a processor for its batch: other processes
    make them ahead of it then, as many as there are cores to spare.
    """
    processes = min(_MAX_PROCESSES, (os.cpu_count() or 1) - 1) if device.type == "cuda" else 0
    # A generator of its own, since the loader draws from it: masks of dropout shall not depend on how batches are made.
    loader = DataLoader(
        _ToBeMade(make, keys), batch_size=None, num_workers=processes, collate_fn=_as_made, generator=torch.Generator()
    )
    for batch in loader:
        yield batch.to(device)


def _as_made(batch: Batch) -> Batch:
    return batch


def regrouped(
    graphs: PackedGraphs,
    batches: int,
    epochs: int,
    regroup: int,
    deduplicate: Callable[[GraphBatch], DistinctSteps],
    rng: np.random.Generator,
    device: torch.device = CPU,
) -> Iterator[tuple[DistinctSteps, Int64[Tensor, " b"]]]:
    """``batches`` of all graphs for each epoch, with their rows, on ``device``: shuffled every epoch, put together anew
    every ``regroup`` epochs. Making one takes about as long as a step, and new ones teach no more."""
    for epoch in range(epochs):
        if epoch % regroup == 0:
            parts = np.array_split(rng.permutation(len(graphs)), batches)
            batches_made = list(made(lambda rows: deduplicate(featurize(graphs.take(rows))), parts, device))
            numbers = [torch.from_numpy(rows).to(device) for rows in parts]
        for i in rng.permutation(len(parts)):
            yield batches_made[i], numbers[i]


def adam(
    parameters: list[torch.nn.Parameter], rate: float, weight_decay: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a one-cycle schedule: the rate rises for a tenth of the steps, then falls."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=0.1)


def optimiser_step(
    loss: Float[Tensor, ""],
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One optimiser step on ``loss``; the gradient is clipped to a norm of 5."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()
    schedule.step()
