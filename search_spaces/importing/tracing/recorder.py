"""Record a module's calls on an image as nodes of a computation graph.

:class:`Recorder` intercepts every call of a PyTorch function. Tensors are of two kinds: those that depend on the image
have a :class:`TracedValue`; constants have the names of the parameters they were computed from. A call on constants
alone adds no node. All others are looked up in a table of handlers. A call without a handler is a problem; recording
goes on, so that all problems are reported at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import Column
from gennape.search_spaces.graphs.operations import Fragment, Value
from gennape.search_spaces.importing.decimals import as_told
from gennape.search_spaces.importing.tracing.fills import fill_of
from gennape.search_spaces.importing.tracing.overloads import equivalent
from gennape.search_spaces.importing.tracing.shortcuts import SHORTCUTS
from gennape.search_spaces.importing.tracing.tables import Handler, Substitute
from gennape.search_spaces.importing.tracing.tensors import KnownTensors, Untraceable, tensors_in
from gennape.search_spaces.importing.tracing.traced_value import (
    Groups,
    TracedValue,
    arrange,
    default_groups,
    fresh,
    grouped,
    settle,
    sizes,
)

#: Modules of PyTorch's shape rules for the meta device; calls from there mean that the original call was hidden.
_RULES = ("torch._refs", "torch._decomp", "torch._prims", "torch._meta_registrations")


class Recorder(KnownTensors, TorchFunctionMode):
    """While active, turns calls on tensors that depend on the image into nodes of :attr:`b`."""

    def __init__(
        self,
        module: nn.Module,
        handlers: Mapping[Any, Handler],
        substitutes: Mapping[Any, Substitute],
        meta: bool,
    ) -> None:
        KnownTensors.__init__(self)
        TorchFunctionMode.__init__(self)
        self.b = GraphBuilder()
        #: The function being called, for handlers of several functions.
        self.func: Any = None
        #: Names of used operations outside the vocabulary.
        self.names = {"expand", "rearrange"}
        #: Names of the tensors of a node's layer, in the layer's order.
        self.weights: dict[int, tuple[str | None, ...]] = {}
        #: Keys that are equal for nodes whose layers hold the same tensors.
        self.identities: dict[int, Hashable] = {}
        #: Keys that are equal for nodes with the same learnt numbers, maybe in another shape.
        self.numbers: dict[int, tuple[Hashable, ...]] = {}
        self.problems: list[str] = []
        self._modules = {id(part): name or type(part).__name__ for name, part in module.named_modules()}
        self._functions = handlers.keys() | substitutes.keys()
        self._handlers = handlers
        self._substitutes = substitutes
        self.meta = meta
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}

    # Nodes ---------------------------------------------------------------------------------------------------------

    def image(self, x: Tensor) -> None:
        """Make ``x`` [1, c, h, w] the network's input."""
        _, c, h, w = x.shape
        self.bind(x, grouped(self.b.input(c, h, w), tuple(x.shape), ((1,), (2,), (3,))))

    def settled(self, x: Any) -> TracedValue:
        """The value of an argument, with its dimensions as the node's axes."""
        return settle(self.b, self.traced(x))

    def arranged(self, x: Any, groups: Groups) -> TracedValue:
        """The value of an argument with ``groups`` of its dimensions as the node's axes."""
        return arrange(self.b, self.traced(x), groups)

    def map(self, out: Tensor, x: Any, operation: Callable[[Value], Value]) -> None:
        """Bind ``out`` to an elementwise operation on ``x``."""
        value = self.settled(x)
        self.bind(out, TracedValue(operation(value.value), value.dims))

    def other(
        self, name: str, out: Tensor, *xs: TracedValue, macs: int = 0, params: int = 0, groups: Groups | None = None
    ) -> None:
        """Bind ``out`` to an operation outside the vocabulary; if it has the shape of ``xs[0]``, it keeps its axes."""
        settled = [settle(self.b, x) for x in xs]
        first, shape = settled[0], tuple(out.shape)
        keeps = groups is None and first.shape == shape
        groups = groups or default_groups(shape)
        size = first.value.shape if keeps else sizes(shape, groups)
        value = self.b.other(name, size, *(x.value for x in settled), macs=macs, params=params)
        self.names.add(name)
        self.bind(out, TracedValue(value, first.dims) if keeps else grouped(value, shape, groups))

    def layer(self, part: Fragment, value: Value, structural: int, *constants: Tensor | None) -> Value | None:
        """Add a layer with ``structural`` parameters by its attributes, whose tensors are ``constants``.

        Further learnt parameters are written to the node. If fewer are learnt (a fixed filter), the operation does
        not describe the layer: nothing is added, and None returned.
        """
        learnt = self.learnt(*constants)
        if learnt < structural:
            return None
        if learnt > structural:
            nodes = part.nodes.copy()
            nodes[0, Column.PARAMS] += learnt - structural
            part = Fragment(nodes, part.scalars, part.edges, part.output)
        added = self.b.append(part, value)
        self.note(added, *constants)
        self.use(x for x in constants if x is not None)
        return added

    def note(self, node: Value, *tensors: Tensor | None) -> None:
        """Record the names of the tensors of a node's layer."""
        self.weights[node.node] = tuple(self.whole(x) or self.rows(x) for x in tensors if x is not None)
        self.identities[node.node] = tuple(self.identity(x) for x in tensors if x is not None)
        self.numbers[node.node] = tuple(self.learnt_of(x) for x in tensors if x is not None and self.learnt(x))

    # Calls ---------------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one call of a PyTorch function and record it."""
        kwargs = dict(kwargs or {})
        if (same := equivalent(func, self._functions)) is not None:
            with self:
                return same(*args, **kwargs)
        if _comes_from_rules(sys._getframe()):
            self.problem("a scripted function or an extension cannot be traced; write it in plain PyTorch")
        if "input" in kwargs:  # always the first argument
            args = (kwargs.pop("input"), *args)
        if self.meta:
            args, kwargs = self._on_meta(args), {key: self._on_meta(value) for key, value in kwargs.items()}
        if func in self._substitutes:
            with self:
                return self._substituted(func, args, kwargs)
        inputs = list(tensors_in((args, kwargs)))
        dependent = [x for x in inputs if self._depends(func, x)]
        out = self._run(func, args, kwargs)
        results = list(tensors_in(out))
        if (fill := fill_of(func, args, kwargs)) is not None and results:
            self.filled(results[0], fill)
        if not dependent:
            self.computed(inputs, results)
        elif results:
            if any(x.numel() for x in results):
                self._record(func, out, args, kwargs, dependent)
            else:  # empty tensors do not depend on the image
                self.computed([], results)
            if any(x is result for x in inputs for result in results):
                self.wrote(results[0])
        elif out is None:
            self.problem(f"{_name(func)} changes a tensor in place")
        return out

    def _substituted(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the replacement of a call, or the call itself if the replacement does not support its arguments."""
        try:
            return self._substitutes[func](self, *args, **kwargs)
        except NotImplementedError as error:
            self.problem(f"{_name(func)}: {error}")
        with torch._C.DisableTorchFunction():
            out = func(*args, **kwargs)
        for x in tensors_in(out):
            if not self.knows(x):
                self.fixed(x)
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        shortcut = SHORTCUTS.get(func) if self.meta else None
        out = shortcut(*args, **kwargs) if shortcut else None
        return func(*args, **kwargs) if out is None else out

    def _on_meta(self, value: Any) -> Any:
        """Arguments with every tensor replaced by a meta tensor."""
        if isinstance(value, Tensor):
            return self._twins[id(value)][1] if id(value) in self._twins else self._on_meta_device(value)
        if isinstance(value, list | tuple):
            changed = [self._on_meta(item) for item in value]
            if all(a is b for a, b in zip(changed, value, strict=True)):
                return value
            return changed if isinstance(value, list) else tuple(changed)
        return value

    def _on_meta_device(self, x: Tensor) -> Tensor:
        """A meta tensor for one that no module holds: made by the run, or held by a closure."""
        if x.is_meta:
            return x
        twin = self.stand_in(x)
        self.fixed(twin, number=number_in(x))
        return twin

    def stand_in(self, x: Tensor) -> Tensor:
        """The tensor that replaces ``x`` in the run: on the meta device, so that ``x`` does not change."""
        if not self.meta:
            return x
        if id(x) not in self._twins:
            self._twins[id(x)] = (x, torch.empty_like(x, device="meta", requires_grad=False))
        return self._twins[id(x)][1]

    def _depends(self, func: Any, x: Tensor) -> bool:
        if not self.knows(x):
            self.problem(f"{_name(func)} takes a tensor made by code that cannot be traced (scripted, or NumPy)")
            self.fixed(x)
        elif self.is_stale(x):
            self.problem(f"{_name(func)} takes a tensor that was changed in place through another one")
        return self.is_traced(x)

    def _record(
        self, func: Any, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dependent: list[Tensor]
    ) -> None:
        self.func = func
        first = self.traced(dependent[0])
        try:
            if func not in self._handlers:
                raise Untraceable("no operation is known for it")
            if any(x.numel() == 0 for x in tensors_in(out)):
                raise Untraceable("one of its results is empty")
            if kwargs.pop("out", None) is not None:
                raise Untraceable("it writes to a tensor passed as out=")
            self._handlers[func](self, out, *args, **kwargs)
        except (Untraceable, InvalidGraphError, TypeError) as error:  # TypeError: arguments that its handler lacks
            self.problem(f"{_name(func)}: {error}")
            for x in tensors_in(out):  # later calls may be supported
                shape = tuple(max(1, size) for size in x.shape)
                self.bind(x, fresh(self.b.other("unknown", sizes(shape, default_groups(shape)), first.value), shape))

    # Problems ------------------------------------------------------------------------------------------------------

    def problem(self, what: str) -> None:
        """Record a problem and its place in the network."""
        place = self.place(sys._getframe())
        line = f"{place}: {what}" if place else what
        if line not in self.problems:
            self.problems.append(line)

    def place(self, frame: FrameType | None) -> str:
        """Path of the module whose method runs in a frame or called it; empty if there is none."""
        while frame is not None:
            name = self._modules.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""


def _comes_from_rules(frame: FrameType | None) -> bool:
    """Whether a call was made by PyTorch's own rules for shapes."""
    for _ in range(4):  # wrappers that check types may come between
        frame = frame and frame.f_back
        if frame and frame.f_globals.get("__name__", "").startswith(_RULES):
            return True
    return False


def number_in(x: Tensor) -> float | None:
    """The value of a real tensor with one element, before it was rounded to 32 bits or fewer; else None."""
    if x.numel() != 1 or x.is_meta or x.is_complex():
        return None
    return as_told(float(x)) if x.is_floating_point() and x.element_size() < 8 else float(x)


def _name(func: Any) -> str:
    return resolve_name(func) or getattr(func, "__qualname__", repr(func))
