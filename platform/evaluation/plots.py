"""The plots of an evaluation: bars beside the papers' figures, predictions against labels, coverage, embeddings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots
from sklearn.manifold import TSNE

from gennape.platform.evaluation.results import PREDICTOR
from gennape.platform.evaluation.tables import learning_curves, published_figure, setting_title
from gennape.platform.search.front_page import CLOUD, FRONT, INK, PLOTLY_CONFIG
from gennape.predictors.evaluation.protocol import ALL, FINE_TUNED, MILLISECONDS, ZERO_SHOT
from gennape.predictors.metrics import coverage, normal_scale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float64

    from gennape.platform.evaluation.results import Evaluation
    from gennape.predictors.evaluation.protocol import BenchmarkResult, BenchmarkRows

#: Points drawn of each benchmark: more say nothing new, and make the page heavy.
MAX_POINTS = 600
_COLUMNS = 3
_COLOURS = {ZERO_SHOT: CLOUD, FINE_TUNED: FRONT}
_NOMINAL = list(range(5, 100, 5))
_DASHES = ("solid", "dash", "dot")
#: Bars: method, and whether it is the published figure.
_BARS = (("gennape", False), ("gennape", True), ("k_gnn", False), ("k_gnn", True), ("flops", False), ("flops", True))


def plots(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Titles and HTML; the first one brings the library along, so that they need nothing from elsewhere."""
    figures = [*_bars(evaluation), *_curves(evaluation)]
    figures += _predictions(evaluation)
    figures += _reliability(evaluation)
    if evaluation.embeddings:
        figures.append(_projection(evaluation.embeddings))
    return [(title, _html(figure, first=i == 0, name=f"plot-{i}")) for i, (title, figure) in enumerate(figures)]


