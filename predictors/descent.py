"""Gradient descent as all networks here are trained: batches that are used again, the optimiser, and a step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gennape.errors import ConfigError
from gennape.predictors.features import GraphBatch, featurize
from gennape.predictors.sharing import SharedSteps
from gennape.search_spaces.graph import PackedGraphs

CPU = torch.device("cpu")


def chosen_device(name: str | None = None) -> torch.device:
    """``cpu`` or ``cuda``, by default CUDA where there is a GPU; raises :class:`ConfigError` where there is none."""
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise ConfigError("no GPU that PyTorch can use was found, got device cuda; use cpu")
    return torch.device(name or ("cuda" if present else "cpu"))


def mixed_precision(device: torch.device) -> torch.autocast:
    """Products of matrices in bfloat16 on GPUs; on processors all stays as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def regrouped(
    graphs: PackedGraphs,
    batches: int,
    epochs: int,
    regroup: int,
    share: Callable[[GraphBatch], SharedSteps],
    rng: np.random.Generator,
    device: torch.device = CPU,
) -> Iterator[tuple[SharedSteps, Int64[Tensor, " b"]]]:
    """``batches`` of all graphs for each epoch, with their rows, on ``device``: shuffled every epoch, put together anew
    every ``regroup`` epochs. Making one takes about as long as a step, and new ones teach no more."""
    for epoch in range(epochs):
        if epoch % regroup == 0:
            parts = np.array_split(rng.permutation(len(graphs)), batches)
            made = [
                (share(featurize(graphs.take(rows))).to(device), torch.from_numpy(rows).to(device)) for rows in parts
            ]
        for i in rng.permutation(len(made)):
            yield made[i]


def adam(
    parameters: list[torch.nn.Parameter], rate: float, weight_decay: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, and a schedule of its rate that rises for a tenth of the steps and then falls."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=0.1)


def descend(
    loss: Float[Tensor, ""],
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One step against the gradient of ``loss``, whose norm is bounded by 5."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()
    schedule.step()
