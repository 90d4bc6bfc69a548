"""Contrastive pretraining as one of several workers does it, all of whose graphs make one batch.

Knows ``torch.distributed`` and nothing of what starts the workers. Without a process group the same training runs alone
and, unless channels are dropped, gives the weights of :func:`pretraining.pretrain` bit for bit; several workers give
them up to rounding.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.nn
from jaxtyping import Float, Int64, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, distributed, nn

from gennape.errors import CheckpointError, ConfigError, WorkspaceError
from gennape.predictors.encoder.contrastive import ProjectionHead, Views, worker_loss
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import GraphBatch, featurize
from gennape.predictors.encoder.optimisation import CPU, adam, made, mixed_precision
from gennape.predictors.encoder.settings import EncoderConfig, PretrainConfig
from gennape.search_spaces.graphs.graph import PackedGraphs

_NORM_BOUND = 5.0  # of gradients, as in optimisation.optimiser_step
_TRAINING = "training"  # the entry of a state's metadata


def join_group(backend: str, file: str, rank: int, size: int, timeout: float) -> None:
    """Join the group of the workers on this machine, by a file, and talk over loopback: no other machine reaches it.

    ``torch.distributed.nn`` must be imported before, as it is above: its functions keep the group that is there when it
    is imported as their default, for ever. The threads of that group would then outlive ``destroy_process_group``, and
    now and then end the process with SIGABRT when they let go of a tensor while Python shuts down.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.update({"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback})
    distributed.init_process_group(
        backend, f"file://{file}", rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )


def workers() -> int:
    """How many workers train together; 1 without a process group."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def rank() -> int:
    """Which of them this process is, from 0 on."""
    return distributed.get_rank() if workers() > 1 else 0


@dataclass(frozen=True, slots=True, eq=False)
class PretrainData:
    """What is pretrained on: graphs, the smallest eigenvalues of their normalised Laplacians, and their families."""

    graphs: PackedGraphs
    spectra: Float[np.ndarray, "g q"]
    families: Int64[np.ndarray, " g"]


class BatchOrder:
    """The graphs of each step: a function of the generator's state and the step alone, as :func:`pretraining.pretrain`
    draws them. An incomplete last batch of an epoch is dropped unless it is the only one."""

    def __init__(self, graphs: int, batch: int, rng: np.random.Generator) -> None:
        self.per_epoch = max(1, graphs // batch)
        self._graphs, self._batch, self._rng = graphs, batch, copy.deepcopy(rng)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def rows(self, step: int) -> Int64[np.ndarray, " b"]:
        """Indices of graphs."""
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rng = copy.deepcopy(self._rng)
            for _ in range(epoch + 1):
                order = rng.permutation(self._graphs)
            self._epoch, self._order = epoch, order
        return self._order[i * self._batch : (i + 1) * self._batch]


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation without weights over the rows of all workers, which may have different numbers of them.

    Running statistics are those of the global batch, too, and equal on every worker. Works on processors and GPUs,
    unlike ``torch.nn.SyncBatchNorm``; tensors have the same names as those of ``BatchNorm1d``.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)

    def forward(self, input: Float[Tensor, "g d"]) -> Float[Tensor, "g d"]:  # noqa: A002 (the name of the base class)
        """Normalise; in training by the batch, else by the running statistics."""
        if not self.training or workers() == 1:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        sums: Tensor = _Sum.apply(torch.cat([x.sum(0), x.new_full((1,), len(x))]))  # type: ignore[no-untyped-call]
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centred = x - mean  # not the mean of squares less the squared mean, of which rounding would leave little
        variance: Tensor = _Sum.apply(centred.square().sum(0)) / n  # type: ignore[no-untyped-call]
        self._follow(mean.detach(), variance.detach() * n / (n - 1))
        return centred * torch.rsqrt(variance + self.eps)

    @torch.no_grad()
    def _follow(self, mean: Float[Tensor, " d"], variance: Float[Tensor, " d"]) -> None:
        statistics = (self.running_mean, mean), (self.running_var, variance)
        for running, value in statistics:
            if running is not None and self.momentum is not None:
                running.lerp_(value.to(running.dtype), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _Sum(torch.autograd.Function):
    """The sum over workers; its gradient is the sum of what all workers' losses make of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(gradients[0])


def _summed(x: Shaped[Tensor, "*_"]) -> Shaped[Tensor, "*_"]:
    total = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


class WorkerPretraining:
    """The pretraining of an encoder, from the side of one worker: every worker makes one with the same arguments, and
    they :meth:`advance` together.

    The graphs of a step are dealt out evenly; where workers do not divide a batch, up to ``workers - 1`` of its graphs
    are left out of that step. Dropout masks are a function of generator, step, rank and number of workers, so that
    what is resumed by as many workers ends with the same weights, bit for bit on processors. Gradients go round in
    one piece beside the loss: the model is small, and their sum does not depend on when each was ready, as it does in
    ``DistributedDataParallel`` with more than two workers.
    """

    def __init__(
        self,
        data: PretrainData,
        encoder_config: EncoderConfig,
        config: PretrainConfig,
        rng: np.random.Generator,
        device: torch.device = CPU,
    ) -> None:
        known = data.spectra.shape[1]
        if known < config.contrast.eigenvalues:
            raise ConfigError(f"the loss compares {config.contrast.eigenvalues} eigenvalues, got spectra of {known}")
        if min(config.batch, len(data.graphs)) < workers():
            raise ConfigError(f"a batch of {config.batch} is too small for {workers()} workers; use fewer workers")
        rng = copy.deepcopy(rng)
        self._seed = int(rng.integers(2**31))
        torch.manual_seed(self._seed)
        self.encoder, self.head = GraphEncoder(encoder_config), ProjectionHead(encoder_config.embedding)
        self.encoder.centre = GlobalBatchNorm(self.encoder.centre.num_features)
        self.encoder.to(device).train()
        self.head.to(device).train()
        self._data, self._config, self._device = data, config, device
        self._parameters = [*self.encoder.parameters(), *self.head.parameters()]
        self._order = BatchOrder(len(data.graphs), config.batch, rng)
        self.step, self.steps = 0, config.epochs * self._order.per_epoch
        self._optimizer, self._schedule = adam(self._parameters, config.learning_rate, config.weight_decay, self.steps)
        self._coming: Iterator[GraphBatch] = iter(())
        self._due = (-1, 0)  # the step that comes next, and of how many workers
        #: From which step on how many workers trained.
        self.groups: list[tuple[int, int]] = []

    def advance(self) -> tuple[int, float]:
        """One step of all workers; returns the number of graphs and the loss, both of the global batch."""
        mine, batch = self._mine(self.step), self._next()
        twice = np.tile(mine, 2)
        numbers = np.random.SeedSequence([self._seed, self.step, workers(), rank()]).generate_state(1, np.uint64)
        torch.manual_seed(int(numbers[0]))
        spectra = torch.from_numpy(self._data.spectra[twice, : self._config.contrast.eigenvalues]).float()
        views = Views(torch.from_numpy(twice), torch.from_numpy(self._data.families[twice]), spectra)
        with mixed_precision(self._device):
            projected = self.head(self.encoder(batch.doubled()))
        loss = worker_loss(projected.float(), views.to(self._device), self._config.contrast)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        mean = _average(self._parameters, loss.detach())
        nn.utils.clip_grad_norm_(self._parameters, _NORM_BOUND)
        self._optimizer.step()
        self._schedule.step()
        if not self.groups or self.groups[-1][1] != workers():
            self.groups.append((self.step, workers()))
        self.step += 1
        return len(mine) * workers(), float(mean)

    def _mine(self, step: int) -> Int64[np.ndarray, " v"]:
        """This worker's graphs of a step."""
        rows = self._order.rows(step)
        each = len(rows) // workers()
        return rows[rank() * each : (rank() + 1) * each]

    def _next(self) -> GraphBatch:
        """The batch of this step: of those being made, unless these are of another step or number of workers."""
        if self._due != (self.step, workers()):
            later = range(self.step, self.steps)
            self._coming = made(lambda step: featurize(self._data.graphs.take(self._mine(step))), later, self._device)
        self._due = self.step + 1, workers()
        return next(self._coming)

    def agree(self) -> None:
        """Raises :class:`WorkspaceError` where workers are not at the same step."""
        if workers() == 1:
            return
        mine = torch.tensor([self.step], device=self._device)
        steps = [torch.empty_like(mine) for _ in range(workers())]
        distributed.all_gather(steps, mine)
        if not all(torch.equal(step, steps[0]) for step in steps):
            found = [int(step) for step in steps]
            raise WorkspaceError(f"workers found checkpoints of the steps {found}; use a folder that machines share")

    def state(self) -> bytes:
        """All that :meth:`restore` goes on from, as a file of safetensors: weights, optimiser, schedule, step."""
        optimizer = self._optimizer.state_dict()
        moments = {
            f"optimizer.{i}.{name}": tensor for i, entry in optimizer["state"].items() for name, tensor in entry.items()
        }
        tensors = _prefixed("encoder.", self.encoder) | _prefixed("head.", self.head) | moments
        training = {
            "step": self.step,
            "groups": self.groups,
            "optimizer": optimizer["param_groups"],
            "schedule": self._schedule.state_dict(),
        }
        portable = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return save(portable, {_TRAINING: json.dumps(training)})

    def restore(self, path: Path) -> None:
        """Go on from a :meth:`state`; raises :class:`CheckpointError` for a file that is none, or of other sizes."""
        tensors, training = _read_state(path)
        try:
            self.encoder.load_state_dict(_split(tensors, "encoder."))
            self.head.load_state_dict(_split(tensors, "head."))
            moments: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _split(tensors, "optimizer.").items():
                number, _, what = name.partition(".")
                moments.setdefault(int(number), {})[what] = tensor
            groups = [{**group, "betas": tuple(group["betas"])} for group in training["optimizer"]]
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self._schedule.load_state_dict(training["schedule"])
            self.step, self.groups = training["step"], [(start, n) for start, n in training["groups"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} is not of this training: {error}; remove it to begin anew") from error


def state_of_encoder(path: Path, config: EncoderConfig) -> tuple[GraphEncoder, list[tuple[int, int]]]:
    """The encoder in a :meth:`WorkerPretraining.state`, ready to use, and from which step on how many workers trained.

    Raises :class:`CheckpointError` as :meth:`WorkerPretraining.restore` does.
    """
    tensors, training = _read_state(path)
    encoder = GraphEncoder(config)
    try:
        encoder.load_state_dict(_split(tensors, "encoder."))
        return encoder.eval(), [(start, n) for start, n in training["groups"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not of this training: {error}; remove it to begin anew") from error


def _read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return tensors, json.loads((file.metadata() or {})[_TRAINING])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; remove it to begin anew") from error


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def _split(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _average(parameters: list[nn.Parameter], loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Put in the place of each gradient its mean over workers; returns the mean of their losses."""
    if workers() == 1:
        return loss
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = _summed(torch.cat([loss.reshape(1), *(gradient.reshape(-1) for gradient in gradients)])) / workers()
    for gradient, mean in zip(gradients, torch.split(flat[1:], [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
    return flat[0]
