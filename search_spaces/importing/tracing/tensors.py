"""Track the tensors of a forward pass: which depend on the image, and which parameters the others come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gennape.search_spaces.importing.tracing.traced_value import TracedValue


class Untraceable(Exception):
    """A call that no node can express; never leaves the recorder."""


@dataclass(frozen=True, slots=True)
class TensorConstant:
    """A tensor that does not depend on the image."""

    #: Names of the parameters that it was computed from.
    learnt: frozenset[str] = frozenset()
    #: Its own name, if it is a parameter or a buffer.
    name: str | None = None
    #: Its value, if it is a known scalar.
    number: float | None = None


class KnownTensors:
    """Traced values and constants by tensor, and the count of learnt numbers that were used with the image."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, TracedValue | TensorConstant, int]] = {}
        self._parameters: dict[str, Tensor] = {}
        self._buffers: dict[int, tuple[str, Tensor, int]] = {}  # by storage, with their versions
        self._used: Counter[str] = Counter()
        self._written: set[int] = set()
        self._fills: dict[int, tuple[float, int]] = {}

    def parameter(self, name: str, x: Tensor) -> None:
        """Register ``x`` as a parameter."""
        self._parameters[name] = x
        self._keep(x, TensorConstant(frozenset([name]), name))

    def fixed(self, x: Tensor, name: str | None = None, number: float | None = None) -> None:
        """Register ``x`` as a constant that is not learnt."""
        self._keep(x, TensorConstant(name=name, number=number))
        if name is not None:
            self._buffers.setdefault(_storage(x), (name, x, version_of(x)))

    def filled(self, x: Tensor, number: float) -> None:
        """Register ``x`` as filled with ``number``."""
        self._fills[id(x)] = (number, version_of(x))

    def fill(self, x: Tensor) -> float | None:
        """The value of all elements of a constant, if it is known to be filled."""
        number, version = self._fills.get(id(x), (0.0, -1))
        return number if version == version_of(x) and self.knows(x) and not self.is_traced(x) else None

    def bind(self, x: Tensor, traced: TracedValue) -> None:
        """Register ``x`` as the value of a node."""
        self._keep(x, traced)

    def computed(self, inputs: list[Tensor], results: list[Tensor]) -> None:
        """Register ``results`` as computed from ``inputs``, all of them constants."""
        learnt: frozenset[str] = frozenset().union(*(self._names(x) for x in inputs))
        for x in results:
            known = self._known.get(id(x))
            if known is None or known[2] != version_of(x):
                self._keep(x, TensorConstant(learnt | self._names(x)))

    def _keep(self, x: Tensor, what: TracedValue | TensorConstant) -> None:
        self._known[id(x)] = (x, what, version_of(x))  # the tensor is held, so that its id is not reused

    def knows(self, x: Tensor) -> bool:
        """Whether a tensor is registered."""
        return id(x) in self._known

    def find(self, x: Any) -> TracedValue | TensorConstant:
        """The traced value or constant of an argument; numbers are constants."""
        if not isinstance(x, Tensor):
            return TensorConstant(number=float(x)) if isinstance(x, int | float) else TensorConstant()
        known = self._known.get(id(x))
        return known[1] if known else TensorConstant()

    def number(self, x: Any) -> float | None:
        """The value of an argument that is a known scalar."""
        found = self.find(x)
        return found.number if isinstance(found, TensorConstant) else None

    def traced(self, x: Any) -> TracedValue:
        """The value of an argument that must depend on the image."""
        found = self.find(x)
        if not isinstance(found, TracedValue):
            raise Untraceable("its first tensor does not depend on the image, but another one does")
        return found

    def is_traced(self, x: Any) -> bool:
        """Whether an argument depends on the image."""
        return isinstance(self.find(x), TracedValue)

    def wrote(self, x: Tensor) -> None:
        """Record that ``x``, and all tensors that share its storage, changed in place."""
        self._written.add(_storage(x))

    def version(self, x: Tensor) -> int:
        """The version of a tensor when it was last registered."""
        return self._known[id(x)][2]

    def is_stale(self, x: Tensor) -> bool:
        """Whether a tensor was changed in place through another one that shares its storage."""
        return self._known[id(x)][2] != version_of(x) and _storage(x) in self._written

    # Learnt numbers ------------------------------------------------------------------------------------------------

    def learnt(self, *constants: Tensor | None) -> int:
        """How many learnt numbers ``constants`` hold or were computed from."""
        held = [x for x in constants if x is not None]
        whole = {name for x in held if not self._part_of(x) for name in self._names(x)}
        parts = sum(x.numel() for x in held if self._part_of(x))
        return parts + sum(self._parameters[name].numel() for name in whole)

    def spend(self, *constants: Any) -> int:
        """Count the learnt numbers of ``constants`` as used; returns how many were not counted before."""
        held = [x for x in constants if isinstance(x, Tensor)]
        parts = sum(x.numel() for x in held if self._part_of(x))
        whole = {name for x in held if not self._part_of(x) for name in self._names(x) if not self._used[name]}
        self.use(held)
        return parts + sum(self._parameters[name].numel() for name in whole)

    def use(self, constants: Iterable[Tensor]) -> None:
        """Count the learnt numbers of ``constants`` as used."""
        for x in constants:
            for name in self._names(x):
                self._used[name] += x.numel() if self._part_of(x) else self._parameters[name].numel()

    def whole(self, x: Tensor) -> str | None:
        """Name of the parameter or buffer that a constant equals, maybe in another shape."""
        found = self.find(x)
        if isinstance(found, TensorConstant) and found.name is not None:
            return found.name
        name, base = self._base(x)
        return name if base is not None and base.numel() == x.numel() else None

    def rows(self, x: Tensor) -> str | None:
        """Name of a constant that is some rows of a parameter or buffer: ``in_proj_weight[0:64]``."""
        name, base = self._base(x)
        if base is None or not x.is_contiguous():
            return None
        row = base[:1].numel() if base.dim() else 1
        first = x.storage_offset() - base.storage_offset()
        if not base.is_contiguous() or first % row or x.numel() % row:
            return None
        return f"{name}[{first // row}:{(first + x.numel()) // row}]"

    def _base(self, x: Tensor) -> tuple[str, Tensor | None]:
        """The parameter that a constant is part of, or the buffer, if the order of elements is the same."""
        if self._part_of(x):
            (name,) = self._names(x)
            return name, self._parameters[name]
        name, base, version = self._buffers.get(_storage(x), ("", None, 0))
        if base is None or self.is_traced(x) or self._names(x) or version_of(x) != version:
            return "", None
        same_order = x.dtype == base.dtype and x.is_contiguous() and base.is_contiguous()
        return (name, base) if same_order else ("", None)

    def identity(self, x: Tensor) -> Hashable:
        """A key that is equal for constants with the same learnt numbers, or computed from them; None without any."""
        found, names = self.find(x), self._names(x)
        if not names:
            return found.name if isinstance(found, TensorConstant) else None
        return (*self.learnt_of(x), tuple(x.shape))

    def learnt_of(self, x: Tensor) -> tuple[frozenset[str], tuple[Hashable, ...]]:
        """The parameters that a constant comes from, and its position if it is part of one."""
        part = (x.storage_offset(), *x.stride()) if self._part_of(x) and self.whole(x) is None else ()
        return self._names(x), part

    @property
    def shared(self) -> dict[str, int]:
        """Parameters that were used more than once, and how many times."""
        times = {name: -(-count // max(1, self._parameters[name].numel())) for name, count in self._used.items()}
        return {name: count for name, count in times.items() if count > 1}

    def _names(self, x: Tensor) -> frozenset[str]:
        found = self.find(x)
        return found.learnt if isinstance(found, TensorConstant) else frozenset()

    def _part_of(self, x: Tensor) -> bool:
        """Whether a tensor is a view of one parameter or part of it."""
        names = self._names(x)
        if len(names) != 1:
            return False
        (name,) = names
        if (parameter := self._parameters[name]) is x:
            return True
        repeats = any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True))
        return not repeats and _storage(x) == _storage(parameter)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors among the arguments or results of a call."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def version_of(x: Tensor) -> int:
    """How often a tensor's storage was written to; 0 for tensors made in inference mode, which do not count."""
    return 0 if x.is_inference() else x._version


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata
