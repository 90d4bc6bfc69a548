"""Write pictures as SVG: text stays text, and every box has a tooltip with its nodes."""

from __future__ import annotations

from xml.sax.saxutils import escape

from gennape.search_spaces.drawing.layout import (
    EDGE_TEXT,
    FIRST_LINE,
    LEGEND_TEXT,
    OTHER_LINE,
    TIMES_TEXT,
    TITLE,
    Command,
    Picture,
    Rectangle,
    Text,
    box_texts,
)

#: Fill and text colour of each kind, after Okabe and Ito (2008): distinct with any colour vision, with a text contrast
#: of at least 4.5 to 1.
COLOURS = {
    "convolution": ("#0072b2", "#ffffff"),
    "depthwise convolution": ("#56b4e9", "#10202c"),
    "matrix product": ("#cc79a7", "#1c0d16"),
    "pooling": ("#e69f00", "#201600"),
    "normalisation": ("#d5dae0", "#1f2933"),
    "activation": ("#f0e442", "#222000"),
    "add, multiply, concatenate": ("#007a5a", "#ffffff"),
    "input, output": ("#ffffff", "#1f2933"),
    "shape": ("#9aa5b1", "#10161c"),
    "other": ("#3b4754", "#ffffff"),
}
EDGE, INK, PAPER, FRAME, FRAME_LINE = "#52606d", "#1f2933", "#ffffff", "#eef2f6", "#9aa5b1"
ARROW = (3.5, 6.5)  # half width and length
_STYLE = f"""
text {{ font-family: Helvetica, Arial, 'DejaVu Sans', sans-serif; fill: {INK} }}
.paper {{ fill: {PAPER} }} .title {{ font-size: {TITLE:g}px; font-weight: bold }}
.legend {{ font-size: {LEGEND_TEXT:g}px }}
.edge {{ fill: none; stroke: {EDGE}; stroke-width: 1.4 }} .tip {{ fill: {EDGE} }}
.shape {{ font-size: {EDGE_TEXT:g}px }}
.frame {{ fill: {FRAME}; stroke: {FRAME_LINE}; stroke-dasharray: 5 3 }}
.times {{ font-size: {TIMES_TEXT:g}px; font-weight: bold }}
.box rect {{ stroke: {INK}; stroke-opacity: .35 }} .box text {{ text-anchor: middle; font-size: {OTHER_LINE:g}px }}
.box text:first-of-type {{ font-size: {FIRST_LINE:g}px }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e4e7eb }} .paper {{ fill: #161b22 }}
.edge {{ stroke: #9fb0c0 }} .tip {{ fill: #9fb0c0 }} .frame {{ fill: #222b36 }} }}
""" + "".join(
    f".k{i} rect {{ fill: {fill} }} .k{i} text {{ fill: {ink} }}\n" for i, (fill, ink) in enumerate(COLOURS.values())
)
_CLASS = {kind: f"k{i}" for i, kind in enumerate(COLOURS)}


def svg(picture: Picture) -> str:
    """The picture as SVG; each box is a group of class ``box`` with a tooltip."""
    width, height = f"{picture.width:.0f}", f"{picture.height:.0f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}" rx="6"/>',
        _svg_text(picture.title, "title"),
    ]
    for swatch, kind, text in picture.legend:
        parts.append(f'<g class="{_CLASS[kind]}">{_svg_rectangle(swatch, 2, _outline(kind))}</g>')
        parts.append(_svg_text(text, "legend"))
    for area, text in picture.frames:
        parts.append(_svg_rectangle(area, 8, ' class="frame"') + _svg_text(text, "times"))
    parts += [f'<path class="edge" d="{_svg_path(path)}"/>' for path in picture.paths]
    half, length = ARROW
    tips = "".join(f"M{x:.1f} {y:.1f}l{-half} {-length}h{2 * half}z" for x, y in picture.arrows)
    parts.append(f'<path class="tip" d="{tips}"/>')
    parts += [_svg_text(text, "shape") for text in picture.labels]
    for box, area in zip(picture.boxes, picture.areas, strict=True):
        lines = "".join(_svg_text(text, None) for text in box_texts(box.lines, area))
        tooltip = f"<title>{_escaped(box.tooltip)}</title>"
        parts.append(f'<g class="box {_CLASS[box.kind]}">{tooltip}{_svg_rectangle(area, 5)}{lines}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _outline(kind: str) -> str:
    return f' stroke="{EDGE}"' if kind == "input, output" else ""


def _svg_path(commands: list[Command]) -> str:
    return "".join(name + " ".join(f"{number:.1f}" for number in numbers) for name, numbers in commands)


def _svg_rectangle(area: Rectangle, radius: int, extra: str = "") -> str:
    place = f'x="{area.x:.1f}" y="{area.y:.1f}" width="{area.width:.1f}" height="{area.height:.1f}"'
    return f'<rect{extra} {place} rx="{radius}"/>'


def _svg_text(text: Text, style: str | None) -> str:
    # In boxes the style sheet centres the text.
    anchor = "" if style is None or text.anchor == "start" else f' text-anchor="{text.anchor}"'
    name = f' class="{style}"' if style else ""
    return f'<text{name} x="{text.x:.1f}" y="{text.y:.1f}"{anchor}>{_escaped(text.text)}</text>'


def _escaped(text: str) -> str:
    """Text escaped for XML, with unprintable characters replaced."""
    return escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))
