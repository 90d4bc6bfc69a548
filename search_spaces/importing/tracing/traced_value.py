"""The layout of a traced tensor's dimensions in the axes of its node, and nodes that change it.

A node's value has three axes: channels, height and width. A tensor's dimensions are products of *atoms*, each a factor
of one axis: ``flatten(2)`` of a map has the dimensions (), (c), (h, w), where () is the batch of one. Transposing and
viewing a tensor only moves and splits atoms. When an operation needs certain axes, :func:`arrange` adds the nodes that
make them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, combinations_with_replacement, permutations
from math import prod
from typing import NamedTuple

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.operations import Shape, Value

#: Axis of an atom that repeats its tensor and belongs to no axis of the node.
REPEATED = -1


class Atom(NamedTuple):
    """A factor of an axis: ``size`` steps of ``inner`` positions each."""

    axis: int
    size: int
    inner: int


Dims = tuple[tuple[Atom, ...], ...]
#: The dimensions that make up channels, height and width, the outermost first.
Groups = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class TracedValue(NamedTuple):
    """A tensor: the value of a node, and the atoms of each dimension (none if its size is 1)."""

    value: Value
    dims: Dims

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the tensor's dimensions, the batch of one included."""
        return tuple(prod(atom.size for atom in dim) for dim in self.dims)

    @property
    def direct(self) -> bool:
        """Whether every axis consists of whole dimensions, the outermost first, so that no node is needed."""
        inner = [1, 1, 1]
        for atoms in reversed(self.dims):
            if not atoms:
                continue
            axis, size, within = atoms[0]
            if len(atoms) > 1 or axis == REPEATED or within != inner[axis]:
                return False
            inner[axis] *= size
        return True

    @property
    def repeats(self) -> bool:
        """Whether a dimension repeats values."""
        return any(atom.axis == REPEATED for dim in self.dims for atom in dim)


def default_groups(shape: tuple[int, ...]) -> Groups:
    """Axes of a new tensor's dimensions: (batch,) c; h, c; c, h, w; with more, the leading ones make up c.

    The first is the batch if its size is 1, else a leading dimension.
    """
    dims = tuple(range(len(shape)))
    if shape and shape[0] == 1:
        dims = dims[1:]
    if len(dims) == 2:
        return (dims[1:], dims[:1], ())
    if len(dims) < 2:
        return (dims, (), ())
    return (dims[:-2], dims[-2:-1], dims[-1:])


def sizes(shape: tuple[int, ...], groups: Groups) -> Shape:
    """Channels, height and width of a tensor with these groups."""
    c, h, w = (prod(shape[dim] for dim in group) for group in groups)
    return c, h, w


def grouped(value: Value, shape: tuple[int, ...], groups: Groups) -> TracedValue:
    """A tensor of ``shape`` whose ``groups`` make up the axes of ``value``; dimensions left out have size 1."""
    dims: list[tuple[Atom, ...]] = [()] * len(shape)
    for axis, group in enumerate(groups):
        inner = 1
        for dim in reversed(group):
            if shape[dim] != 1:
                dims[dim] = (Atom(axis, shape[dim], inner),)
            inner *= shape[dim]
    return TracedValue(value, tuple(dims))


def fresh(value: Value, shape: tuple[int, ...]) -> TracedValue:
    """A tensor with the dimensions of :func:`default_groups`."""
    return grouped(value, shape, default_groups(shape))


def groups_of(x: TracedValue) -> Groups:
    """The dimensions of each axis of a direct tensor; one of size 1 belongs to its default axis."""
    groups: list[tuple[int, ...]] = [(), (), ()]
    for dim, atoms in enumerate(x.dims):
        if atoms:
            groups[atoms[0].axis] += (dim,)
    for axis, group in enumerate(default_groups(x.shape)):
        if not groups[axis] and len(group) == 1 and not x.dims[group[0]]:
            groups[axis] = group
    return (groups[0], groups[1], groups[2])


