"""Write pictures as PNG and PDF with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from gennape.search_spaces.drawing.layout import (
    EDGE_TEXT,
    FIRST_LINE,
    LEGEND_TEXT,
    OTHER_LINE,
    TIMES_TEXT,
    TITLE,
    Picture,
    Rectangle,
    Text,
    box_texts,
)
from gennape.search_spaces.drawing.svg import ARROW, COLOURS, EDGE, FRAME, FRAME_LINE, INK, PAPER

#: Limits of a PNG: its scale, longest side, and most pixels.
_SCALE, _MAX_SIDE, _MAX_PIXELS = 2.0, 20_000, 4e7
_CODES = {"M": Curve.MOVETO, "L": Curve.LINETO, "Q": Curve.CURVE3, "C": Curve.CURVE4}
_ALIGN = {"start": "left", "middle": "center", "end": "right"}


def paint(picture: Picture, path: Path) -> None:
    """Write a picture to ``path``: PNG or PDF, by its suffix. A PNG is scaled by two, or less if it is large."""
    # One unit of the axes is one pixel at 72 dpi, so that text sizes are in points.
    figure = Figure(figsize=(picture.width / 72, picture.height / 72), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.set_axis_off()
    _paint_frames(axes, picture)
    _paint_edges(axes, picture)
    _paint_boxes(axes, picture)
    within = (_MAX_PIXELS / (picture.width * picture.height)) ** 0.5
    scale = min(_SCALE, _MAX_SIDE / max(picture.width, picture.height), within)
    save(figure, path, 72 * scale)


def save(figure: Figure, path: Path, dpi: float) -> None:
    """Write a figure in the format of the suffix of ``path``; the same figure yields the same bytes."""
    suffix = path.suffix.lower()
    undated = {".png": "Software", ".pdf": "CreationDate", ".svg": "Date"}[suffix]
    # Compression dominates the time of a large PNG: level 4 costs a fraction of level 6.
    packing: dict[str, Any] = {"pil_kwargs": {"compress_level": 4}} if suffix == ".png" else {}
    with rc_context({"svg.hashsalt": "gennape", "svg.fonttype": "none"}):
        figure.savefig(path, dpi=dpi, facecolor=PAPER, metadata={undated: None}, **packing)


def _paint_frames(axes: Axes, picture: Picture) -> None:
    for area, text in picture.frames:
        patch = _rounded(area, 8.0, FRAME, FRAME_LINE)
        patch.set_linestyle((0, (5, 3)))
        axes.add_patch(patch)
        _write(axes, text, TIMES_TEXT, bold=True)


def _paint_edges(axes: Axes, picture: Picture) -> None:
    for commands in picture.paths:
        points = [numbers[i : i + 2] for _, numbers in commands for i in range(0, len(numbers), 2)]
        codes = [_CODES[name] for name, numbers in commands for _ in range(len(numbers) // 2)]
        axes.add_patch(PathPatch(Curve(points, codes), fill=False, edgecolor=EDGE, linewidth=1.4))
    half, length = ARROW
    tips = [[(x, y), (x - half, y - length), (x + half, y - length)] for x, y in picture.arrows]
    axes.add_collection(PolyCollection(tips, facecolor=EDGE, linewidth=0, zorder=2))
    for text in picture.labels:
        _write(axes, text, EDGE_TEXT)


def _paint_boxes(axes: Axes, picture: Picture) -> None:
    boxes = list(zip(picture.boxes, picture.areas, strict=True))
    patches = [_rounded(area, 5.0, COLOURS[box.kind][0], f"{INK}59") for box, area in boxes]
    patches += [_rounded(area, 2.0, COLOURS[kind][0], EDGE) for area, kind, _ in picture.legend]
    axes.add_collection(PatchCollection(patches, match_original=True, zorder=3))
    for box, area in boxes:
        for i, text in enumerate(box_texts(box.lines, area)):
            _write(axes, text, OTHER_LINE if i else FIRST_LINE, COLOURS[box.kind][1])
    for _, _, text in picture.legend:
        _write(axes, text, LEGEND_TEXT)
    _write(axes, picture.title, TITLE, bold=True)


def _rounded(area: Rectangle, radius: float, fill: str, line: str) -> FancyBboxPatch:
    shape = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch((area.x, area.y), area.width, area.height, boxstyle=shape, facecolor=fill, edgecolor=line)


def _write(axes: Axes, text: Text, size: float, colour: str = INK, bold: bool = False) -> None:
    drawn = axes.text(text.x, text.y, text.text, fontsize=size, color=colour, ha=_ALIGN[text.anchor], zorder=4)
    drawn.set_fontweight("bold" if bold else "normal")
    drawn.set_parse_math(False)
