"""The report of a search: its front as table, JSON and pictures, and every evaluation as Parquet."""

from __future__ import annotations

import io
import json
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from gennape.platform.search.front_page import (
    CLOUD,
    COLOURS,
    FRONT,
    INK,
    About,
    axes_of,
    colours,
    drawn,
    front_page,
    is_wide,
    label,
)
from gennape.platform.search.measures import unit_of
from gennape.platform.workspace.run_files import DIGESTS, digests_of
from gennape.search_spaces.files.atomic import atomic_write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from gennape.platform.search.objectives import Objective

#: The files of a front: as an interactive page and as a picture.
PAGE, PICTURE = "front.html", "front.png"
#: Location of the legend by the directions of y and x: matplotlib's code of the corner opposite to the best one.
LEGEND_CORNER = {("max", "min"): 4, ("max", "max"): 3, ("min", "min"): 1, ("min", "max"): 2}


def write_report(
    folder: Path,
    front: pd.DataFrame,
    evaluations: pd.DataFrame,
    objectives: Sequence[Objective],
    about: About | None = None,
) -> list[Path]:
    """Write ``front.csv``, ``front.json``, ``front.html``, ``front.png`` and ``evaluations.parquet``; return the paths.

    ``front`` has the columns of :func:`.front_frame`; ``evaluations`` the same measures of every network. Pictures show
    the first objective against the second, a third by colour and a fourth by size; ``about`` gives their captions.
    Files depend only on the arguments, and each is written atomically. Raises :class:`WorkspaceError` when one cannot
    be written.
    """
    about = about or About()
    written = write_front(folder, front, objectives)
    contents = {
        PAGE: front_page(front, evaluations, objectives, about),
        PICTURE: _front_png(front, evaluations, objectives, about),
        "evaluations.parquet": evaluations.to_parquet(index=False),
    }
    for name, content in contents.items():
        atomic_write_bytes(folder / name, content)
    return [*written, *(folder / name for name in contents)]


def write_front(folder: Path, front: pd.DataFrame, objectives: Sequence[Objective]) -> list[Path]:
    """Write ``front.csv`` and ``front.json``, which takes milliseconds; return their paths."""
    contents = {
        "front.csv": front.to_csv(index=False, lineterminator="\n").encode(),
        "front.json": _front_json(front, objectives),
    }
    for name, content in contents.items():
        atomic_write_bytes(folder / name, content)
    return [folder / name for name in contents]


def _front_json(front: pd.DataFrame, objectives: Sequence[Objective]) -> bytes:
    directed = [{"name": o.name, "direction": o.direction, "unit": unit_of(o.name)} for o in objectives]
    points = json.loads(front.to_json(orient="records", double_precision=15))
    for point, architecture in zip(points, front["architecture"], strict=True):
        point["architecture"] = json.loads(architecture)
    digests = digests_of(fields_of_front({"objectives": directed, "points": points}))
    # One line a point: with `indent`, Python's slow encoder would take most of the time of a generation's report.
    lines = ",\n".join(json.dumps(point) for point in points)
    ends = f'{{"objectives": {json.dumps(directed)},\n"points": [\n', f'\n],\n"{DIGESTS}": {json.dumps(digests)}}}\n'
    return lines.join(ends).encode()


def fields_of_front(front: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a front that have a digest each: the objectives, and every point by its position."""
    points = {f"point {position}": point for position, point in enumerate(front["points"])}
    return {"objectives": front.get("objectives"), **points}


def _front_png(front: pd.DataFrame, evaluations: pd.DataFrame, objectives: Sequence[Objective], about: About) -> bytes:
    x, y = axes_of(objectives)
    cloud, line = drawn(evaluations, x, y), drawn(front, x, y)
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(
        cloud[x.name], cloud[y.name], s=7, c=CLOUD, alpha=0.35, linewidths=0, label="evaluated", rasterized=True
    )
    if len(objectives) > 2 and len(line):
        _coloured(figure, axes, line, objectives)
    else:
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
    axes.set(xscale=_scale_of(x, cloud), yscale=_scale_of(y, cloud))
    _format(axes.xaxis, x, cloud[x.name])
    _format(axes.yaxis, y, cloud[y.name])
    _decorate(axes, x, y, about.lines(len(front), len(evaluations)))
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _scale_of(objective: Objective, cloud: pd.DataFrame) -> str:
    return "log" if is_wide(objective, cloud[objective.name]) else "linear"


def _coloured(figure: Figure, axes: Axes, line: pd.DataFrame, objectives: Sequence[Objective]) -> None:
    """Draw the front as points; colour shows a third objective, size a fourth."""
    x, y = axes_of(objectives)
    values, ticks, texts = colours(line, objectives[2])
    size: Any = 40.0
    if len(objectives) > 3:
        fourth = line[objectives[3].name].to_numpy(np.float64)
        size = 15 + 75 * (fourth - fourth.min()) / max(float(np.ptp(fourth)), 1e-300)
    points = axes.scatter(
        line[x.name], line[y.name], c=values, s=size, cmap=COLOURS.lower(), edgecolors="white", linewidths=0.7,
        label="front", zorder=3,
    )  # fmt: skip
    bar = figure.colorbar(points, ax=axes, ticks=ticks)
    bar.set_label(label(objectives[2]), color=INK)
    bar.ax.set_yticklabels(texts, color=INK, fontsize=9)


def _format(axis: Axis, objective: Objective, values: pd.Series[Any]) -> None:
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    if len(values) and abs(values).max() >= 1000:
        axis.set_major_formatter(EngFormatter(sep=" "))
    axis.set_label_text(label(objective), color=INK)


def _decorate(axes: Axes, x: Objective, y: Objective, titles: tuple[str, str]) -> None:
    title, subtitle = titles
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=22 if subtitle else 10)
    note = axes.annotate(
        textwrap.shorten(subtitle, 130), (0, 1), (0, 7), "axes fraction", "offset points", fontsize=7, color=INK
    )
    note.set_in_layout(False)  # else it would shrink the plot
    axes.grid(which="major", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(CLOUD)
    axes.tick_params(which="both", colors=INK, labelsize=9)
    legend = axes.legend(frameon=False, labelcolor=INK, fontsize=9, markerscale=1.4)
    legend.set_loc(LEGEND_CORNER[y.direction, x.direction])
