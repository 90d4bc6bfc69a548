"""The fronts of several runs on one plot, as an interactive page and as a picture."""

from __future__ import annotations

import html
import io
import json
from itertools import combinations
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from plotly.subplots import make_subplots

from gennape.platform.search.choice import measures_of
from gennape.platform.search.front_page import INK, PLOTLY_CONFIG, axes_of, is_wide, label, readable
from gennape.platform.workspace.files import make_writable
from gennape.search_spaces.files.atomic import atomic_write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes

    from gennape.platform.search.comparison import ComparedRun, Comparison
    from gennape.platform.search.objectives import Objective

#: Colours and markers of runs in turn, after Okabe and Ito (2008); markers tell those that share a colour.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3b4754")
_SYMBOLS = ("circle", "triangle-up", "square", "diamond", "triangle-down", "cross", "x")
_MARKERS = "o^sDvPX"


def write_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Write ``compare.html`` and ``compare.png``, each whole or not at all; return their paths.

    Raises :class:`WorkspaceError` where the folder cannot be written.
    """
    make_writable(folder, "give another folder with --to")
    contents = {"compare.html": comparison_page(comparison), "compare.png": _picture(comparison)}
    for name, content in contents.items():
        atomic_write_bytes(folder / name, content)
    return [folder / name for name in contents]


def pairs_of(objectives: tuple[Objective, ...]) -> list[tuple[Objective, Objective]]:
    """The pairs of axes (x, y) that are drawn: two objectives on one plot, more of them each against each."""
    if len(objectives) <= 2:
        return [axes_of(objectives)]
    return [(x, y) for y, x in combinations(objectives, 2)]


def comparison_page(comparison: Comparison) -> bytes:
    """The page as HTML that works offline. Points that do not survive in the union are hollow."""
    pairs = pairs_of(comparison.objectives)
    figure = make_subplots(rows=len(pairs), cols=1, vertical_spacing=0.25 / len(pairs))
    for row, (x, y) in enumerate(pairs, start=1):
        for number, run in enumerate(comparison.runs):
            figure.add_trace(_trace(run, number, x, y, first=row == 1, line=len(pairs) == 1), row=row, col=1)
        for axis, measure in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
            wide = any(is_wide(measure, run.front[measure.name]) for run in comparison.runs)
            scale = {"type": "log"} if wide else {"type": "linear"}
            axis(title_text=_escaped(label(measure)), exponentformat="SI", row=row, col=1, **scale)
    title, subtitle = _titles(comparison)
    figure.update_layout(
        title={"text": _escaped(title), "subtitle": {"text": _escaped(subtitle)}},
        template="plotly_white",
        font={"color": INK},
        hoverlabel={"align": "left"},
        height=max(560, 430 * len(pairs)),
        legend={"orientation": "h", "y": -0.12 / len(pairs)},
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, div_id="compare", config=PLOTLY_CONFIG)
    return page.replace("<head>", f"<head><title>{html.escape(title)} - gennape</title>", 1).encode()


def _trace(run: ComparedRun, number: int, x: Objective, y: Objective, *, first: bool, line: bool) -> go.Scatter:
    order = run.front[x.name].argsort(kind="stable")
    front, alive = run.front.iloc[order], run.survives[order]
    colour = COLOURS[number % len(COLOURS)]
    symbol = _SYMBOLS[number % len(_SYMBOLS)]
    return go.Scatter(
        x=front[x.name],
        y=front[y.name],
        mode="lines+markers" if line else "markers",
        name=_escaped(run.name),
        legendgroup=str(number),
        showlegend=first,
        line={"color": colour, "width": 1.5},
        marker={"color": colour, "size": 8, "symbol": [symbol if one else f"{symbol}-open" for one in alive]},
        text=[_hover(run.name, point) for point in front.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(name: str, point: dict[Any, Any]) -> str:
    measures = [readable(key, float(point[key])) for key in measures_of([point]) if point[key] is not None]
    architecture = json.dumps(point["architecture"])
    cut = architecture if len(architecture) <= 160 else f"{architecture[:160]}…"
    return "<br>".join([f"<b>{_escaped(name)}</b>, index {point['index']}", *map(_escaped, measures), _escaped(cut)])


def _titles(comparison: Comparison) -> tuple[str, str]:
    names = f"{len(comparison.runs)} fronts of {comparison.space}"
    return names, f"accuracies on the scale of {comparison.scale} · hollow: dominated by a network of another run"


def _picture(comparison: Comparison) -> bytes:
    pairs = pairs_of(comparison.objectives)
    figure = Figure(figsize=(8 if len(pairs) == 1 else 5 * min(len(pairs), 3), 5 * -(-len(pairs) // 3)), dpi=160,
                    layout="constrained")  # fmt: skip
    grid = figure.subplots(-(-len(pairs) // 3), min(len(pairs), 3), squeeze=False).ravel().tolist()
    for axes, (x, y) in zip(grid, pairs, strict=False):
        for number, run in enumerate(comparison.runs):
            _draw(axes, run.front.sort_values(x.name, kind="stable"), number, run.name, x, y, line=len(pairs) == 1)
        axes.set_xlabel(label(x), color=INK)
        axes.set_ylabel(label(y), color=INK)
    for axes in grid[len(pairs) :]:
        axes.set_visible(False)
    title, subtitle = _titles(comparison)
    figure.suptitle(f"{title}\n{subtitle.partition(' · ')[0]}", color=INK, fontsize=10)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, labelcolor=INK)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _draw(axes: Axes, front: pd.DataFrame, number: int, name: str, x: Objective, y: Objective, *, line: bool) -> None:
    axes.plot(
        front[x.name], front[y.name], color=COLOURS[number % len(COLOURS)], marker=_MARKERS[number % len(_MARKERS)],
        markersize=4, linewidth=1.3 if line else 0, label=name.replace("$", r"\$"),
    )  # fmt: skip
    for axis, measure in ((axes.xaxis, x), (axes.yaxis, y)):
        if len(front) and front[measure.name].max() >= 1000:
            axis.set_major_formatter(EngFormatter(sep=" "))
    axes.grid(color="#e4e7eb")
    axes.spines[["top", "right"]].set_visible(False)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)
