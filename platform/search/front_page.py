"""The front of a search as an interactive page, and the labels that page and picture share."""

from __future__ import annotations

import html
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from gennape.errors import CheckpointError
from gennape.platform.search.measures import RESERVED, unit_of
from gennape.platform.search.objectives import NAMES, Objective
from gennape.search_spaces.drawing.summary import quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd

    from gennape.platform.search.config import SearchConfig
    from gennape.predictors.evaluation.scale import SpaceScale

CLOUD, FRONT, INK = "#9aa5b1", "#0b6e99", "#243b53"
#: Colour scale of a third objective; distinguishable in greyscale and by colour-blind readers.
COLOURS = "Viridis"
#: What Plotly's own buttons may not do: by default one of them uploads the plot to another host.
PLOTLY_CONFIG = {"displaylogo": False, "showSendToCloud": False}
#: More points than this are drawn with WebGL.
MAX_SVG_POINTS = 20_000
_SMALLEST, _LARGEST = 7.0, 17.0  # pixels of a point, by a fourth objective

#: Label and number format of each measure.
_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", lambda value: f"{value:.2f} %"),
    "deviation": ("deviation", lambda value: f"{value:.2f} %"),
    "flops": ("FLOPs", lambda value: f"{quantity(value)} FLOPs"),
    "macs": ("MACs", lambda value: f"{quantity(value)} MACs"),
    "params": ("parameters", lambda value: f"{quantity(value)} parameters"),
    "memory": ("activation memory", lambda value: f"{quantity(value)}B of activations"),
}


@dataclass(frozen=True, slots=True)
class About:
    """Captions of a front: the ``space``, the name of the ``run``, its ``checkpoint``, and the ``scale`` of accuracies;
    any may be empty."""

    space: str = ""
    run: str = ""
    checkpoint: str = ""
    scale: str = ""

    def lines(self, front: int, evaluated: int) -> tuple[str, str]:
        """Title and subtitle."""
        of = f" of {self.space}" if self.space else ""
        parts = {"run ": self.run, "checkpoint ": self.checkpoint, "accuracies on the scale of ": self.scale}
        subtitle = " · ".join(f"{what}{value}" for what, value in parts.items() if value)
        return f"Pareto front{of}: {front:,} of {evaluated:,} evaluated networks", subtitle


def about_run(folder: Path, config: SearchConfig, checkpoint: Path | None = None) -> About:
    """Captions of the front in a run's folder. ``checkpoint``: the current path of the run's checkpoint, if moved."""
    scale = scale_of_run(config, checkpoint)
    name = f"{config.checkpoint_sha256[:12]} ({config.checkpoint or 'shipped'})"
    return About(config.space, folder.name, name, _caption(scale))


def scale_of_run(config: SearchConfig, checkpoint: Path | None = None) -> SpaceScale | None:
    """The scale of a run's accuracies; None where its checkpoint was moved since the search began."""
    from gennape.predictors.evaluation.scale import scale_of  # noqa: PLC0415 (PyTorch takes seconds)
    from gennape.predictors.model.checkpoint import provenance_of  # noqa: PLC0415

    path = checkpoint or (None if config.checkpoint is None else Path(config.checkpoint))
    try:
        return scale_of(provenance_of(path), config.zero_shot).of(config.space)
    except CheckpointError:
        return None


def _caption(scale: SpaceScale | None) -> str:
    """The scale in a few words; of a calibration with its error."""
    if scale is None:
        return ""
    from gennape.predictors.evaluation.scale import RELATIVE  # noqa: PLC0415 (see above)

    if scale.unit == RELATIVE:
        return f"{scale.name}, as relative scores"
    return scale.name if scale.error is None else f"{scale.name} (± {scale.error:.2f} %)"


def readable(name: str, value: float) -> str:
    """A measure's value with its unit: ``93.42 %``, ``620 M FLOPs``."""
    if not math.isfinite(value):
        return "unknown"
    return _words(name)[1](value)


def _words(name: str) -> tuple[str, Callable[[float], str]]:
    """The label and number format of a measure."""
    unit = unit_of(name)
    return _WORDS.get(name) or (name, lambda value: f"{name} {value:.4g} {unit}".rstrip())


def label(objective: Objective) -> str:
    """The label of an axis."""
    word = _words(objective.name)[0]
    unit = (
        " [%]"
        if objective.name == "accuracy"
        else f" [{unit_of(objective.name)}]"
        if objective.name not in _WORDS
        else ""
    )
    return f"{word}{unit}, {'higher' if objective.direction == 'max' else 'lower'} is better"


def axes_of(objectives: Sequence[Objective]) -> tuple[Objective, Objective]:
    """The objectives along x and y. A single objective is drawn against FLOPs, or against parameters if it is FLOPs."""
    first = objectives[0]
    second = objectives[1] if len(objectives) > 1 else Objective("params" if first.name == "flops" else "flops", "min")
    return second, first


def drawn(frame: pd.DataFrame, x: Objective, y: Objective) -> pd.DataFrame:
    """The rows with finite x and y, sorted by x."""
    finite = np.isfinite(frame[[x.name, y.name]].to_numpy(np.float64)).all(1)
    rows: pd.DataFrame = frame[finite].sort_values(x.name, kind="stable")
    return rows


