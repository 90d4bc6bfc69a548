"""Horizontal positions of the vertices of a layered drawing: straight chains and no overlaps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from gennape.search_spaces.drawing.layers import Layers

Floats = Float64[np.ndarray, " v"]

#: Pixels between boxes of a layer, and half the width of a passing edge.
BOX_GAP = 22.0
BEND_HALF = 7.0
_SETTLING_SWEEPS = 6


def place_across(layers: Layers, half: Floats) -> list[float]:
    """x of the centre of every vertex, with the spine at 0; ``half`` is half the width of each vertex.

    Chains of vertices without crossings form blocks with one x. Blocks are first placed as near to the spine as they
    fit, then moved outwards to straighten their edges.
    """
    block_of, blocks = _blocks(layers)
    spine = block_of[layers.spine[0]] if layers.spine else -1
    left, right = _constraints(layers, block_of, len(blocks), half)
    order = _left_to_right(left, right)
    x = [0.0] * len(blocks)
    on_right = _reached(spine, right)
    for b in order:
        if b in on_right:
            x[b] = max(x[a] + gap for a, gap in left[b].items() if a in on_right or a == spine)
    for b in reversed(order):
        if b not in on_right and b != spine:
            x[b] = min((x[a] - gap for a, gap in right[b].items() if a not in on_right or a == spine), default=0.0)
    _settle(x, layers, block_of, order, (left, right), spine)
    return [x[b] for b in block_of]


def _blocks(layers: Layers) -> tuple[list[int], list[list[int]]]:
    """Chains of vertices to draw straight: the spine first, then long edges and chains, then the rest."""
    n = len(layers.layer)
    place = [0] * n
    for row in layers.order:
        for i, v in enumerate(row):
            place[v] = i
    on_spine = set(layers.spine)

    def rank(a: int, b: int) -> tuple[int, int] | None:
        if a in on_spine and b in on_spine:
            return (0, 0)
        if a >= layers.n_boxes and b >= layers.n_boxes:
            return (1, 0)
        if (a >= layers.n_boxes) != (b >= layers.n_boxes):
            return None  # a long edge must not pull its box far out
        alone = len(layers.below[a]) == 1 and len(layers.above[b]) == 1
        return (2 if alone else 3, abs(place[a] - place[b]))

    segments = sorted((r, a, b) for a in range(n) for b in layers.below[a] if (r := rank(a, b)))
    next_of: dict[int, int] = {}
    taken: set[int] = set()
    accepted: dict[int, list[tuple[int, int]]] = {}
    for _, a, b in segments:
        if a in next_of or b in taken:
            continue
        beside = accepted.setdefault(layers.layer[a], [])
        if all((place[a] < p) == (place[b] < q) for p, q in beside):
            next_of[a] = b
            taken.add(b)
            beside.append((place[a], place[b]))
    return _chains(n, next_of, taken)


def _chains(n: int, next_of: dict[int, int], taken: set[int]) -> tuple[list[int], list[list[int]]]:
    block_of = [-1] * n
    blocks: list[list[int]] = []
    for v in range(n):
        if v in taken:
            continue
        chain = [v]
        while chain[-1] in next_of:
            chain.append(next_of[chain[-1]])
        for member in chain:
            block_of[member] = len(blocks)
        blocks.append(chain)
    return block_of, blocks


Gaps = list[dict[int, float]]


def _constraints(layers: Layers, block_of: list[int], n: int, half: Floats) -> tuple[Gaps, Gaps]:
    """Left and right neighbours of each block, with the least distance between their centres."""
    left: Gaps = [{} for _ in range(n)]
    right: Gaps = [{} for _ in range(n)]
    reach = half.tolist()
    for row in layers.order:
        for u, v in zip(row[:-1], row[1:], strict=True):
            bends = (u >= layers.n_boxes) + (v >= layers.n_boxes)
            gap = reach[u] + reach[v] + (BOX_GAP, BOX_GAP / 2, 0.0)[bends]
            a, b = block_of[u], block_of[v]
            left[b][a] = right[a][b] = max(gap, left[b].get(a, 0.0))
    return left, right


def _left_to_right(left: Gaps, right: Gaps) -> list[int]:
    """Blocks in an order in which each comes after all on its left."""
    waiting = [len(neighbours) for neighbours in left]
    queue = [b for b, count in enumerate(waiting) if count == 0]
    for b in queue:
        for a in right[b]:
            waiting[a] -= 1
            if waiting[a] == 0:
                queue.append(a)
    return queue


def _reached(start: int, towards: Gaps) -> set[int]:
    found: set[int] = set()
    stack = [start] if start >= 0 else []
    while stack:
        for b in towards[stack.pop()]:
            if b not in found:
                found.add(b)
                stack.append(b)
    return found


def _settle(
    x: list[float], layers: Layers, block_of: list[int], order: list[int], gaps: tuple[Gaps, Gaps], spine: int
) -> None:
    """Move blocks to the weighted median of their linked blocks, as far as their neighbours allow."""
    links = _links(layers, block_of, len(x))
    left, right = gaps
    for sweep in range(_SETTLING_SWEEPS):
        for b in order if sweep % 2 else reversed(order):
            if b == spine or not links[b]:
                continue
            ends = sorted(x[other] for other, weight in links[b] for _ in range(weight))
            wanted = (ends[(len(ends) - 1) // 2] + ends[len(ends) // 2]) / 2
            lowest = max((x[a] + gap for a, gap in left[b].items()), default=-np.inf)
            highest = min((x[a] - gap for a, gap in right[b].items()), default=np.inf)
            x[b] = float(min(max(wanted, lowest), highest))


def _links(layers: Layers, block_of: list[int], n: int) -> list[list[tuple[int, int]]]:
    """Linked blocks of each block, with weights that keep boxes near boxes and bends below their box."""
    links: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for v, children in enumerate(layers.below):
        for child in children:
            a, b = block_of[v], block_of[child]
            if a != b:
                upper, lower = v < layers.n_boxes, child < layers.n_boxes
                links[a].append((b, 2 if lower else 1))
                links[b].append((a, 3 if upper and not lower and len(children) == 1 else 2 if upper else 1))
    return links
