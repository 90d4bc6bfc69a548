"""Assign boxes of a drawing to layers, and order each layer from left to right."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

Edges = Int64[np.ndarray, "e 2"]

_SWEEPS = 12


@dataclass(frozen=True, slots=True)
class Layers:
    """Vertices in layers: the boxes ``0..n-1``, then bends, where an edge passes a layer.

    All edges of one box share their bends, as they carry the same value. ``order`` lists each layer from left to
    right; ``below`` and ``above`` link vertices of neighbouring layers; ``owner`` is the box whose value a vertex
    carries; ``spine`` is a longest chain of boxes, one in each layer.
    """

    n_boxes: int
    layer: list[int]
    owner: list[int]
    below: list[list[int]]
    above: list[list[int]]
    order: list[list[int]]
    spine: list[int]


def layers_of(n: int, edges: Edges) -> list[int]:
    """The layer of each box, 0 at the top: as high as its inputs allow, lower if that shortens its edges.

    The edges must be acyclic.
    """
    above, below = _neighbours(n, edges)
    layer = [0] * n
    waiting = [len(sources) for sources in above]
    queue = [v for v in range(n) if not waiting[v]]
    for v in queue:
        for target in below[v]:
            layer[target] = max(layer[target], layer[v] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                queue.append(target)
    for v in reversed(queue):
        if len(below[v]) > len(above[v]):
            layer[v] = min(layer[target] for target in below[v]) - 1
    return layer


def cut_layers(layer: list[int], edges: Edges) -> list[int]:
    """Layers with one box and no passing edge, from the top: every path goes through that box."""
    depth = max(layer, default=-1) + 1
    crowd = np.bincount(np.asarray(layer, np.int64), minlength=depth) if depth else np.zeros(0, np.int64)
    passing = np.zeros(depth + 1, np.int64)
    for source, target in edges.tolist():
        passing[layer[source] + 1] += 1
        passing[layer[target]] -= 1
    return [int(i) for i in np.flatnonzero((crowd == 1) & (np.cumsum(passing)[:depth] == 0))]


def arrange(n: int, edges: Edges) -> Layers:
    """Layers, bends and an order with few crossings for boxes ``0..n-1`` and their edges."""
    layer = layers_of(n, edges)
    owner, segments = _bends(layer, edges)
    above, below = _neighbours(len(owner), segments)
    height = _heights(n, layer, below)
    tops = [v for v in range(len(owner)) if not above[v]]
    order = _sweep(_first_order(tops, layer, below, height), above, below)
    return Layers(n, layer, owner, below, above, order, _spine(order, below, height))


def _neighbours(n: int, edges: Edges) -> tuple[list[list[int]], list[list[int]]]:
    above: list[list[int]] = [[] for _ in range(n)]
    below: list[list[int]] = [[] for _ in range(n)]
    for source, target in edges.tolist():
        above[target].append(source)
        below[source].append(target)
    return above, below


def _bends(layer: list[int], edges: Edges) -> tuple[list[int], Int64[np.ndarray, "s 2"]]:
    """Append a bend to ``layer`` wherever an edge passes a layer; returns the owners, and edges split at bends."""
    owner = list(range(len(layer)))
    lane: dict[tuple[int, int], int] = {}  # (box, layer) -> vertex
    segments = set()
    for source, target in edges.tolist():
        last = source
        for row in range(layer[source] + 1, layer[target]):
            vertex = lane.get((source, row))
            if vertex is None:
                vertex = lane[source, row] = len(owner)
                owner.append(source)
                layer.append(row)
            segments.add((last, vertex))
            last = vertex
        segments.add((last, target))
    return owner, np.array(sorted(segments), np.int64).reshape(-1, 2)


def _heights(n: int, layer: list[int], below: list[list[int]]) -> list[int]:
    """The most boxes on a path from each vertex downwards."""
    height = [0] * len(layer)
    for v in sorted(range(len(layer)), key=lambda v: -layer[v]):
        height[v] = (v < n) + max((height[child] for child in below[v]), default=0)
    return height


def _first_order(tops: list[int], layer: list[int], below: list[list[int]], height: list[int]) -> list[list[int]]:
    """A depth-first order; the child with most below it is in the middle, or on the left of two."""
    order: list[list[int]] = [[] for _ in range(max(layer, default=-1) + 1)]
    seen = [False] * len(layer)
    stack = sorted(tops, key=lambda v: height[v])
    while stack:
        v = stack.pop()
        if seen[v]:
            continue
        seen[v] = True
        order[layer[v]].append(v)
        ranked = sorted(below[v], key=lambda child: -height[child])
        spread = [*ranked[2::2][::-1], *ranked[:1], *ranked[1::2]]
        stack.extend(reversed(spread))
    return order


def _sweep(order: list[list[int]], above: list[list[int]], below: list[list[int]]) -> list[list[int]]:
    """Order each layer by the mean position of its neighbours, down and up in turns; keep the fewest crossings."""
    place = [0] * sum(map(len, order))
    for row in order:
        _number(row, place)
    best, fewest = [list(row) for row in order], _crossings(order, below, place)
    for sweep in range(_SWEEPS):
        if fewest == 0:
            break
        neighbours = below if sweep % 2 else above
        for row in reversed(order) if sweep % 2 else order:
            if len(row) > 1:
                row.sort(key=lambda v: _mean_place(v, neighbours[v], place))
                _number(row, place)
        crossings = _crossings(order, below, place)
        if crossings < fewest:
            best, fewest = [list(row) for row in order], crossings
    return best


def _number(row: list[int], place: list[int]) -> None:
    for i, v in enumerate(row):
        place[v] = i


def _mean_place(v: int, neighbours: list[int], place: list[int]) -> float:
    return sum(place[w] for w in neighbours) / len(neighbours) if neighbours else float(place[v])


def _crossings(order: list[list[int]], below: list[list[int]], place: list[int]) -> int:
    """How often edges between neighbouring layers cross."""
    total = 0
    for row in order:
        if len(row) < 2:
            continue
        seen: list[int] = []
        for v in row:
            ends = sorted(place[child] for child in below[v])
            total += sum(len(seen) - bisect_left(seen, end + 1) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _spine(order: list[list[int]], below: list[list[int]], height: list[int]) -> list[int]:
    """A longest chain of boxes from the top layer to the bottom."""
    if not order:
        return []
    spine = [max(order[0], key=lambda v: height[v])]
    while below[spine[-1]]:
        spine.append(max(below[spine[-1]], key=lambda v: height[v]))
    return spine