def axis_of(x: TracedValue, dim: int) -> int | None:
    """The axis that equals a dimension of a direct tensor, or None."""
    return next((axis for axis, group in enumerate(groups_of(x)) if group == (dim,)), None)


def with_axis(x: TracedValue, dim: int) -> tuple[Groups, int]:
    """Groups of a direct tensor in which ``dim`` is a whole axis, and that axis."""
    groups, axis = list(groups_of(x)), axis_of(x, dim)
    if axis is None and () in groups and not any(dim in group for group in groups):
        axis = groups.index(())
        groups[axis] = (dim,)
    if axis is None:
        every = tuple(range(len(x.dims)))
        return (every[:dim], (dim,), every[dim + 1 :]), 1
    return (groups[0], groups[1], groups[2]), axis


def viewed(x: TracedValue, shape: tuple[int, ...]) -> TracedValue | None:
    """The tensor viewed as ``shape``; None if its atoms cannot be split that way."""
    rest = [atom for dim in x.dims for atom in dim][::-1]
    dims = []
    for size in shape:
        atoms: list[Atom] = []
        missing = size
        while missing > 1:
            axis, count, inner = rest.pop()
            if missing % count == 0:
                atoms.append(Atom(axis, count, inner))
                missing //= count
            elif count % missing == 0:
                within = count // missing
                atoms.append(Atom(axis, missing, inner * within))
                rest.append(Atom(axis, within, inner))
                missing = 1
            else:
                return None
        dims.append(_joined(atoms))
    return TracedValue(x.value, tuple(dims))


def _joined(atoms: list[Atom]) -> tuple[Atom, ...]:
    """Merge neighbouring factors of one axis, which undoes earlier splits."""
    joined: list[Atom] = []
    for atom in atoms:
        last = joined[-1] if joined else None
        if last and last.axis == atom.axis != REPEATED and last.inner == atom.size * atom.inner:
            joined[-1] = Atom(atom.axis, last.size * atom.size, atom.inner)
        else:
            joined.append(atom)
    return tuple(joined)


def moved(x: TracedValue, order: Sequence[int]) -> TracedValue:
    """The tensor permuted: dimension ``i`` of the result is dimension ``order[i]``."""
    return TracedValue(x.value, tuple(x.dims[i] for i in order))


class _Plan(NamedTuple):
    """Nodes that change a layout: reshape, permutation, reshape; each None if it changes nothing."""

    before: Shape | None
    axes: Shape | None
    after: Shape | None

    @property
    def cost(self) -> int:
        return sum(step is not None for step in self)


def plan(x: TracedValue, groups: Groups) -> _Plan | None:
    """The fewest nodes that make ``groups`` the axes; None if three axes are too few to move the atoms."""
    target = tuple(atom for group in groups for dim in group for atom in x.dims[dim])
    return _plan(x.value.shape, target, sizes(x.shape, groups))


@lru_cache(maxsize=16384)
def _plan(shape: Shape, target: tuple[Atom, ...], out: Shape) -> _Plan | None:
    source = tuple(sorted(target, key=lambda atom: (atom.axis, -atom.inner)))
    if source == target:
        return _Plan(None, None, None if shape == out else out)
    best: _Plan | None = None
    for first, second in combinations_with_replacement(range(len(source) + 1), 2):
        parts = (source[:first], source[first:second], source[second:])
        for a, b, c in permutations(range(3)):
            if parts[a] + parts[b] + parts[c] != target:
                continue
            before = tuple(prod(atom.size for atom in part) for part in parts)
            after = (before[a], before[b], before[c])
            found = _Plan(
                None if before == shape else (before[0], before[1], before[2]), (a, b, c), None if after == out else out
            )
            best = found if best is None or found.cost < best.cost else best
    return best


