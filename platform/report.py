"""What a search leaves behind: its front as table, JSON and pictures, and every evaluation as Parquet."""

from __future__ import annotations

import html
import io
import json
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from gennape.platform.objectives import MEASURES, Objective
from gennape.platform.workspace import atomic_write_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

CLOUD, FRONT, INK = "#9aa5b1", "#0b6e99", "#243b53"
#: By the directions of y and x: matplotlib's number of the corner opposite to the good one.
LEGEND_CORNER = {("max", "min"): 4, ("max", "max"): 3, ("min", "min"): 1, ("min", "max"): 2}
#: More points than this are drawn by the browser's graphics card.
MOST_SVG_POINTS = 20_000


def write_report(
    folder: Path, front: pd.DataFrame, evaluations: pd.DataFrame, objectives: Sequence[Objective]
) -> list[Path]:
    """Write ``front.csv``, ``front.json``, ``front.html``, ``front.png`` and ``evaluations.parquet``; return the paths.

    ``front`` has the columns index, hash, architecture (JSON), the objectives, flops and params in natural units;
    ``evaluations`` the same measures of every network. Pictures show the first objective against the second. Files
    depend on the arguments alone and each appears whole. Raises :class:`WorkspaceError` when one cannot be written.
    """
    contents = {
        "front.csv": front.to_csv(index=False, lineterminator="\n").encode(),
        "front.json": _front_json(front, objectives),
        "front.html": _front_html(front, evaluations, objectives),
        "front.png": _front_png(front, evaluations, objectives),
        "evaluations.parquet": evaluations.to_parquet(index=False),
    }
    for name, content in contents.items():
        atomic_write_bytes(folder / name, content)
    return [folder / name for name in contents]


def _front_json(front: pd.DataFrame, objectives: Sequence[Objective]) -> bytes:
    directed = [{"name": o.name, "direction": o.direction, "unit": _unit(o.name)} for o in objectives]
    points = json.loads(front.to_json(orient="records", double_precision=15))
    for point, architecture in zip(points, front["architecture"], strict=True):
        point["architecture"] = json.loads(architecture)
    return (json.dumps({"objectives": directed, "points": points}, indent=1) + "\n").encode()


def _axes(objectives: Sequence[Objective]) -> tuple[Objective, Objective]:
    """What is drawn along x and y; a single objective is drawn against the cost that it is not."""
    first = objectives[0]
    second = objectives[1] if len(objectives) > 1 else Objective("params" if first.name == "flops" else "flops", "min")
    return second, first


def _unit(name: str) -> str:
    return next((m.unit for m in MEASURES if m.name == name), "")


def _label(objective: Objective) -> str:
    better = "higher" if objective.direction == "max" else "lower"
    return f"{objective.name} [{_unit(objective.name)}], {better} is better"


def _drawn(frame: pd.DataFrame, x: Objective, y: Objective) -> pd.DataFrame:
    """The rows that have both values, along x."""
    finite = np.isfinite(frame[[x.name, y.name]].to_numpy(np.float64)).all(1)
    drawn: pd.DataFrame = frame[finite].sort_values(x.name, kind="stable")
    return drawn


def _scale_of(objective: Objective, values: pd.Series[Any]) -> str:
    """Costs that span more than a decade are drawn on a logarithmic axis."""
    wide = len(values) > 0 and _unit(objective.name) != "percent" and values.max() > 10 * values.min() > 0
    return "log" if wide else "linear"


def _title(front: pd.DataFrame, evaluations: pd.DataFrame) -> str:
    return f"Pareto front: {len(front):,} of {len(evaluations):,} evaluated networks"


def _front_html(front: pd.DataFrame, evaluations: pd.DataFrame, objectives: Sequence[Objective]) -> bytes:
    x, y = _axes(objectives)
    cloud, line = _drawn(evaluations, x, y), _drawn(front, x, y)
    scatter = go.Scattergl if len(cloud) > MOST_SVG_POINTS else go.Scatter
    figure = go.Figure(
        [
            scatter(
                x=cloud[x.name],
                y=cloud[y.name],
                mode="markers",
                name="evaluated",
                marker={"color": CLOUD, "size": 4, "opacity": 0.35},
                hoverinfo="skip",
            ),
            go.Scatter(
                x=line[x.name],
                y=line[y.name],
                mode="lines+markers",
                name="front",
                line={"color": FRONT, "width": 2},
                marker={"color": FRONT, "size": 9, "line": {"color": "white", "width": 1}},
                text=_hover_texts(line, objectives),
                hovertemplate="%{text}<extra></extra>",
            ),
        ]
    )
    figure.update_layout(
        title={"text": _title(front, evaluations)},
        template="plotly_white",
        font={"color": INK},
        hovermode="closest",
        xaxis={"title": {"text": _label(x)}, "type": _scale_of(x, cloud[x.name]), "exponentformat": "SI"},
        yaxis={"title": {"text": _label(y)}, "type": _scale_of(y, cloud[y.name]), "exponentformat": "SI"},
        legend={"x": 0.99, "y": 0.02, "xanchor": "right", "yanchor": "bottom"},
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, div_id="front", config={"displaylogo": False})
    return page.encode()


def _hover_texts(front: pd.DataFrame, objectives: Sequence[Objective]) -> list[str]:
    shown = list(dict.fromkeys([*(o.name for o in objectives), "flops", "params"]))
    texts = []
    for row in front.to_dict("records"):
        values = "<br>".join(f"{name} {row[name]:,.6g} {_unit(name)}" for name in shown)
        architecture = "<br>".join(textwrap.wrap(html.escape(row["architecture"]), 72))
        texts.append(f"<b>index {row['index']}</b><br>{values}<br>{architecture}")
    return texts


def _front_png(front: pd.DataFrame, evaluations: pd.DataFrame, objectives: Sequence[Objective]) -> bytes:
    x, y = _axes(objectives)
    cloud, line = _drawn(evaluations, x, y), _drawn(front, x, y)
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(
        cloud[x.name], cloud[y.name], s=7, c=CLOUD, alpha=0.35, linewidths=0, label="evaluated", rasterized=True
    )
    axes.plot(
        line[x.name],
        line[y.name],
        color=FRONT,
        linewidth=1.6,
        marker="o",
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        label="front",
        zorder=3,
    )
    axes.set(xscale=_scale_of(x, cloud[x.name]), yscale=_scale_of(y, cloud[y.name]))
    _format(axes.xaxis, x, cloud[x.name])
    _format(axes.yaxis, y, cloud[y.name])
    _decorate(axes, x, y, _title(front, evaluations))
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _format(axis: Axis, objective: Objective, values: pd.Series[Any]) -> None:
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    if len(values) and abs(values).max() >= 1000:
        axis.set_major_formatter(EngFormatter(sep=" "))
    axis.set_label_text(_label(objective), color=INK)


def _decorate(axes: Axes, x: Objective, y: Objective, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.grid(which="major", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(CLOUD)
    axes.tick_params(which="both", colors=INK, labelsize=9)
    legend = axes.legend(frameon=False, labelcolor=INK, fontsize=9, markerscale=1.4)
    legend.set_loc(LEGEND_CORNER[y.direction, x.direction])
