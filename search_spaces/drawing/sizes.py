"""Plot parameters against multiply-accumulates of sampled networks of a family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from gennape.search_spaces.drawing.files import check_suffix
from gennape.search_spaces.drawing.raster import save
from gennape.search_spaces.drawing.summary import quantity
from gennape.search_spaces.drawing.svg import EDGE, INK
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.files.atomic import replacing
from gennape.search_spaces.graphs.cost import macs, params

SIZES_SUFFIXES = (".svg", ".png", ".pdf")
#: Colours and markers of families in turn, after Okabe and Ito (2008); markers separate those that share a colour.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3b4754")
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
_BINS = 40
_CHUNK = 256  # graphs held at a time


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Cost of a family's sampled networks."""

    name: str
    params: Int64[np.ndarray, " n"]
    macs: Int64[np.ndarray, " n"]


def sample_sizes(space: SearchSpace, n: int, rng: np.random.Generator) -> Sizes:
    """Parameters and multiply-accumulates of ``n`` architectures drawn from ``space``."""
    genomes = space.sample(rng, n)
    parts = []
    for start in range(0, n, _CHUNK):
        graphs = space.graphs(genomes[start : start + _CHUNK])
        parts.append(np.stack([params(graphs), macs(graphs)]))
    counted = np.concatenate(parts, axis=1)
    return Sizes(space.name, counted[0], counted[1])


def describe_sizes(sizes: Sizes) -> str:
    """Median and range of both costs in one line."""
    texts = []
    for values, unit in ((sizes.params, "parameters"), (sizes.macs, "MACs")):
        low, median, high = (quantity(float(v)) for v in (values.min(), np.median(values), values.max()))
        texts.append(f"{median} {unit} ({low} to {high})")
    return f"{sizes.name}: {', '.join(texts)}"


def draw_sizes(families: Sequence[Sizes], to: Path) -> None:
    """Plot every network of ``families``, with a histogram of each cost along the margins; medians are ringed.

    Raises :class:`ConfigError` for an unknown suffix, :class:`WorkspaceError` if ``to`` cannot be written.
    """
    check_suffix(to, SIZES_SUFFIXES)
    figure = Figure(figsize=(8.5, 6.6 + 0.22 * len(families)), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 1), height_ratios=(1, 5))
    main = figure.add_subplot(grid[1, 0])
    across = figure.add_subplot(grid[0, 0], sharex=main)
    upwards = figure.add_subplot(grid[1, 1], sharey=main)
    for values, axis in zip(_both(families), (main.xaxis, main.yaxis), strict=True):
        _scale(main, axis, values)
    bins = [_bins(values) for values in _both(families)]
    for i, sizes in enumerate(families):
        colour = _COLOURS[i % len(_COLOURS)]
        _plot(main, sizes, colour, _MARKERS[i % len(_MARKERS)])
        across.hist(sizes.params, bins=bins[0].tolist(), color=colour, alpha=0.45, histtype="stepfilled")
        upwards.hist(
            sizes.macs, bins=bins[1].tolist(), color=colour, alpha=0.45, histtype="stepfilled", orientation="horizontal"
        )
    main.set_xlabel("parameters", color=INK)
    main.set_ylabel("MACs of one image", color=INK)
    for margin in (across, upwards):
        margin.axis("off")
    title = f"Median (range) of {len(families[0].macs):,} sampled networks{' of each family' * (len(families) > 1)}"
    legend = figure.legend(loc="outside upper left", frameon=False, labelcolor=INK, fontsize=9.5, title=title)
    legend.set_alignment("left")
    legend.get_title().set(fontweight="bold", color=INK, fontsize=11)
    with replacing(to) as temporary:
        save(figure, temporary, 160.0)


def _both(families: Sequence[Sizes]) -> list[Float64[np.ndarray, " m"]]:
    """All parameters and all multiply-accumulates."""
    return [
        np.concatenate([sizes.params for sizes in families]).astype(np.float64),
        np.concatenate([sizes.macs for sizes in families]).astype(np.float64),
    ]


def _wide(values: Float64[np.ndarray, " m"]) -> bool:
    """Whether values span a range that needs a logarithmic axis."""
    return bool(values.min() > 0 and values.max() > 5 * values.min())


def _bins(values: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " b"]:
    low, high = values.min(), values.max()
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    edges: Float64[np.ndarray, " b"] = (
        np.geomspace(low, high, _BINS) if _wide(values) else np.linspace(low, high, _BINS)
    )
    return edges


def _scale(main: Axes, axis: Axis, values: Float64[np.ndarray, " m"]) -> None:
    if _wide(values):
        (main.set_xscale if axis is main.xaxis else main.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(EngFormatter(sep=" "))


def _plot(main: Axes, sizes: Sizes, colour: str, marker: str) -> None:
    main.scatter(sizes.params, sizes.macs, s=11, color=colour, marker=marker, alpha=0.35, linewidths=0)
    middle = ([float(np.median(sizes.params))], [float(np.median(sizes.macs))])
    main.scatter(*middle, s=300, facecolors="none", edgecolors=INK, linewidths=1)
    main.scatter(
        *middle, s=110, color=colour, marker=marker, edgecolors="white", linewidths=1, label=describe_sizes(sizes)
    )
    main.grid(which="major", color="#e4e7eb", linewidth=0.8)
    main.set_axisbelow(True)
    main.spines[["top", "right"]].set_visible(False)
    main.spines[["left", "bottom"]].set_color(EDGE)
    main.tick_params(which="both", colors=INK, labelsize=9)
