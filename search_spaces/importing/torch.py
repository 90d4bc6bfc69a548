"""Trace a PyTorch module into a computation graph by running it once on meta tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy

from gennape.errors import InvalidDataError, InvalidGraphError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack
from gennape.search_spaces.graphs.operations import other_kind
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.weight_sharing import counted_once, tied
from gennape.search_spaces.importing.imported import Imported
from gennape.search_spaces.importing.passes import tidied
from gennape.search_spaces.importing.tracing import (
    arithmetic,
    attention,
    functions,
    layers,
    overloads,
    pools,
    products,
    rewrites,
    shapes,
    slices,
)
from gennape.search_spaces.importing.tracing.preservation import preserved
from gennape.search_spaces.importing.tracing.recorder import Recorder, number_in
from gennape.search_spaces.importing.tracing.surroundings import plain
from gennape.search_spaces.importing.tracing.tables import Handler, Substitute
from gennape.search_spaces.importing.tracing.traced_value import settle

#: Handlers that turn calls of PyTorch functions into nodes.
HANDLERS: dict[Any, Handler] = {
    **functions.HANDLERS,
    **pools.HANDLERS,
    **layers.HANDLERS,
    **shapes.HANDLERS,
    **slices.HANDLERS,
    **arithmetic.HANDLERS,
    **products.HANDLERS,
}
#: Functions that are replaced by simpler ones before recording.
SUBSTITUTES: dict[Any, Substitute] = {
    **functions.SUBSTITUTES,
    **shapes.SUBSTITUTES,
    **arithmetic.SUBSTITUTES,
    **attention.SUBSTITUTES,
    **overloads.SUBSTITUTES,
    **rewrites.SUBSTITUTES,
}


@dataclass(frozen=True, slots=True, eq=False)
class Traced(Imported):
    """A network traced from PyTorch.

    ``weights`` maps a node to the names, in the module, of its layer's tensors: weight and bias, for a batch
    normalisation also running mean and variance. None stands for a tensor that is computed from others. ``shared``
    counts the uses of parameters used more than once: the graph has a layer for each use, and these are tied, so that
    their parameters count once. ``took_numbers`` is True if the module reads the values in a tensor: the trace then
    holds for the example only.
    """

    weights: dict[int, tuple[str | None, ...]] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    took_numbers: bool = False


Example = Tensor | tuple[int, int, int]
#: Most elements of an image that is given by its sizes.
_MAX_NUMBERS = 2**40


def from_torch(module: nn.Module | ExportedProgram, example: Example | None = None) -> ComputationGraph:
    """Read a PyTorch network as a computation graph, in evaluation mode.

    The module runs once, on a meta tensor. It is left unchanged, and its weights are neither copied nor moved.
    `gennape.search_spaces.importing.torch.trace` also returns which weights belong to which node.

    Args:
        module: An ``nn.Module``, or the result of ``torch.export.export``.
        example: One image, [1, c, h, w] or [c, h, w], or only its (channels, height, width). An exported program with
            fixed sizes needs none.

    Returns:
        The graph.

    Raises:
        InvalidDataError: The example is no image.
        InvalidGraphError: The module fails on it, does not return one tensor, or calls unsupported functions. All of
            these are listed, each with the path of the module that calls it.

    Example:
        >>> import gennape as gp
        >>> from torch import nn
        >>> pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), pool, nn.Linear(16, 10))
        >>> graph = gp.from_torch(module, (3, 32, 32))
        >>> gp.params(graph) == sum(p.numel() for p in module.parameters())
        True
    """
    return trace(module, example).graph


def trace(module: Any, example: Example | None = None) -> Traced:
    """Trace ``module``, an ``nn.Module`` or an exported program, in evaluation mode on one image.

    ``example`` is the image, [1, c, h, w] or [c, h, w], or only its channels, height and width; an exported program
    whose input has fixed sizes needs none. Weights are neither copied nor moved, and the module is left unchanged. A
    module that reads the values in a tensor runs on its own device, on the example or on zeros.

    Raises :class:`InvalidDataError` if the example is no image, and :class:`InvalidGraphError` if the module fails on
    it, does not return one tensor, or calls unsupported functions. All of these are listed, each with the path of the
    module that calls it.
    """
    if isinstance(module, ExportedProgram):
        example = _example_of(module) if example is None else example
        module = module.module(check_guards=False)
    module = getattr(module, "_orig_mod", module)  # the module before torch.compile
    _refuse(module)
    image = _image(module, example)
    try:
        return _run(module, image, meta=True)
    except _ForwardError as error:
        if any(x.is_meta for x in _held(module)):
            raise InvalidGraphError(
                f"{error}; the module is on the meta device: if it reads values, create it on the CPU"
            ) from error.__cause__
    try:
        return _run(module, image, meta=False)
    except _ForwardError as error:
        raise InvalidGraphError(str(error)) from error.__cause__


def trace_without_numbers(module: nn.Module, image: Tensor) -> Traced:
    """Like :func:`trace`, for a module made for this one run that never reads values."""
    try:
        return _run(module, image, meta=True, passing=True)
    except _ForwardError as error:
        raise InvalidGraphError(str(error)) from error.__cause__


def _example_of(program: ExportedProgram) -> tuple[int, int, int]:
    """Channels, height and width of the one image that a program takes."""
    names = set(program.graph_signature.user_inputs)
    given = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    shapes = [tuple(x.shape) for x in given if isinstance(x, Tensor)]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise InvalidGraphError(f"the program has inputs of shapes {shapes}, must have one image")
    batch, *sizes = shapes[0]
    if type(batch) is int and batch != 1:
        raise InvalidGraphError(
            f"the program takes a batch of {batch} images; export it with batch size one, or a dynamic one"
        )
    if not all(type(size) is int for size in sizes):
        raise InvalidDataError("the program leaves its input's size open; give an example: (channels, height, width)")
    return (sizes[0], sizes[1], sizes[2])


class _ForwardError(InvalidGraphError):
    """The module itself failed."""


def _image(module: nn.Module, example: Any) -> Tensor:
    """The example as one detached image [1, c, h, w]; sizes become a meta tensor with the parameters' dtype."""
    if not isinstance(example, Tensor):
        sizes = list(example) if isinstance(example, tuple | list) else []
        if len(sizes) != 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise InvalidDataError(f"an example is an image, or (channels, height, width); got {_got(example)}")
        if math.prod(sizes) > _MAX_NUMBERS:
            raise InvalidDataError(f"an example has at most {_MAX_NUMBERS} elements; got {_got(example)}")
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
        return torch.empty(1, *sizes, dtype=dtype, device="meta")
    image = example[None] if example.dim() == 3 else example
    if image.dim() != 4 or image.shape[0] != 1 or image.numel() == 0:
        raise InvalidDataError(
            f"an example is one image, [1, channels, height, width]; got {list(example.shape)}: pick one of a batch"
        )
    return image.detach()