def _html(figure: go.Figure, first: bool, name: str) -> str:
    figure.update_layout(template="plotly_white", font={"color": INK}, margin={"t": 60, "b": 50})
    figure.update_layout(legend={"itemsizing": "constant"})  # else as small and pale as the points
    page: str = figure.to_html(include_plotlyjs=first, full_html=False, div_id=name, config=PLOTLY_CONFIG)
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
    spread = [math.nan if known else mine.get(b, {}).get("srcc_sd", math.nan) for b in families]
    return go.Bar(
        name=f"{method}, published" if known else method,
        x=list(families),
        y=values,
        error_y={"type": "data", "array": spread, "visible": any(map(math.isfinite, spread))},
        marker={
            "color": qualitative.Safe[[m for m, _ in _BARS].index(method) // 2],
            "opacity": 0.45 if known else 1,
            "pattern": {"shape": "/" if known else ""},
        },
    )


def _curves(evaluation: Evaluation) -> list[tuple[str, go.Figure]]:
    """Rank correlations over numbers of labels, a line a benchmark."""
    curves = learning_curves(evaluation)
    if not curves:
        return []
    figure = go.Figure()
    for i, (name, points) in enumerate(curves.items()):
        spread = [point["srcc_sd"] for point in points.values()]
        trace = go.Scatter(
            x=list(points), y=[point["srcc"] for point in points.values()], mode="lines+markers", name=name,
            line={"color": qualitative.Safe[i % len(qualitative.Safe)]},
            error_y={"type": "data", "array": spread, "visible": any(map(math.isfinite, spread))},
        )  # fmt: skip
        figure.add_trace(trace)
    figure.update_layout(xaxis={"title": {"text": "labels"}}, yaxis={"title": {"text": "SRCC"}}, height=480)
    return [("Learning curves: rank correlation by number of labels", figure)]


def _predictions(evaluation: Evaluation) -> list[tuple[str, go.Figure]]:
    """A figure for each setting: zero-shot accuracies may be on the scale of another family."""
    out = []
    for setting, seed in ((ZERO_SHOT, 0), (FINE_TUNED, next(iter(evaluation.plan.seeds), 0))):
        key = (setting, PREDICTOR, seed)
        panels = [(rows, outcome.scores[key]) for rows, outcome in evaluation.measured if key in outcome.scores]
        if panels:
            name = setting_title(setting, evaluation.plan.labels)
            title = f"Predicted against true accuracy, {name}, up to {MAX_POINTS} rows each"
            out.append((title, _panels(panels, _COLOURS[setting])))
    return out


def _panels(panels: Sequence[tuple[BenchmarkRows, Float64[np.ndarray, " n"]]], colour: str) -> go.Figure:
    lines = math.ceil(len(panels) / _COLUMNS)
    figure = make_subplots(
        lines, _COLUMNS, subplot_titles=[rows.benchmark for rows, _ in panels], vertical_spacing=0.3 / lines
    )
    for place, (rows, scores) in enumerate(panels):
        at = {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
        drawn = np.random.default_rng(0).permutation(len(rows.accuracy))[:MAX_POINTS]
        kept = drawn[np.isfinite(scores[drawn])]
        figure.add_trace(_points(rows.accuracy[kept], scores[kept], rows.benchmark, "points", colour, False), **at)
        figure.add_trace(_line(float(rows.accuracy.min()), float(rows.accuracy.max())), **at)
        if len(kept):  # the line of equality may lie far away
            low, high = float(scores[kept].min()), float(scores[kept].max())
            margin = 0.05 * (high - low) or 1.0
            figure.update_yaxes(range=[low - margin, high + margin], **at)
    figure.update_xaxes(title={"text": "true accuracy, percent"})
    figure.update_yaxes(title={"text": "predicted"})
    figure.update_layout(height=300 * lines + 60)
    return figure


def _line(low: float, high: float) -> go.Scatter:
    """Where both axes say the same."""
    ends = [low, high]
    return go.Scatter(x=ends, y=ends, mode="lines", line={"color": INK, "width": 1}, showlegend=False)


def _reliability(evaluation: Evaluation) -> list[tuple[str, go.Figure]]:
    """Of how many rows the central intervals hold the label, over how many they should hold; means over seeds."""
    kinds = (("accuracy", PREDICTOR, evaluation.measured), ("latency", f"{PREDICTOR}_latency", evaluation.latency))
    told = {kind: _coverages(measured, method) for kind, method, measured in kinds}
    told = {kind: lines for kind, lines in told.items() if lines}
    if not told:
        return []
    figure = make_subplots(1, len(told), subplot_titles=list(told))
    for column, (kind, lines) in enumerate(told.items(), start=1):
        for i, (name, observed) in enumerate(lines.items()):
            look = {
                "color": qualitative.Safe[i % len(qualitative.Safe)],
                "dash": _DASHES[i // len(qualitative.Safe) % 3],
            }
            trace = go.Scatter(
                x=_NOMINAL, y=observed.round(2), mode="lines", name=name, line=look, legendgroup=kind,
                legendgrouptitle={"text": kind},
            )  # fmt: skip
            figure.add_trace(trace, row=1, col=column)
        figure.add_trace(_line(0, 100), row=1, col=column)
    figure.update_xaxes(title={"text": "should hold, percent of rows"}, range=[0, 100])
    figure.update_yaxes(title={"text": "hold, percent of rows"}, range=[0, 100])
    figure.update_layout(height=700)  # the legend names every device
    return [("Reliability: central intervals of the predicted distributions", figure)]


def _coverages(
    measured: Sequence[tuple[BenchmarkRows, BenchmarkResult]], method: str
) -> dict[str, Float64[np.ndarray, " l"]]:
    """Coverage at each nominal level of what a method tells, by benchmark (and setting, unless fine-tuned)."""
    out: dict[str, Float64[np.ndarray, " l"]] = {}
    for rows, outcome in measured:
        found: dict[str, list[list[float]]] = {}
        for (setting, name, seed), deviation in outcome.deviations.items():
            scores = outcome.scores[setting, name, seed]
            tested = np.isfinite(scores)
            if name == method and tested.any():
                three = (rows.accuracy[tested], scores[tested], deviation[tested])
                scale = normal_scale(*three, rows.unit == MILLISECONDS)
                found.setdefault(setting, []).append([coverage(*scale, float(level)) for level in _NOMINAL])
        for setting, by_seed in found.items():
            suffix = "" if setting == FINE_TUNED else f", {setting}"
            out[rows.benchmark.removeprefix("latency:") + suffix] = np.mean(by_seed, axis=0)
    return out


def _points(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], name: str, group: str, colour: str, listed: bool
) -> go.Scatter:
    return go.Scatter(
        x=x.round(4),
        y=y.round(4),
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
