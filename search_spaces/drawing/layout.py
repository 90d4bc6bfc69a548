"""Lay out a network as shapes on a page, which the writers of all picture formats draw as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gennape.search_spaces.drawing.columns import COLUMN_GAP, LANE_GAP, Columns, Needs, place_down
from gennape.search_spaces.drawing.coordinates import BEND_HALF, Floats, place_across
from gennape.search_spaces.drawing.diagram import KINDS, TIMES, Box, Diagram, by
from gennape.search_spaces.drawing.layers import Layers, arrange

#: Sizes of text in pixels: first line of a box, its other lines, shapes on edges, legend, repetitions, title.
FIRST_LINE, OTHER_LINE, EDGE_TEXT, LEGEND_TEXT, TIMES_TEXT, TITLE = 12.0, 10.0, 9.5, 11.0, 17.0, 15.0
_LINE_STEP = 12.5
#: Up to this many boxes, all edges have a shape label, not only those where the shape changes.
_FEW_BOXES = 24
_PAGE_MARGIN = 26.0
_MIN_BOX, _MIN_PAGE = 88.0, 560.0
_FRAME_MARGIN, _FRAME_TEXT = 8.0, 34.0
_LABEL_ROOM = 13.0
_CORNER = 6.0
#: Advance of characters in a wide font (DejaVu Sans), in ems, so that text fits in other fonts too.
_ADVANCES = {"ijl' ·,.:;|": 0.32, "ftr-/()": 0.41, f"mwMW→{TIMES}": 0.98}
_ADVANCE = {c: width for chars, width in _ADVANCES.items() for c in chars}

Point = tuple[float, float]
#: A command of SVG's path language with its numbers: M, L, Q and C, all absolute.
Command = tuple[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Left, top, width, height in pixels; y grows downwards."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Text:
    """Text at its baseline; ``anchor`` is start, middle or end."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything on the page, in pixels. ``areas`` of the boxes in order; one path for all edges of a box."""

    width: float
    height: float
    title: Text
    legend: list[tuple[Rectangle, str, Text]]  # swatch, kind, text
    boxes: tuple[Box, ...]
    areas: list[Rectangle]
    paths: list[list[Command]]
    arrows: list[Point]  # tips, pointing down
    labels: list[Text]
    frames: list[tuple[Rectangle, Text]]


def text_width(text: str, size: float) -> float:
    """An upper bound of the width of ``text`` in pixels in usual fonts."""
    return size * sum(_ADVANCE.get(c, 0.66 if c.islower() or c.isdigit() else 0.78) for c in text)


def box_size(box: Box) -> tuple[float, float]:
    """Width and height of a box with its text."""
    widths = [text_width(line, OTHER_LINE if i else FIRST_LINE) for i, line in enumerate(box.lines)]
    return max(_MIN_BOX, max(widths) + 18), 26.0 + _LINE_STEP * (len(box.lines) - 1)


def box_texts(lines: tuple[str, ...], area: Rectangle) -> list[Text]:
    """The lines of a box, centred in its area."""
    x, y = area.x + area.width / 2, area.y + 17
    return [Text(x, y + _LINE_STEP * i, "middle", line) for i, line in enumerate(lines)]


def lay_out(diagram: Diagram, title: str) -> Picture:
    """Place all parts: boxes in layers from top to bottom, edges as curves that never cross boxes."""
    n = len(diagram.boxes)
    layers = arrange(n, diagram.edges)
    sizes = [box_size(box) for box in diagram.boxes]
    texts = [_edge_text(box, n) for box in diagram.boxes]
    half = np.full(len(layers.layer), BEND_HALF)
    half[:n] = [max(size[0] / 2, text_width(t, EDGE_TEXT) + 8) for size, t in zip(sizes, texts, strict=True)]
    x = place_across(layers, half)
    frame_rows = [_rows(layers, frame.boxes) for frame in diagram.frames]
    heights = [size[1] for size in sizes]
    drop = _drops(layers, texts)
    columns = place_down(layers, x, half, heights, _needs(drop, frame_rows))
    legend, header = _legend(diagram, max(columns.width, _MIN_PAGE))
    width = max(columns.width, _MIN_PAGE) + 2 * _PAGE_MARGIN
    left = (width - columns.width) / 2
    page = _Page(layers, columns, x, [left + value for value in columns.x], heights, left, header, drop)
    areas = [Rectangle(page.x[v] - w / 2, page.box_top(v), w, h) for v, (w, h) in enumerate(sizes)]
    routes = page.routes(areas)
    labels = [page.label(v, text) for v, text in enumerate(texts) if text and layers.below[v]]
    frames = [page.frame(rows, frame.times, half) for rows, frame in zip(frame_rows, diagram.frames, strict=True)]
    height = header + columns.height + _PAGE_MARGIN
    heading = Text(_PAGE_MARGIN, _PAGE_MARGIN + 8, "start", title)
    return Picture(width, height, heading, legend, diagram.boxes, areas, *routes, labels, frames)


