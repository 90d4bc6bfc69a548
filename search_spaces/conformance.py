"""Check families against measured networks: files of architectures with their parameters, MACs, layers and logits.

A file ``<family>.jsonl`` holds one network per line: its ``config`` and what the reference code measured of it under
weights that a counter generates. See :func:`check_row` for what must agree.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from gennape.errors import GennapeError, InvalidDataError
from gennape.search_spaces import cost
from gennape.search_spaces.families import nb101
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.graph import ComputationGraph, pack
from gennape.search_spaces.module import compile_graph
from gennape.search_spaces.space import SearchSpace

#: Names that fixture files use for a family besides its own.
ALIASES = {"pn": "proxylessnas"}
#: Tolerance on logits, times the norm of the expected logits.
TOLERANCE = 1e-6
_BLOCK = 1 << 20  # the streams of a layer's tensors start this far apart
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "params": int,
    "macs": int,
    "out_shape": list,
    "conv_linear_sha256": str,
    "logits8": list,
    "logits_l2": (int, float),
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one forward pass of a network under the oracle's weights shows."""

    params: int
    macs: int
    out_shape: list[int]
    #: One string per executed convolution and fully connected layer, sorted.
    layers: list[str]
    logits: Float64[np.ndarray, " classes"]

    @property
    def conv_linear_sha256(self) -> str:
        """SHA-256 of the layers, one a line."""
        return hashlib.sha256("\n".join(self.layers).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class FixtureRow:
    """One line of a fixture file: its identity and content, or why it cannot be read."""

    identity: str
    content: Mapping[str, Any]
    problem: str | None = None


# Reading --------------------------------------------------------------------------------------------------------------


def fixture_files(directory: Path) -> list[Path]:
    """The ``<family>.jsonl`` files directly in ``directory``, sorted.

    Raises :class:`InvalidDataError` where the folder is missing, unreadable or has none.
    """
    if not directory.is_dir():
        raise InvalidDataError(f"{directory} is not a folder; give one that holds <family>.jsonl files")
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == ".jsonl" and path.is_file())
    except OSError as error:
        raise InvalidDataError(f"cannot read the folder {directory}: {error.strerror}") from None
    if not files:
        raise InvalidDataError(f"{directory} holds no <family>.jsonl file; nothing can be checked")
    return files


def space_of(path: Path) -> SearchSpace | None:
    """The search space that a fixture file is named after, None where there is no such family here."""
    key = ALIASES.get(path.stem, path.stem)
    return next((space for space in FAMILIES if space.name == key), None)


