"""Vertical positions of layers; tall drawings are split into columns side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from gennape.search_spaces.drawing.coordinates import BOX_GAP, Floats
from gennape.search_spaces.drawing.layers import Layers

#: Pixels between layers.
LAYER_GAP = 26.0
#: Pixels between edges from one column to the next, and between columns.
LANE_GAP, COLUMN_GAP = 12.0, 30.0
#: Taller drawings are split into columns, aiming at this ratio of width to height.
_TALLEST, _ASPECT = 1500.0, 1.5
#: Cost of each edge from one column to the next, compared with that of unequal heights.
_CROSSING_COST = 0.4


@dataclass(frozen=True, slots=True)
class Needs:
    """Space that layers need besides their boxes: ``room`` below each, ``margin`` on the right of each.

    ``together``: first and last layers of the frames, which must stay in one column.
    """

    room: list[float]
    margin: list[float]
    together: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each layer, and positions on the page.

    ``column`` of each layer; ``top`` and ``bottom`` of each layer's band; ``x`` of the centre of every vertex;
    ``right`` end of each column; ``lanes`` between a column and the next: the vertices whose edges cross over, from
    left to right.
    """

    column: list[int]
    top: list[float]
    bottom: list[float]
    x: list[float]
    right: list[float]
    lanes: list[list[int]]
    width: float
    height: float


def place_down(layers: Layers, x: Sequence[float], half: Floats, heights: Sequence[float], needs: Needs) -> Columns:
    """Bands of the layers, in enough columns for a picture that is not much taller than wide.

    ``x`` and ``half`` as in :func:`place_across`; ``heights`` of the boxes.
    """
    depth = len(layers.order)
    tall = [max((heights[v] for v in row if v < layers.n_boxes), default=0.0) for row in layers.order]
    gaps = [LAYER_GAP + needs.room[i] + _steepness(layers, x, i) for i in range(depth)]
    starts = np.concatenate([[0.0], np.cumsum(np.add(tall, gaps))])
    crossing = [[v for v in row if layers.below[v]] for row in layers.order]
    reach: list[float] = half.tolist()
    widths = [max(x[v] + reach[v] for v in row) - min(x[v] - reach[v] for v in row) for row in layers.order]
    count = _count(float(starts[-1]), float(np.percentile(widths, 90)) + COLUMN_GAP + LANE_GAP)
    breaks = _breaks(starts, [len(row) for row in crossing], count, needs.together)
    spans = list(zip([0, *breaks], [*breaks, depth], strict=True))
    lanes = [sorted(crossing[b - 1], key=lambda v: x[v]) for b in breaks]
    # Edges from one column to the next pass below the one and above the other.
    head = (max(map(len, lanes)) + 1) * LANE_GAP if lanes else 0.0
    column = [k for k, (first, last) in enumerate(spans) for _ in range(first, last)]
    top = [float(starts[i] - starts[spans[column[i]][0]]) + head for i in range(depth)]
    bottom = [t + h for t, h in zip(top, tall, strict=True)]
    placed, right = _side_by_side(layers, x, reach, needs.margin, spans, [len(lane) for lane in lanes])
    return Columns(column, top, bottom, placed, right, lanes, right[-1], max(bottom) + head)


def _steepness(layers: Layers, x: Sequence[float], i: int) -> float:
    """Extra room below a layer whose edges go far to the side."""
    far = max((abs(x[v] - x[child]) for v in layers.order[i] for child in layers.below[v]), default=0.0)
    return min(50.0, 0.08 * max(0.0, far - 60.0))


def _side_by_side(
    layers: Layers,
    x: Sequence[float],
    half: Sequence[float],
    margin: list[float],
    spans: list[tuple[int, int]],
    n_lanes: list[int],
) -> tuple[list[float], list[float]]:
    """x of every vertex with the columns side by side, and the right end of each column."""
    placed = list(x)
    right: list[float] = []
    edge = 0.0
    for k, (first, last) in enumerate(spans):
        members = [v for row in layers.order[first:last] for v in row]
        for v, value in zip(members, _without_gaps([(x[v], half[v]) for v in members]), strict=True):
            placed[v] = edge + value
        margins = zip(layers.order[first:last], margin[first:last], strict=True)
        right.append(max(placed[v] + half[v] + more for row, more in margins for v in row))
        edge = right[-1] + COLUMN_GAP + (n_lanes[k] * LANE_GAP if k < len(n_lanes) else 0.0)
    return placed, right


def _without_gaps(spots: list[tuple[float, float]]) -> list[float]:
    """Move (centre, half width) spots to the left to close empty strips; the leftmost starts at 0. Returns centres."""
    starts = sorted((middle - half, middle + half) for middle, half in spots)
    removed = starts[0][0]
    covered = starts[0][0]
    corners, offsets = [], []
    for low, high in starts:
        if low > covered + BOX_GAP:
            removed += low - covered - BOX_GAP
        covered = max(covered, high)
        corners.append(low)
        offsets.append(removed)
    lows = np.array([middle - half for middle, half in spots])
    found = np.searchsorted(np.array(corners), lows, side="right") - 1
    middles: list[float] = (np.array([middle for middle, _ in spots]) - np.array(offsets)[found]).tolist()
    return middles


def _count(height: float, width: float) -> int:
    """The number of columns that brings a strip near the aspect ratio of a page."""
    return 1 if height <= _TALLEST else max(2, round(float(np.sqrt(_ASPECT * height / width))))


def _breaks(
    starts: Float64[np.ndarray, " d1"], crossing: list[int], count: int, together: Sequence[tuple[int, int]]
) -> list[int]:
    """First layers of all columns but the first, for similar heights and few crossing edges, never within a frame.

    Dynamic programming over (columns, layers); returns fewer columns if ``count`` is not possible.
    """
    depth = len(crossing)
    wanted = float(starts[-1]) / count
    price = np.full(depth + 1, np.inf)
    price[1:depth] = _CROSSING_COST * np.asarray(crossing[:-1], np.float64)
    for first, last in together:
        price[first + 1 : last + 1] = np.inf
    cost = (starts / wanted) ** 2
    choices: list[list[int]] = []
    for _ in range(count - 1):
        total = cost + price
        longer, chosen = np.full(depth + 1, np.inf), [0] * (depth + 1)
        for i in range(1, depth + 1):
            options = total[:i] + ((starts[i] - starts[:i]) / wanted) ** 2
            chosen[i] = int(np.argmin(options))
            longer[i] = options[chosen[i]]
        if not np.isfinite(longer[depth]):
            break
        cost = longer
        choices.append(chosen)
    breaks, end = [], depth
    for chosen in reversed(choices):
        end = chosen[end]
        breaks.append(end)
    return breaks[::-1]
