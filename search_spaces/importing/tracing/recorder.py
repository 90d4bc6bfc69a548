"""Record what a module does with an image, as nodes of a computation graph.

Every call of a PyTorch function passes through :class:`Recorder`. Tensors are of two kinds: those that depend on the
image, each known by its :class:`TracedValue`, and constants, known by the learnt tensors that they were computed of. A
call on constants alone adds no node. Any other is looked up in a table of handlers; one that is in none is remembered
as a problem, and recording goes on, so that all problems are told at once.
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

#: Where PyTorch makes shapes on the meta device: seen only where a call that was not shown came to it.
_RULES = ("torch._refs", "torch._decomp", "torch._prims", "torch._meta_registrations")


class Recorder(KnownTensors, TorchFunctionMode):
    """While active, turns the calls on tensors that depend on the image into nodes of :attr:`b`."""

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
        #: The function being called, for handlers that stand for several.
        self.func: Any = None
        #: Names of the operations outside the vocabulary that were used.
        self.names = {"expand", "rearrange"}
        #: Names of the tensors that a node's layer holds, in the layer's order.
        self.weights: dict[int, tuple[str | None, ...]] = {}
        #: What is equal for nodes whose layers hold the same tensors.
        self.identities: dict[int, Hashable] = {}
        #: What is equal for nodes whose layers hold the same learnt numbers, maybe in another shape.
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
        """The value of an argument, its dimensions being the node's axes."""
        return settle(self.b, self.traced(x))

    def arranged(self, x: Any, groups: Groups) -> TracedValue:
        """The value of an argument with ``groups`` of its dimensions as the node's axes."""
        return arrange(self.b, self.traced(x), groups)

    def map(self, out: Tensor, x: Any, operation: Callable[[Value], Value]) -> None:
        """``out`` is an operation on every number of ``x``."""
        value = self.settled(x)
        self.bind(out, TracedValue(operation(value.value), value.dims))

    def other(
        self, name: str, out: Tensor, *xs: TracedValue, macs: int = 0, params: int = 0, groups: Groups | None = None
    ) -> None:
        """``out`` is an operation outside the vocabulary of ``xs``; one of the first one's shape keeps its axes."""
        settled = [settle(self.b, x) for x in xs]
        first, shape = settled[0], tuple(out.shape)
        keeps = groups is None and first.shape == shape
        groups = groups or default_groups(shape)
        size = first.value.shape if keeps else sizes(shape, groups)
        value = self.b.other(name, size, *(x.value for x in settled), macs=macs, params=params)
        self.names.add(name)
        self.bind(out, TracedValue(value, first.dims) if keeps else grouped(value, shape, groups))

    def layer(self, part: Fragment, value: Value, structural: int, *constants: Tensor | None) -> Value | None:
        """Add a layer that learns ``structural`` numbers of its own by its attributes, where ``constants`` hold them.

        Numbers learnt beyond these are written to the node. Where fewer are learnt (a filter that is fixed) the
        layer is not what its operation says: nothing is added and None returned.
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
        """Remember the names of the tensors that a node's layer holds."""
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
            self.problem("a scripted function or an extension does not show what it does; give it as plain PyTorch")
        if "input" in kwargs:  # it is the first argument of all that have it
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
            else:  # of no numbers none depends on the image
                self.computed([], results)
            if any(x is result for x in inputs for result in results):
                self.wrote(results[0])
        elif out is None:
            self.problem(f"{_name(func)} changes a tensor in place")
        return out

    def _substituted(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call done in another way, or as it is where that way does not know its arguments."""
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
        """Arguments with every tensor that has numbers replaced by one that has only a shape."""
        if isinstance(value, Tensor):
            return self._twins[id(value)][1] if id(value) in self._twins else self._on_meta_device(value)
        if isinstance(value, list | tuple):
            changed = [self._on_meta(item) for item in value]
            if all(a is b for a, b in zip(changed, value, strict=True)):
                return value
            return changed if isinstance(value, list) else tuple(changed)
        return value

    def _on_meta_device(self, x: Tensor) -> Tensor:
        """A tensor that no module holds: one that the run made, or one of a closure."""
        if x.is_meta:
            return x
        twin = self.stand_in(x)
        self.fixed(twin, number=number_in(x))
        return twin

    def stand_in(self, x: Tensor) -> Tensor:
        """What takes part in the run for a tensor that was there before: without numbers, so that it stays as it is."""
        if not self.meta:
            return x
        if id(x) not in self._twins:
            self._twins[id(x)] = (x, torch.empty_like(x, device="meta", requires_grad=False))
        return self._twins[id(x)][1]

    def _depends(self, func: Any, x: Tensor) -> bool:
        if not self.knows(x):
            self.problem(f"{_name(func)} takes a tensor made by code that PyTorch does not show (scripted, or NumPy)")
            self.fixed(x)
        elif self.is_stale(x):
            self.problem(f"{_name(func)} takes a tensor of which a part was changed in place")
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
                raise Untraceable("it writes to a tensor that is given as out=")
            self._handlers[func](self, out, *args, **kwargs)
        except (Untraceable, InvalidGraphError, TypeError) as error:  # a TypeError: arguments that its handler has not
            self.problem(f"{_name(func)}: {error}")
            for x in tensors_in(out):  # later calls may be understood
                shape = tuple(max(1, size) for size in x.shape)
                self.bind(x, fresh(self.b.other("unknown", sizes(shape, default_groups(shape)), first.value), shape))

    # Problems ------------------------------------------------------------------------------------------------------

    def problem(self, what: str) -> None:
        """Remember what cannot be told as a graph, and where it is."""
        place = self.place(sys._getframe())
        line = f"{place}: {what}" if place else what
        if line not in self.problems:
            self.problems.append(line)

    def place(self, frame: FrameType | None) -> str:
        """Path of the module whose method runs in a frame or called it; empty where none does."""
        while frame is not None:
            name = self._modules.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""


def _comes_from_rules(frame: FrameType | None) -> bool:
    """Whether a call was made by PyTorch's own rules for shapes."""
    for _ in range(4):  # as far as a wrapper that checks types may put itself between
        frame = frame and frame.f_back
        if frame and frame.f_globals.get("__name__", "").startswith(_RULES):
            return True
    return False


def number_in(x: Tensor) -> float | None:
    """The value of a tensor that has one number and is real, as it was before it was rounded to 32 bits or fewer."""
    if x.numel() != 1 or x.is_meta or x.is_complex():
        return None
    return as_told(float(x)) if x.is_floating_point() and x.element_size() < 8 else float(x)


def _name(func: Any) -> str:
    return resolve_name(func) or getattr(func, "__qualname__", repr(func))
