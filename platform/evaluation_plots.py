"""The plots of an evaluation: predictions against labels, where families lie, and bars beside the papers' figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots
from sklearn.manifold import TSNE

from gennape.platform.evaluation_report import published_figure, setting_title
from gennape.platform.report import CLOUD, FRONT, INK
from gennape.predictors.protocol import ALL, FINE_TUNED, ZERO_SHOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float64

    from gennape.platform.evaluation_report import Evaluation

PREDICTOR = "gennape"
#: Points drawn of each benchmark: more say nothing new, and make the page heavy.
MOST_POINTS = 600
_COLUMNS = 3
_COLOURS = {ZERO_SHOT: CLOUD, FINE_TUNED: FRONT}
#: Bars: method, and whether it is the published figure.
_BARS = (("gennape", False), ("gennape", True), ("k_gnn", False), ("k_gnn", True), ("flops", False), ("flops", True))


def plots(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Titles and HTML; the first one brings the library along, so that they need nothing from elsewhere."""
    figures = [*_bars(evaluation)]
    if evaluation.measured:
        figures.append((f"Predicted against true accuracy, up to {MOST_POINTS} rows each", _predictions(evaluation)))
    if evaluation.embeddings:
        figures.append(_projection(evaluation.embeddings))
    return [(title, _html(figure, first=i == 0, name=f"plot-{i}")) for i, (title, figure) in enumerate(figures)]


def _html(figure: go.Figure, first: bool, name: str) -> str:
    figure.update_layout(template="plotly_white", font={"color": INK}, margin={"t": 40})
    page: str = figure.to_html(include_plotlyjs=first, full_html=False, div_id=name, config={"displaylogo": False})
    return page


def _bars(evaluation: Evaluation) -> list[tuple[str, go.Figure]]:
    summary, out = evaluation.summary, []
    for setting, labels in ((ZERO_SHOT, 0), (FINE_TUNED, evaluation.plan.labels)):
        part = summary[(summary["setting"] == setting) & (summary["subset"] == ALL)]
        families = dict(zip(part["benchmark"], part["family"], strict=True))
        if not families:
            continue
        figure = go.Figure([_bar(part.to_dict("records"), families, setting, labels, *bar) for bar in _BARS])
        figure.update_layout(barmode="group", yaxis={"title": {"text": "SRCC"}, "range": [-0.3, 1]}, height=420)
        out.append((f"Rank correlation beside the published, {setting_title(setting, labels)}", figure))
    return out


def _bar(
    records: Sequence[Mapping[Any, Any]],
    families: Mapping[str, str],
    setting: str,
    labels: int,
    method: str,
    known: bool,
) -> go.Bar:
    """One colour of bars: measured with its spread, or published and hatched."""
    mine = {r["benchmark"]: r for r in records if r["method"] == method}
    published = {b: published_figure(family, setting, labels, method, "srcc") for b, family in families.items()}
    values = [
        (None if (p := published[b]) is None else p.value) if known else mine.get(b, {}).get("srcc") for b in families
    ]
    spread = None if known else [_finite(mine.get(b, {}).get("srcc_sd")) for b in families]
    return go.Bar(
        name=f"{method}, published" if known else method,
        x=list(families),
        y=values,
        error_y={"type": "data", "array": spread, "visible": not known},
        marker={
            "color": qualitative.Safe[[m for m, _ in _BARS].index(method) // 2],
            "opacity": 0.45 if known else 1,
            "pattern": {"shape": "/" if known else ""},
        },
    )


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


def _predictions(evaluation: Evaluation) -> go.Figure:
    names = [rows.benchmark for rows, _ in evaluation.measured]
    lines = math.ceil(len(names) / _COLUMNS)
    figure = make_subplots(lines, _COLUMNS, subplot_titles=names)
    seen: set[str] = set()
    for place, (rows, outcome) in enumerate(evaluation.measured):
        at = {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
        drawn = np.random.default_rng(0).permutation(len(rows.accuracy))[:MOST_POINTS]
        for setting, seed in ((ZERO_SHOT, 0), (FINE_TUNED, next(iter(evaluation.plan.seeds), 0))):
            scores = outcome.scores.get((setting, PREDICTOR, seed))
            if scores is not None:
                x, y = rows.accuracy[drawn], scores[drawn]
                figure.add_trace(_points(x, y, setting, setting, _COLOURS[setting], setting not in seen), **at)
                seen.add(setting)
        ends = [float(rows.accuracy.min()), float(rows.accuracy.max())]
        diagonal = go.Scatter(x=ends, y=ends, mode="lines", line={"color": INK, "width": 1}, showlegend=False)
        figure.add_trace(diagonal, **at)
    figure.update_xaxes(title={"text": "true accuracy, percent"})
    figure.update_yaxes(title={"text": "predicted"})
    figure.update_layout(height=320 * lines)
    return figure


def _points(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], name: str, group: str, colour: str, listed: bool
) -> go.Scatter:
    kept = np.isfinite(y)
    return go.Scatter(
        x=x[kept].round(4),
        y=y[kept].round(4),
        mode="markers",
        name=name,
        legendgroup=group,
        showlegend=listed,
        marker={"size": 4, "opacity": 0.5, "color": colour},
    )


def _projection(embeddings: Mapping[str, Float64[np.ndarray, "g d"]]) -> tuple[str, go.Figure]:
    together = np.concatenate(list(embeddings.values()))
    flat, how = project(together, np.random.default_rng(0))
    bounds = np.cumsum([0, *(len(part) for part in embeddings.values())])
    colours = qualitative.Safe
    figure = go.Figure(
        [
            _points(flat[start:end, 0], flat[start:end, 1], family, family, colours[i % len(colours)], True)
            for i, (family, start, end) in enumerate(zip(embeddings, bounds[:-1], bounds[1:], strict=True))
        ]
    )
    figure.update_layout(height=600, xaxis={"visible": False}, yaxis={"visible": False})
    return f"Embeddings of {len(together):,} networks in two dimensions ({how})", figure


def project(embeddings: Float64[np.ndarray, "g d"], rng: np.random.Generator) -> tuple[Float64[np.ndarray, "g 2"], str]:
    """Embeddings in two dimensions, and how they got there: by t-SNE (van der Maaten and Hinton, 2008), which needs
    some hundred of them, or by principal components."""
    centred = embeddings - embeddings.mean(0)
    perplexity = 30
    if len(centred) > 3 * perplexity:
        method = TSNE(perplexity=perplexity, init="pca", random_state=int(rng.integers(2**31)))
        return method.fit_transform(centred).astype(np.float64), "t-SNE"
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    flat = np.zeros((len(centred), 2))
    flat[:, : min(2, len(size))] = (left * size)[:, :2]
    return flat, "principal components"
