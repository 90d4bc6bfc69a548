"""Write pictures to files; the suffix sets the format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from gennape.errors import ConfigError
from gennape.search_spaces.drawing.diagram import Diagram
from gennape.search_spaces.drawing.layout import lay_out
from gennape.search_spaces.drawing.raster import paint
from gennape.search_spaces.drawing.svg import COLOURS, svg
from gennape.search_spaces.files.atomic import replacing


def draw(diagram: Diagram, title: str, to: Path) -> None:
    """Write a picture in the format of the suffix of ``to``, replacing an existing file.

    Raises :class:`ConfigError` for an unknown suffix, :class:`WorkspaceError` if ``to`` cannot be written.
    """
    check_suffix(to, WRITERS)
    with replacing(to) as temporary:
        WRITERS[to.suffix.lower()](diagram, title, temporary)


def check_suffix(to: Path, known: Iterable[str]) -> None:
    """Raise :class:`ConfigError` with the ``known`` suffixes unless ``to`` has one of them."""
    if to.suffix.lower() not in known:
        raise ConfigError(f"cannot draw to {to.name!r}: its suffix must be one of {', '.join(known)}")


def _write_svg(diagram: Diagram, title: str, path: Path) -> None:
    path.write_text(svg(lay_out(diagram, title)), "utf-8")


def _write_painted(diagram: Diagram, title: str, path: Path) -> None:
    paint(lay_out(diagram, title), path)


def _write_dot(diagram: Diagram, title: str, path: Path) -> None:
    """Graphviz's language; its strings are escaped like JSON's."""
    lines = [f"digraph {json.dumps(title)} {{", 'node [shape=box style="rounded,filled" fontname="Helvetica"]']
    for i, box in enumerate(diagram.boxes):
        fill, ink = COLOURS[box.kind]
        text, tip = json.dumps("\n".join(box.lines), ensure_ascii=False), json.dumps(box.tooltip, ensure_ascii=False)
        lines.append(f'{i} [label={text} tooltip={tip} fillcolor="{fill}" fontcolor="{ink}"]')
    lines += [f"{source} -> {target}" for source, target in diagram.edges.tolist()]
    path.write_text("\n".join([*lines, "}", ""]), "utf-8")


#: Writers of pictures, by suffix.
WRITERS: dict[str, Callable[[Diagram, str, Path], None]] = {
    ".svg": _write_svg,
    ".png": _write_painted,
    ".pdf": _write_painted,
    ".dot": _write_dot,
}