def arrange(b: GraphBuilder, x: TracedValue, groups: Groups) -> TracedValue:
    """The tensor with ``groups`` as its axes: by a reshape, a permutation and a reshape if these suffice, by more if
    parts of axes change places (windows of a map), with resizing if values are repeated."""
    if x.repeats:
        return grouped(_repeated(b, x, groups), x.shape, groups)
    steps = plan(x, groups)
    if steps is not None:
        value = x.value
        if steps.before:
            value = b.reshape(value, *steps.before)
        if steps.axes:
            value = b.permute(value, steps.axes)
        if steps.after:
            value = b.reshape(value, *steps.after)
        return grouped(value, x.shape, groups)
    target, out = tuple(atom for group in groups for dim in group for atom in x.dims[dim]), sizes(x.shape, groups)
    moves = rearrangement(target)
    if moves is None:
        return grouped(b.other("rearrange", out, x.value), x.shape, groups)
    value = x.value
    for before, axes in moves:
        value = b.permute(b.reshape(value, *before), axes)
    return grouped(b.reshape(value, *out), x.shape, groups)


def _repeated(b: GraphBuilder, x: TracedValue, groups: Groups) -> Value:
    """Materialise repeated dimensions: each repetition resizes a row of pixels to more rows."""
    target = [atom for group in groups for dim in group for atom in x.dims[dim]]
    once = tuple(atom for atom in target if atom.axis != REPEATED)
    flat = TracedValue(x.value, (once, *[()] * (len(x.dims) - 1)))
    value = arrange(b, flat, ((0,), (), ())).value
    before, after = 1, prod(atom.size for atom in once)
    for atom in target:
        if atom.axis == REPEATED:
            value = b.resize(b.reshape(value, before, 1, after), atom.size, after)
        else:
            after //= atom.size
        before *= atom.size
    return b.reshape(value, *sizes(x.shape, groups))


#: Most atoms to search an order of moves for: 8 have 40,320 orders.
_MAX_ATOMS = 7
_Move = tuple[Shape, Shape]


@lru_cache(maxsize=4096)
def rearrangement(target: tuple[Atom, ...]) -> tuple[_Move, ...] | None:
    """The fewest moves that bring atoms into the order ``target``, each a reshape to three axes and their permutation.

    None if there are too many atoms.
    """
    source = tuple(sorted(target, key=lambda atom: (atom.axis, -atom.inner)))
    parts = _together(source, target)
    if len(parts) > _MAX_ATOMS:
        return None
    size = [prod(atom.size for atom in part) for part in parts]
    goal = tuple(sorted(range(len(parts)), key=lambda i: target.index(parts[i][0])))
    came: dict[tuple[int, ...], tuple[tuple[int, ...], _Move] | None] = {tuple(range(len(parts))): None}
    waiting = deque(came)
    while goal not in came:
        order = waiting.popleft()
        for after, move in _moves(order, size):
            if after not in came:
                came[after] = order, move
                waiting.append(after)
    found, at = [], came[goal]
    while at:
        found.append(at[1])
        at = came[at[0]]
    return tuple(found[::-1])


def _moves(order: tuple[int, ...], size: list[int]) -> Iterator[tuple[tuple[int, ...], _Move]]:
    """The orders that one permutation of three axes can reach, with the move."""
    for first, second in combinations(range(len(order) + 1), 2):
        parts = (order[:first], order[first:second], order[second:])
        c, h, w = (prod(size[i] for i in part) for part in parts)
        for axes in ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
            yield parts[axes[0]] + parts[axes[1]] + parts[axes[2]], ((c, h, w), axes)


def _together(source: tuple[Atom, ...], target: tuple[Atom, ...]) -> list[list[Atom]]:
    """Split ``source`` into runs that also occur in ``target``."""
    place = {atom: i for i, atom in enumerate(target)}
    parts: list[list[Atom]] = []
    for atom in source:
        if parts and place[atom] == place[parts[-1][-1]] + 1:
            parts[-1].append(atom)
        else:
            parts.append([atom])
    return parts