def _got(example: Any) -> str:
    """Describe an example that is not a tensor; an array by its shape."""
    shape = getattr(example, "shape", None)
    return (
        f"{example!r:.200}" if shape is None else f"a {type(example).__name__} of shape {list(shape)}: make it a tensor"
    )


def _refuse(module: Any) -> None:
    """Raise for objects that are no module, and for scripted and lazy modules, which cannot be traced."""
    if not isinstance(module, nn.Module):
        raise InvalidGraphError(
            f"a trace takes an nn.Module or an exported program, got {module!r:.200}; wrap a function in a module, as "
            "its forward method"
        )
    scripted = [name or "the module" for name, part in module.named_modules() if isinstance(part, ScriptModule)]
    if scripted:
        raise InvalidGraphError(
            f"scripted modules cannot be traced: {', '.join(scripted[:8])}; give the modules before scripting"
        )
    lazy = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise InvalidGraphError(f"lazy modules have no weights yet: {', '.join(lazy[:8])}; run the module once first")


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


@plain()
def _run(module: nn.Module, image: Tensor, meta: bool, passing: bool = False) -> Traced:
    """One forward pass under a recorder, on the meta device or on that of the module's weights.

    With ``passing`` the module is not used afterwards, and its state is not restored.
    """
    r = Recorder(module, HANDLERS, SUBSTITUTES, meta)
    for name, parameter in module.named_parameters():
        r.parameter(name, r.stand_in(parameter))
    for name, buffer in module.named_buffers():
        r.fixed(r.stand_in(buffer), name, number_in(buffer))
    for tensor in _attributes(module):
        r.fixed(r.stand_in(tensor), number=number_in(tensor))
    x = torch.empty_like(image, device="meta") if meta else _numbers(module, image)
    r.image(x)
    with torch.no_grad(), nullcontext() if passing else preserved(module, numbers=not meta):
        for part in module.modules():  # ``eval`` may be overridden
            part.training = False
        out = _call(r, module, x)
        return _finish(r, out, took_numbers=not meta)


