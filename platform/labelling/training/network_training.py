"""Train one network on images by a recipe, and say how well it does."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gennape.errors import CheckpointError
from gennape.platform.labelling.training.captured import captured, own_stream
from gennape.platform.labelling.training.device_images import DeviceImages, Shown
from gennape.platform.labelling.training.failures import DivergedError, UnsuitableImagesError, memory_named
from gennape.platform.labelling.training.nesterov import laid_out, nesterov_step
from gennape.platform.labelling.training.recipe import MIRRORED, Recipe, Seed, draws
from gennape.search_spaces.files.atomic import replacing
from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.module import GraphModule, compile_graph, initialise
from gennape.search_spaces.graphs.ops import Op

_SHOWN_AT_ONCE = 1000  # images of an evaluation

#: Told of each finished epoch, counted from 1, and of the accuracy on the validation images in percent.
OnEpoch = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training gave: accuracies in percent by epoch on the validation images, and once on those of the test.

    ``seconds`` of all epochs with their validation; ``images_per_second`` of the training steps alone; ``recorded``,
    whether the steps ran as CUDA graphs.
    """

    validation: list[float]
    test: float | None
    seconds: float
    images_per_second: float
    device: str
    recorded: bool


@dataclass(slots=True)
class TrainingProgress:
    """How far a training has come."""

    validation: list[float] = field(default_factory=list)
    seconds: float = 0.0
    step_seconds: float = 0.0


def train(
    graph: ComputationGraph,
    data: DeviceImages,
    recipe: Recipe,
    seed: Seed,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch = lambda epoch, accuracy: None,  # noqa: ARG005
    record: bool | None = None,
    save_after: float = 30.0,
) -> TrainingResult:
    """Train the network of ``graph``, from its first weights or from where ``checkpoint`` says it was.

    ``checkpoint``: a file by which a training that was cut off goes on, written at the end of an epoch when that last
    happened ``save_after`` seconds ago; on a processor it ends in the same bits. The caller removes it. ``record``: run
    steps as CUDA graphs, by default on a GPU.

    Raises :class:`UnsuitableImagesError`, :class:`DivergedError`, :class:`DeviceMemoryError`, and
    :class:`CheckpointError` where the file is of another training.
    """
    check_network(graph, data.size, len(data.classes))
    on_gpu = data.device.type == "cuda"
    stream = own_stream() if on_gpu else nullcontext()
    with memory_named(data.device), stream:
        training = NetworkTraining(graph, data, recipe, seed, on_gpu if record is None else record)
        try:
            if checkpoint is not None:
                training.load(checkpoint)
            saved = time.monotonic()
            while len(training.progress.validation) < recipe.epochs:
                accuracy = training.epoch()
                if checkpoint is not None and time.monotonic() - saved >= save_after:
                    training.save(checkpoint)
                    saved = time.monotonic()
                on_epoch(len(training.progress.validation), accuracy)
            return training.outcome()
        finally:
            training.release()


def check_network(graph: ComputationGraph, size: tuple[int, int], classes: int) -> None:
    """Raise :class:`UnsuitableImagesError` where a network takes no images of a size, or tells fewer classes apart."""
    ops = graph.nodes[:, Column.OP].tolist()
    takes = graph.nodes[ops.index(Op.INPUT), Column.C_IN : Column.W_IN + 1].tolist()
    gives = graph.nodes[ops.index(Op.OUTPUT), Column.C_OUT : Column.W_OUT + 1].tolist()
    if takes != [3, *size]:
        raise UnsuitableImagesError(
            f"the network takes {takes[0]} channels of {takes[1]} x {takes[2]} pixels, the images have 3 of "
            f"{size[0]} x {size[1]}; have the images resized, or take a family for their size"
        )
    if gives[1:] != [1, 1] or gives[0] < classes:
        raise UnsuitableImagesError(
            f"the network tells {gives[0] if gives[1:] == [1, 1] else 'no'} classes apart, the images have {classes}; "
            "take a family of as many, or images of fewer"
        )