def _edge_text(box: Box, n: int) -> str:
    tells = n <= _FEW_BOXES or box.shape != box.takes or box.kind == "input, output"
    return by(box.shape) if tells else ""


def _rows(layers: Layers, boxes: Sequence[int]) -> tuple[int, int]:
    rows = [layers.layer[box] for box in boxes]
    return min(rows), max(rows)


def _drops(layers: Layers, texts: list[str]) -> list[float]:
    """How far the edges of each layer go straight down to pass the labels between them."""
    drop = [0.0] * len(layers.order)
    for v, text in enumerate(texts):
        if text:
            drop[layers.layer[v]] = _LABEL_ROOM
    return drop


def _needs(drop: list[float], frames: list[tuple[int, int]]) -> Needs:
    room, depth = list(drop), len(drop)
    margin = [0.0] * depth
    for first, last in frames:
        room[last] += _FRAME_MARGIN
        if first:
            room[first - 1] += _FRAME_MARGIN
        margin[first : last + 1] = [_FRAME_MARGIN + _FRAME_TEXT] * (last + 1 - first)
    return Needs(room, margin, frames)


def _legend(diagram: Diagram, width: float) -> tuple[list[tuple[Rectangle, str, Text]], float]:
    """Swatches with their text in rows that fit ``width``, and the y at which the drawing starts."""
    count: Counter[str] = Counter(box.kind for box in diagram.boxes)
    entries = []
    x, y = _PAGE_MARGIN, _PAGE_MARGIN + 26
    for kind in KINDS:
        if kind not in count:
            continue
        wide = 18 + text_width(kind, LEGEND_TEXT) + 14
        if x > _PAGE_MARGIN and x + wide > _PAGE_MARGIN + width:
            x, y = _PAGE_MARGIN, y + 20
        entries.append((Rectangle(x, y, 12.0, 12.0), kind, Text(x + 18, y + 10, "start", kind)))
        x += wide
    return entries, y + 36