def settle(b: GraphBuilder, x: TracedValue) -> TracedValue:
    """A direct tensor: itself, or its default arrangement."""
    return x if x.direct else arrange(b, x, default_groups(x.shape))


def pixelwise(b: GraphBuilder, x: TracedValue, dim: int) -> TracedValue:
    """The tensor with dimension ``dim`` as its channels and the others as pixels, in any order."""
    if x.direct and x.dims[dim] == ((Atom(0, x.value.c, 1),) if x.value.c > 1 else ()):
        return x
    rest = tuple(i for i, atoms in enumerate(x.dims) if i != dim and atoms)
    if len(rest) < 2:
        return arrange(b, x, ((dim,), rest, ()))
    return arrange(b, x, ((dim,), rest[:-1], rest[-1:]))


def reshaped(b: GraphBuilder, x: TracedValue, shape: tuple[int, ...]) -> TracedValue:
    """The tensor viewed as ``shape``; adds nodes only if its atoms cannot be split that way."""
    view = viewed(x, shape)
    if view is None:
        flat = arrange(b, x, (tuple(range(len(x.dims))), (), ())).value
        view = viewed(fresh(flat, (flat.c,)), shape)
    if view is None:
        raise InvalidGraphError(f"{x.shape} cannot be viewed as {shape}")
    return view


def numbers(x: TracedValue) -> int:
    """The number of elements."""
    return prod(x.shape)


class Range(NamedTuple):
    """Positions of a dimension that a slice keeps."""

    first: int
    length: int
    step: int = 1


def sliced(b: GraphBuilder, x: TracedValue, ranges: dict[int, Range]) -> TracedValue:
    """The tensor with dimensions cut to their ranges: by one node if the axes allow it, else one per dimension."""
    todo = {dim: cut for dim, cut in ranges.items() if cut.length != x.shape[dim]}
    direct = {dim: cut for dim, cut in todo.items() if _can_slice(x, dim, cut)}
    if direct:
        x = _slice(b, x, direct)
    for dim in todo.keys() - direct.keys():
        if not _can_slice(x, dim, todo[dim]):
            every = range(len(x.dims))
            x = arrange(b, x, (tuple(every[:dim]), (dim,), tuple(every[dim + 1 :])))
        x = _slice(b, x, {dim: todo[dim]})
    return x


def _can_slice(x: TracedValue, dim: int, cut: Range) -> bool:
    """Whether the range is one run of an axis, or equally spaced rows or columns."""
    atoms = x.dims[dim]
    if len(atoms) != 1 or x.repeats:
        return False
    axis, size, inner = atoms[0]
    return size * inner == x.value.shape[axis] and (cut.step == 1 or (inner == 1 and axis > 0))


def _slice(b: GraphBuilder, x: TracedValue, ranges: dict[int, Range]) -> TracedValue:
    """One node, even if ``x`` is a slice itself: exported programs slice one dimension at a time."""
    offset, size, step = [0, 0, 0], list(x.value.shape), [1, 1, 1]
    dims = list(x.dims)
    for dim, cut in ranges.items():
        (atom,) = x.dims[dim]
        offset[atom.axis], step[atom.axis] = cut.first * atom.inner, cut.step
        size[atom.axis] = cut.length * atom.inner
        dims[dim] = (Atom(atom.axis, cut.length, atom.inner),) if cut.length > 1 else ()
    source, before, jump = b.slices.get(x.value.node, (x.value, (0, 0, 0), (1, 1, 1)))
    first = (before[0] + offset[0], before[1] + jump[1] * offset[1], before[2] + jump[2] * offset[2])
    steps = (1, jump[1] * step[1], jump[2] * step[2])
    value = b.slice(source, size[0], first[1], first[2], first[0], h=size[1], w=size[2], step=steps[1:])
    b.slices[value.node] = (source, first, steps)
    return TracedValue(value, tuple(dims))