class NetworkTraining:
    """A training under way: the network, the averages of its weights, momenta, and how far it has come."""

    def __init__(self, graph: ComputationGraph, data: DeviceImages, recipe: Recipe, seed: Seed, record: bool) -> None:
        self.data, self.recipe, self.seed, self.record = data, recipe, seed, record
        device = data.device
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # shapes never change; which algorithm is fastest is soon found:
            torch.backends.cudnn.benchmark_limit = 3  # of the likeliest; trying ten takes three times as long
        network = compile_graph(graph)
        initialise(network, seed.generator(0))
        self.network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.averaged: GraphModule = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.weights: list[Tensor] = list(self.network.parameters())
        self.momenta = [torch.zeros_like(weight) for weight in self.weights]
        self._decayed = [i for i, weight in enumerate(self.weights) if weight.dim() > 1]
        self._new = [*self.weights, *_statistics(self.network)]
        self._old = [*self.averaged.parameters(), *_statistics(self.averaged)]
        self.steps = len(data.labels) // recipe.batch
        total = self.steps * recipe.epochs
        self._rates, self._parts = (
            torch.tensor(table, dtype=torch.float32, device=device)
            for table in (recipe.rates(total), recipe.weights_of_new(total))
        )
        self._draws = torch.zeros((self.steps, recipe.batch, 6), dtype=torch.int32, device=device)
        self._losses = torch.zeros(self.steps, device=device)
        self._step, self._first, self._part, self._right = (
            torch.zeros(1, dtype=torch.int64, device=device) for _ in range(4)
        )
        self.progress = TrainingProgress()
        self._run: Callable[[], None] | None = None
        self._validate: Callable[[], None] | None = None

    # Work on the device -----------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        """One step; which one, and on which images, is told by tensors alone, so that it can be recorded."""
        at = self._step - self._first
        images, labels = self.data.changed(self._draws[at][0].long(), self.recipe.cutout)
        with self._precision():
            logits = self.network(images).flatten(1)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.smoothing)
        found = torch.autograd.grad(loss, self.weights, materialize_grads=True)
        gradients = [laid_out(gradient, weight) for gradient, weight in zip(found, self.weights, strict=True)]
        with torch.no_grad():
            nesterov_step(self.weights, gradients, self.momenta, self._decayed, self._rates[self._step][0], self.recipe)
            change = torch._foreach_sub(self._new, self._old)
            torch._foreach_mul_(change, self._parts[self._step][0])
            torch._foreach_add_(self._old, change)
            self._losses.index_copy_(0, at, loss.detach()[None])
            self._step += 1

    def _count_right(self, shown: Shown) -> None:
        """Add to ``_right`` how many of the next images are told rightly."""
        n = len(shown.labels)
        rows = self._part * _SHOWN_AT_ONCE + torch.arange(min(_SHOWN_AT_ONCE, n), device=self.data.device)
        real, rows = rows < n, rows.clamp(max=n - 1)
        with torch.no_grad(), self._precision():
            logits = self.averaged(self.data.normalised(shown.pixels[rows])).flatten(1)
        self._right += ((logits.float().argmax(1) == shown.labels[rows]) & real).sum()
        self._part += 1

    def _precision(self) -> torch.autocast:
        low = self.recipe.precision == "bf16"
        return torch.autocast(self.data.device.type, torch.bfloat16, enabled=low, cache_enabled=False)

    # Epochs -----------------------------------------------------------------------------------------------------------

    def epoch(self) -> float:
        """Train for one epoch; returns the accuracy on the validation images. Raises :class:`DivergedError`."""
        start = time.perf_counter()
        number = len(self.progress.validation)
        chosen = draws(
            self.seed.generator(1 + number), len(self.data.labels), self.recipe.batch, self.recipe.crop, self.data.size
        )
        if not self.recipe.mirror:
            chosen[..., MIRRORED] = 0
        self._draws.copy_(torch.from_numpy(chosen))
        self._first.copy_(self._step)
        step = self._recorded()
        begun = time.perf_counter()
        for _ in range(self.steps):
            step()
        finite = torch.isfinite(self._losses).cpu()  # waits for the steps
        self.progress.step_seconds += time.perf_counter() - begun
        if not bool(finite.all()):
            raise DivergedError(number * self.steps + int(finite.int().argmin()), number)
        accuracy = self.accuracy(self.data.validation, self._validate)
        self.progress.validation.append(accuracy)
        self.progress.seconds += time.perf_counter() - start
        return accuracy

    def _recorded(self) -> Callable[[], None]:
        if self._run is None:
            self._run = self._train_step
            self._validate = self._count_validation
            if self.record:
                state = [*self.tensors().values(), self._losses, self._step]
                self._run = captured(self._train_step, state)
                self._validate = captured(self._count_validation, [self._part, self._right])
        return self._run

    def release(self) -> None:
        """Let go of the device's memory at once: what was recorded refers to the training, and the training to it."""
        self._run = self._validate = None

    def _count_validation(self) -> None:
        self._count_right(self.data.validation)

    def accuracy(self, shown: Shown, count: Callable[[], None] | None = None) -> float:
        """Of the averaged weights, in percent."""
        self._part.zero_()
        self._right.zero_()
        for _ in range(-(-len(shown.labels) // _SHOWN_AT_ONCE)):
            if count is None:
                self._count_right(shown)
            else:
                count()
        return 100 * int(self._right) / len(shown.labels)

    def outcome(self) -> TrainingResult:
        """What the finished training gave; the test images are looked at here alone."""
        done, device = self.progress, self.data.device
        test = None if self.data.test is None else self.accuracy(self.data.test)
        images = len(done.validation) * self.steps * self.recipe.batch
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        return TrainingResult(
            done.validation, test, done.seconds, images / max(done.step_seconds, 1e-9), name, self.record
        )

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All that training changes, by name."""
        networks = {"network": self.network, "averaged": self.averaged}
        state = {f"{kind}.{name}": value for kind, net in networks.items() for name, value in net.state_dict().items()}
        names = (name for name, _ in self.network.named_parameters())
        return state | {f"momentum.{name}": value for name, value in zip(names, self.momenta, strict=True)}

    def _identity(self) -> dict[str, Any]:
        """What tells this training from others."""
        return {"recipe": self.recipe.sha256, "data": self.data.sha256, "seed": asdict(self.seed)}

    def save(self, path: Path) -> None:
        """Write the state after an epoch, whole or not at all."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors().items()}
        metadata = {
            "training": json.dumps(self._identity(), sort_keys=True),
            "progress": json.dumps(asdict(self.progress)),
        }
        with replacing(path) as temporary:
            try:
                save_file(tensors, temporary, metadata)
            except SafetensorError as error:
                raise OSError(str(error)) from error

    def load(self, path: Path) -> None:
        """Go on from a state that was saved, if there is one; raises :class:`CheckpointError`."""
        if not path.exists():
            return
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("training") != json.dumps(self._identity(), sort_keys=True):
                    raise CheckpointError(f"{path} is of another network, recipe, seed or images; remove it")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            self.progress = TrainingProgress(**json.loads(metadata["progress"]))
            for name, value in self.tensors().items():
                value.copy_(state[name])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is no whole checkpoint of a training ({error}); remove it") from error
        self._step.fill_(len(self.progress.validation) * self.steps)


def _statistics(network: GraphModule) -> list[Tensor]:
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]