def read_rows(path: Path) -> list[FixtureRow]:
    """Every line of a fixture file; a line or file that cannot be read is a row with a problem."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return [FixtureRow("file", {}, f"cannot be read: {error}")]
    rows = [_parse(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    return rows or [FixtureRow("file", {}, "holds no rows")]


def _parse(line: str, number: int) -> FixtureRow:
    try:
        content = json.loads(line)
    except ValueError as error:
        return FixtureRow(f"line {number}", {}, f"is not JSON: {error}")
    if not isinstance(content, dict):
        return FixtureRow(f"line {number}", {}, f"is not an object but {type(content).__name__}")
    return FixtureRow(str(content.get("id", f"line {number}")), content)


# Checking -------------------------------------------------------------------------------------------------------------


def check_row(space: SearchSpace, row: FixtureRow) -> list[str]:
    """What differs between a row and the network that ``space`` makes of its ``config``; empty where all agrees.

    Compared exactly: parameters and MACs of the module (and of the graph), output shape, hash of the executed layers,
    and what the family itself can tell (:data:`EXTRA`). Compared in float64 to 1e-6 of their norm: logits.
    """
    problems = [row.problem] if row.problem else _malformed(space, row.content)
    if problems:
        return problems
    try:
        genome = space.decode(_architecture(space, row.content))
        graph = space.graph(genome)
        measured = measure(graph)
    except GennapeError as error:
        return [str(error)]
    packed = pack([graph])
    exact: dict[str, tuple[Any, Any]] = {
        key: (getattr(measured, key), row.content[key]) for key in ("params", "macs", "out_shape", "conv_linear_sha256")
    }
    exact["params of the graph"] = (int(cost.params(packed)[0]), measured.params)
    exact["macs of the graph"] = (int(cost.macs(packed)[0]), measured.macs)
    differ = [f"{key} is {got}, expected {wanted}" for key, (got, wanted) in exact.items() if got != wanted]
    extra = EXTRA.get(space.name)
    return differ + _logits_differ(measured.logits, row.content) + (extra(genome, row.content) if extra else [])


def _malformed(space: SearchSpace, content: Mapping[str, Any]) -> list[str]:
    family = str(content.get("family", space.name))
    if ALIASES.get(family, family) != space.name:
        return [f"belongs to family {family!r}, but its file is named after {space.name}"]
    if missing := [key for key in ("config", *_REQUIRED) if key not in content]:
        return [f"lacks {', '.join(missing)}"]
    problems = [
        f"{key} is {content[key]!r}, not {kind.__name__ if isinstance(kind, type) else 'a number'}"
        for key, kind in _REQUIRED.items()
        if not isinstance(content[key], kind) or isinstance(content[key], bool)
    ]
    if not problems and not all(type(value) in (int, float) for value in content["logits8"]):
        problems.append(f"logits8 is {content['logits8']!r}, not numbers")
    return problems


def _architecture(space: SearchSpace, content: Mapping[str, Any]) -> Any:
    """The row's config; its input size is the row's, which counts where the two differ."""
    config = content["config"]
    sized = any(gene.name == "resolution" for gene in space.genes)
    if sized and isinstance(config, dict) and "resolution" in content:
        return {**config, "resolution": content["resolution"]}
    return config


def _logits_differ(logits: Float64[np.ndarray, " classes"], content: Mapping[str, Any]) -> list[str]:
    expected, norm = np.array(content["logits8"], np.float64), float(content["logits_l2"])
    got, got_norm = logits[: len(expected)], float(np.linalg.norm(logits))
    limit = TOLERANCE * norm
    problems = []
    if got.shape != expected.shape or not np.abs(got - expected).max(initial=0.0) <= limit:
        problems.append(f"logits8 is {got.tolist()}, expected {expected.tolist()} to {limit:.3g}")
    if not abs(got_norm - norm) <= limit:
        problems.append(f"logits_l2 is {got_norm!r}, expected {norm!r} to {limit:.3g}")
    return problems


def _check_nb101(genome: Int64[np.ndarray, " g"], content: Mapping[str, Any]) -> list[str]:
    problems = []
    if "hash_md5" in content and (got := nb101.graph_hash(genome)) != content["hash_md5"]:
        problems.append(f"hash_md5 is {got}, expected {content['hash_md5']}")
    if "vertex_channels" in content:
        matrix = np.array(nb101.NasBench101().encode(genome)["matrix"])
        successors = tuple(tuple(np.flatnonzero(row).tolist()) for row in matrix)
        sizes = ((128, 128), (128, 256), (256, 256), (256, 512), (512, 512))
        channels = [list(nb101.vertex_channels(c_in, c_out, successors)) for c_in, c_out in sizes]
        if channels != content["vertex_channels"]:
            problems.append(f"vertex_channels is {channels}, expected {content['vertex_channels']}")
    return problems


#: Checks of what a family knows besides its graph: (genome, row) -> differences.
EXTRA: dict[str, Callable[[Int64[np.ndarray, " g"], Mapping[str, Any]], list[str]]] = {"nb101": _check_nb101}


# The oracle -----------------------------------------------------------------------------------------------------------


def measure(graph: ComputationGraph) -> Measurement:
    """Run the compiled network once in float64 under the oracle's weights and input (batch of one).

    Convolutions and fully connected layers are recorded as they execute.
    """
    with torch.device("meta"):  # the default initial weights would be drawn in vain
        module = compile_graph(graph)
    module = module.double().to_empty(device="cpu").eval()
    fill_weights(module)
    layers: list[str] = []
    macs: list[int] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append(_describe(layer, output))
        macs.append(_macs(layer, inputs[0], output))

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(record)
    shape = (1, *module.image_shape)
    image = torch.from_numpy(2 * uniform(math.prod(shape), 7 * _BLOCK) - 1).view(shape)
    with torch.inference_mode(), _one_thread():
        logits = module(image)
    params = sum(parameter.numel() for parameter in module.parameters())
    return Measurement(params, sum(macs), list(logits.shape), sorted(layers), logits.flatten().numpy())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread: in float64 a depthwise convolution is a parallel region per channel, which on
    busy cores takes twenty times as long in two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _describe(layer: nn.Module, output: Tensor) -> str:
    if isinstance(layer, nn.Conv2d):
        pairs = {"k": layer.kernel_size, "s": layer.stride, "p": layer.padding, "d": layer.dilation}
        window = " ".join(f"{key}{pair[0]}x{pair[1]}" for key, pair in pairs.items())
        h, w = output.shape[2:]
        bias = int(layer.bias is not None)
        return f"conv i{layer.in_channels} o{layer.out_channels} {window} g{layer.groups} b{bias} @{h}x{w}"
    return f"linear i{layer.in_features} o{layer.out_features} b{int(layer.bias is not None)}"


def _macs(layer: nn.Module, x: Tensor, output: Tensor) -> int:
    """Multiply-accumulates of one executed layer, bias not counted."""
    if isinstance(layer, nn.Conv2d):
        return output.numel() * layer.weight[0].numel()
    return x.shape[-1] * output.numel()


def fill_weights(module: nn.Module) -> None:
    """Set all weights, biases and statistics to the oracle's, which depend on their shapes alone."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = math.sqrt((6 if isinstance(layer, nn.Conv2d) else 3) / layer.weight[0].numel())
                _fill(layer.weight, -bound, 2 * bound, 0)
                if layer.bias is not None:
                    _fill(layer.bias, -0.1, 0.2, 1)
            elif isinstance(layer, nn.BatchNorm2d):
                tensors = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
                ranges = ((0.8, 0.4), (-0.1, 0.2), (-0.1, 0.2), (1.0, 0.5))
                for stream, (tensor, (low, width)) in enumerate(zip(tensors, ranges, strict=True)):
                    _fill(tensor, low, width, stream)


def _fill(tensor: Tensor | None, low: float, width: float, stream: int) -> None:
    if tensor is not None:
        values = uniform(tensor.numel(), stream * _BLOCK) * width + low
        tensor.copy_(torch.from_numpy(values).view(tensor.shape))


def uniform(n: int, offset: int) -> Float64[np.ndarray, " n"]:
    """Numbers ``offset`` to ``offset + n`` of the oracle's stream in [0, 1): splitmix64 of the counter (Steele et al.,
    2014)."""
    return _stream(max(16, (n - 1).bit_length()), offset)[:n]


@lru_cache(maxsize=32)
def _stream(bits: int, offset: int) -> Float64[np.ndarray, " n"]:
    z = (np.arange(1 << bits, dtype=np.uint64) + np.uint64(offset + 1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