def is_wide(objective: Objective, values: pd.Series[Any]) -> bool:
    """Whether values are drawn on a logarithmic scale: costs that span more than a decade."""
    return len(values) > 0 and objective.name != "accuracy" and values.max() > 10 * values.min() > 0


def front_page(front: pd.DataFrame, evaluations: pd.DataFrame, objectives: Sequence[Objective], about: About) -> bytes:
    """The page as HTML that works offline. A third objective is shown by colour, a fourth by size."""
    x, y = axes_of(objectives)
    cloud, line = drawn(evaluations, x, y), drawn(front, x, y)
    scatter = go.Scattergl if len(cloud) > MAX_SVG_POINTS else go.Scatter
    evaluated = scatter(
        x=cloud[x.name],
        y=cloud[y.name],
        mode="markers",
        name="evaluated",
        marker={"color": CLOUD, "size": 4, "opacity": 0.35},
        hoverinfo="skip",
    )
    best = go.Scatter(
        x=line[x.name],
        y=line[y.name],
        # Only with two objectives are neighbours along x also neighbours on the front.
        mode="lines+markers" if len(objectives) <= 2 else "markers",
        name="front",
        line={"color": FRONT, "width": 2},
        marker=_markers(line, objectives),
        text=[_hover(row, objectives) for row in line.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )
    title, subtitle = about.lines(len(front), len(evaluations))
    figure = go.Figure([evaluated, best])
    figure.update_layout(
        title={"text": _escaped(title), "subtitle": {"text": _escaped(subtitle)}},
        template="plotly_white",
        font={"color": INK},
        hovermode="closest",
        hoverlabel={"align": "left"},
        xaxis=_axis(x, cloud),
        yaxis=_axis(y, cloud),
        legend={"x": 0.99, "y": 0.02, "xanchor": "right", "yanchor": "bottom"},
    )
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, div_id="front", config=PLOTLY_CONFIG)
    head = f"<head><title>{html.escape(f'{about.run or title} - gennape')}</title>"
    return page.replace("<head>", head, 1).encode()


def _axis(objective: Objective, cloud: pd.DataFrame) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": label(objective)}, "type": "linear", "exponentformat": "SI"}
    if is_wide(objective, cloud[objective.name]):
        lowest, highest = (math.log10(value) for value in (cloud[objective.name].min(), cloud[objective.name].max()))
        powers = range(math.floor(lowest), math.ceil(highest) + 1)
        ticks = [float(f * 10**power) for power in powers for f in (1, 2, 5)]
        # Plotly would label the ticks between the powers only "2" and "5".
        axis |= {"type": "log", "tickvals": ticks, "ticktext": [quantity(tick) for tick in ticks]}
    return axis


def _markers(line: pd.DataFrame, objectives: Sequence[Objective]) -> dict[str, Any]:
    markers: dict[str, Any] = {"color": FRONT, "size": 9, "line": {"color": "white", "width": 1}}
    if len(objectives) > 2 and len(line):
        values, ticks, texts = colours(line, objectives[2])
        bar = {"title": {"text": label(objectives[2]), "side": "right"}, "tickvals": ticks, "ticktext": texts}
        markers |= {"color": values, "colorscale": COLOURS, "showscale": True, "colorbar": bar, "size": 11}
    if len(objectives) > 3 and len(line):
        fourth = line[objectives[3].name].to_numpy(np.float64)
        part = (fourth - fourth.min()) / max(float(np.ptp(fourth)), 1e-300)
        markers["size"] = (_SMALLEST + part * (_LARGEST - _SMALLEST)).tolist()
    return markers


def colours(line: pd.DataFrame, objective: Objective) -> tuple[list[float], list[float], list[str]]:
    """The values that are mapped to colours, and positions and labels of a few ticks."""
    values = line[objective.name].to_numpy(np.float64)
    wide = is_wide(objective, line[objective.name])
    scaled = np.log10(values) if wide else values
    finite = scaled[np.isfinite(scaled)]
    ticks = np.linspace(finite.min(), finite.max(), 5) if len(finite) else np.zeros(0)
    numbers = [float(10**tick if wide else tick) for tick in ticks]
    texts = [f"{number:.2f}" if objective.name == "accuracy" else quantity(number) for number in numbers]
    return scaled.tolist(), ticks.tolist(), texts


def _hover(row: dict[Any, Any], objectives: Sequence[Objective]) -> str:
    """The measures and the architecture of a network, as lines of text."""
    known = ("accuracy", "flops", "params", *further_measures(row))
    shown = list(dict.fromkeys([*(o.name for o in objectives), *known]))
    lines = [readable(name, row[name]) for name in shown if name in row]
    if math.isfinite(row.get("deviation", math.nan)):
        lines[shown.index("accuracy")] += f" ± {row['deviation']:.2f} %"
    architecture = "<br>".join(_escaped(part) for part in textwrap.wrap(row["architecture"], 72))
    return "<br>".join([f"<b>index {row['index']}</b>", *lines, architecture])


def further_measures(columns: Iterable[Any]) -> list[str]:
    """The columns of a front that hold measures which not every run records."""
    return [name for name in columns if name not in RESERVED and name not in NAMES]


def _escaped(text: str) -> str:
    """Text escaped for Plotly, which knows the entities of <, > and & but not those of quotation marks."""
    return html.escape(text, quote=False)