def _numbers(module: nn.Module, image: Tensor) -> Tensor:
    """A copy of the image on the device of the module's weights; zeros if it is a meta tensor."""
    device = next((x.device for x in _held(module)), torch.device("cpu"))
    return torch.zeros_like(image, device=device) if image.is_meta else image.to(device, copy=True)


def _attributes(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that modules hold as plain attributes, not as parameters or buffers."""
    for part in module.modules():
        for name, value in part.__dict__.items():
            if name in ("_parameters", "_buffers"):
                continue
            items = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
            )
            yield from (item for item in items if isinstance(item, Tensor) and not isinstance(item, nn.Parameter))


def _call(r: Recorder, module: nn.Module, x: Tensor) -> Any:
    """The module's result; raises :class:`_ForwardError` with the place where it fails."""
    try:
        with torch.device("meta") if r.meta else nullcontext(), r:
            return module(x)
    except Exception as error:
        places = [r.place(frame) for frame, _ in walk_tb(error.__traceback__)]
        place = next((place for place in reversed(places) if place), type(module).__name__)
        shape = "x".join(map(str, x.shape[1:]))
        message = next(iter(str(error).strip().splitlines()), "no message")
        raise _ForwardError(
            f"the network does not run on an image of {shape} (channels, height, width): "
            f"{place} raises {type(error).__name__}: {message}"
        ) from error


def _finish(r: Recorder, out: Any, took_numbers: bool) -> Traced:
    if not isinstance(out, Tensor):
        raise InvalidGraphError(
            f"the network must return one tensor, but returns {_describe(out)}; wrap it in a module that picks one"
        )
    if out.numel() == 0:
        raise InvalidGraphError(f"the network's result is empty: it has the shape {list(out.shape)}")
    if r.is_traced(out) and r.is_stale(out):
        r.problem("part of the network's result was changed in place")
    if r.problems:
        listed = "\n".join(f"  {problem}" for problem in r.problems)
        raise InvalidGraphError(
            f"{len(r.problems)} parts of the network cannot be expressed as a graph:\n{listed}\n"
            "Write them with other functions, or add a handler to HANDLERS of gennape.search_spaces.importing.torch"
        )
    if not r.is_traced(out):
        raise InvalidGraphError("the network's result does not depend on the image")
    r.b.output(settle(r.b, r.traced(out)).value)
    graph, kept = tidied(r.b.build())
    position = {int(old): new for new, old in enumerate(kept)}
    called = {other_kind(name): name for name in r.names}
    kinds = graph.nodes[graph.nodes[:, Column.OP] == Op.OTHER, Column.KIND]
    others = Counter(called[kind] for kind in kinds.tolist())
    weights = {position[node]: names for node, names in r.weights.items() if node in position}
    learns = cost.node_params(pack([graph])) > 0
    held = {position[node]: node for node in r.identities if node in position and learns[position[node]]}
    nodes = counted_once(graph.nodes, {new: r.numbers[old] for new, old in held.items()})
    learns = cost.node_params(pack([replace(graph, nodes=nodes)])) > 0
    nodes = tied(nodes, {new: r.identities[old] for new, old in held.items() if learns[new]})
    return Traced(replace(graph, nodes=nodes), dict(others), weights, r.shared, took_numbers)


def _describe(out: Any) -> str:
    if isinstance(out, dict):
        return "a dictionary of " + ", ".join(f"{key} ({_describe(value)})" for key, value in out.items())
    if isinstance(out, list | tuple):
        return f"a {type(out).__name__} of " + ", ".join(map(_describe, out))
    return f"a tensor {list(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