@dataclass(frozen=True, slots=True)
class _Page:
    """Positions on the page: ``x`` of every vertex (``side``: without columns), bands below ``header``."""

    layers: Layers
    columns: Columns
    side: list[float]
    x: list[float]
    heights: list[float]
    left: float
    header: float
    drop: list[float]  # how far edges go straight down below each layer

    def top(self, v: int) -> float:
        return self.header + self.columns.top[self.layers.layer[v]]

    def bottom(self, v: int) -> float:
        return self.header + self.columns.bottom[self.layers.layer[v]]

    def box_top(self, v: int) -> float:
        return (self.top(v) + self.bottom(v) - self.heights[v]) / 2

    def label(self, v: int, text: str) -> Text:
        """The shape of a box's result, below it, beside the straight part of its edges."""
        return Text(self.x[v] + 5, self.box_top(v) + self.heights[v] + 11, "start", text)

    def frame(self, rows: tuple[int, int], times: int, half: Floats) -> tuple[Rectangle, Text]:
        """The frame around the layers ``rows``, and the text with the number of repetitions."""
        inside = [v for row in self.layers.order[rows[0] : rows[1] + 1] for v in row]
        x0 = min(self.x[v] - half[v] for v in inside) - _FRAME_MARGIN
        x1 = max(self.x[v] + half[v] for v in inside) + _FRAME_MARGIN
        y0 = self.header + self.columns.top[rows[0]] - _FRAME_MARGIN
        y1 = self.header + self.columns.bottom[rows[1]] + _FRAME_MARGIN + self.drop[rows[1]]
        return Rectangle(x0, y0, x1 - x0, y1 - y0), Text(x1 + 6, (y0 + y1) / 2 + 5, "start", f"{TIMES}{times}")

    # Edges -----------------------------------------------------------------------------------------------------------

    def routes(self, areas: list[Rectangle]) -> tuple[list[list[Command]], list[Point]]:
        """The path of every box with edges, and the tips of all arrows."""
        ports = self.ports(areas)
        lanes = {v: (k, len(lane), i) for k, lane in enumerate(self.columns.lanes) for i, v in enumerate(lane)}
        paths, arrows = [], []
        for box in range(self.layers.n_boxes):
            if not self.layers.below[box]:
                continue
            commands: list[Command] = []
            stack = [(box, child) for child in reversed(self.layers.below[box])]
            last = -1
            while stack:
                v, child = stack.pop()
                if v != last:
                    commands.append(
                        ("M", (self.x[v], self.box_top(v) + self.heights[v] if v == box else self.bottom(v)))
                    )
                self.step(commands, v, child, ports, lanes.get(v))
                if child < self.layers.n_boxes:
                    arrows.append((ports[v, child], self.box_top(child)))
                    last = -1
                else:
                    last = child
                    stack += [(child, after) for after in reversed(self.layers.below[child])]
            paths.append(commands)
        return paths, arrows

    def ports(self, areas: list[Rectangle]) -> dict[tuple[int, int], float]:
        """x of each edge at the top of its target: the straightest edge in the middle, others beside it."""
        found = {}
        for v, sources in enumerate(self.layers.above):
            if v >= self.layers.n_boxes:
                found.update({(a, v): self.x[v] for a in sources})
                continue
            ranked = sorted(sources, key=lambda a: (self.side[a], a))
            straight = min(range(len(ranked)), key=lambda i: abs(self.side[ranked[i]] - self.side[v]), default=0)
            step = min(12.0, (areas[v].width / 2 - 8) / max(1, straight, len(ranked) - 1 - straight))
            found.update({(a, v): self.x[v] + step * (i - straight) for i, a in enumerate(ranked)})
        return found

    def step(
        self,
        commands: list[Command],
        v: int,
        child: int,
        ports: dict[tuple[int, int], float],
        lane: tuple[int, int, int] | None,
    ) -> None:
        """Draw from the bottom of ``v`` to the bottom of a bend, or to the top of a box."""
        x0, y0, x1, y1 = self.x[v], self.bottom(v), ports[v, child], self.top(child)
        end = self.box_top(child) if child < self.layers.n_boxes else self.bottom(child)
        if lane is not None:
            k, count, place = lane
            inner = count - 1 - place
            across = self.left + self.columns.right[k] + COLUMN_GAP / 2 + inner * LANE_GAP
            low, high = y0 + (inner + 2) * LANE_GAP, y1 - (place + 1.5) * LANE_GAP
            _corners(commands, [(x0, y0), (x0, low), (across, low), (across, high), (x1, high), (x1, end)])
            return
        _line(commands, x0, y0)
        if abs(x1 - x0) > 0.5:
            y0 += self.drop[self.layers.layer[v]]
            _line(commands, x0, y0)
            middle = (y0 + y1) / 2
            commands.append(("C", (x0, middle, x1, middle, x1, y1)))
        _line(commands, x1, end)


def _line(commands: list[Command], x: float, y: float) -> None:
    """Add a straight line; one that continues a vertical line replaces it."""
    name, numbers = commands[-1]
    if numbers[-2:] == (x, y):
        return
    if name == "L" and numbers[0] == x and commands[-2][1][-2] == x:
        commands.pop()
    commands.append(("L", (x, y)))


def _corners(commands: list[Command], points: list[Point]) -> None:
    """Add straight lines through ``points`` with rounded corners."""
    for before, at, after in zip(points[:-2], points[1:-1], points[2:], strict=True):
        into, out = _towards(at, before), _towards(at, after)
        _line(commands, *into)
        commands.append(("Q", (*at, *out)))
    _line(commands, *points[-1])


def _towards(at: Point, other: Point) -> Point:
    dx, dy = other[0] - at[0], other[1] - at[1]
    share = min(_CORNER, (abs(dx) + abs(dy)) / 2) / max(abs(dx) + abs(dy), 1e-9)
    return at[0] + dx * share, at[1] + dy * share
