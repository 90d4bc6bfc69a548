"""Verification of a search: which networks are trained, and how their accuracies compare with the predicted ones."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gennape.errors import ConfigError
from gennape.platform.labelling.sources import front_of, sampled
from gennape.platform.search.front_page import CLOUD, FRONT, INK
from gennape.platform.search.runs import config_of, find_run
from gennape.predictors.evaluation.verification_metrics import dominates, trained_accuracies, verification_metrics
from gennape.predictors.model.checkpoint import load_checkpoint
from gennape.search_spaces.files.atomic import atomic_write_bytes, write_json
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.labels.labels import read_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float64, Int64
    from matplotlib.axes import Axes

    from gennape.platform.search.config import SearchConfig
    from gennape.predictors.evaluation.verification_metrics import TrainedAccuracies
    from gennape.predictors.predictor import Predictor
    from gennape.search_spaces.families.space import SearchSpace

#: What a network is trained for: it is of the front, or one that the front is compared with.
FRONT_ROLE, NAMED, MEDIAN, KNOWN = "front", "named", "median", "best known"
_SAMPLE = 201  # networks of a family among which its median is found


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Networks to train: of the front, best predicted first, then what they are compared with; no network twice.

    ``predicted``: accuracy by the predictor of the search, percent.
    """

    space: SearchSpace
    genomes: Int64[np.ndarray, "n g"]
    roles: tuple[str, ...]
    networks: tuple[str, ...]
    predicted: Float64[np.ndarray, " n"]
    flops: Int64[np.ndarray, " n"]


def candidates(
    workspace: Path, run: str, points: int, named: Int64[np.ndarray, "b g"] | None, known: Path | None, seed: int
) -> Candidates:
    """``points`` of the run's front, evenly along its order; ``named`` networks; of ``_SAMPLE`` sampled ones that of
    the median prediction; the best labelled one of the file ``known``. A network of two roles has the first."""
    folder = find_run(workspace, run)
    space, front = front_of(workspace, run)
    if points < 2:
        raise ConfigError(f"an order needs two networks, got --points {points}")
    chosen = np.unique(np.linspace(0, len(front) - 1, min(points, len(front))).round().astype(int))
    predictor = _predictor_of(config_of(folder))
    others = sampled(space, _SAMPLE, seed)
    middle = np.argsort(predictor.predict(space.graphs(others)).accuracy, kind="stable")[_SAMPLE // 2]
    parts = [(FRONT_ROLE, front[chosen])]
    if named is not None:
        parts.append((NAMED, named))
    if known is not None:
        labels = read_labels(known, space, None)
        parts.append((KNOWN, labels.genomes[[int(labels.accuracy.argmax())]]))
    parts.append((MEDIAN, others[[middle]]))
    genomes = np.concatenate([rows for _, rows in parts])
    roles = [role for role, rows in parts for _ in rows]
    graphs = space.graphs(genomes)
    hashes = canonical_hashes(graphs)
    kept = np.sort(np.unique(np.array(hashes), return_index=True)[1])
    if (found := sum(roles[i] == FRONT_ROLE for i in kept)) < 2:
        raise ConfigError(f"the front of {folder.name} has {found} network, and an order needs two; search for longer")
    graphs = graphs.take(kept)
    return Candidates(
        space, genomes[kept], tuple(roles[i] for i in kept), tuple(hashes[i] for i in kept),
        predictor.predict(graphs).accuracy.astype(np.float64), flops(graphs),
    )  # fmt: skip


def _predictor_of(config: SearchConfig) -> Predictor:
    checkpoint = None if config.checkpoint is None else Path(config.checkpoint)
    predictor = load_checkpoint(checkpoint, config.zero_shot)
    if predictor.sha256 != config.checkpoint_sha256:
        raise ConfigError(
            f"the search predicted with checkpoint {config.checkpoint_sha256[:12]}…, but "
            f"{config.checkpoint or 'the shipped one'} is {predictor.sha256[:12]}… now; put the former back"
        )
    return predictor


def verify_front(of: Candidates, labels: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Compare what was predicted with labels, the table that :func:`labelling.label` writes, of all trainings.

    Returns a row for each network that was trained, and the verification metrics: figures of the front and of all
    networks, and for each network that the front is compared with, which of the front dominate it. Raises
    :class:`ConfigError` where fewer than two networks of the front were trained.
    """
    mine = labels[labels["network"].isin(of.networks)]
    trained = [i for i, network in enumerate(of.networks) if network in set(mine["network"])]
    number = {of.networks[i]: n for n, i in enumerate(trained)}
    index = mine["network"].map(number).to_numpy(np.int64)
    roles = np.array([of.roles[i] for i in trained])
    front = np.flatnonzero(roles == FRONT_ROLE)
    if len(front) < 2:
        raise ConfigError(f"{len(front)} networks of the front were trained, an order needs 2; see why others failed")
    found = trained_accuracies(index, mine["accuracy"].to_numpy(np.float64))
    predicted, cost = of.predicted[trained], of.flops[trained]
    rows = pd.DataFrame(
        {
            "role": roles, "network": [of.networks[i] for i in trained], "predicted": predicted, "accuracy": found.mean,
            "trainings": found.trainings, "flops": cost,
            "architecture": [json.dumps(of.space.encode(of.genomes[i])) for i in trained],
        }
    )  # fmt: skip
    among = trained_accuracies(*_only(index, front, mine["accuracy"].to_numpy(np.float64)))
    result = {
        "front": verification_metrics(among, predicted[front]),
        "all": verification_metrics(found, predicted),
        "baselines": [_against(found, rows, front, i) for i in np.flatnonzero(roles != FRONT_ROLE).tolist()],
    }
    return rows, result


def _only(
    index: Int64[np.ndarray, " t"], kept: Int64[np.ndarray, " k"], accuracy: Float64[np.ndarray, " t"]
) -> tuple[Int64[np.ndarray, " s"], Float64[np.ndarray, " s"]]:
    """The trainings of some networks, numbered anew in their order."""
    mine = np.isin(index, kept)
    return np.searchsorted(kept, index[mine]), accuracy[mine]


def _against(
    found: TrainedAccuracies, rows: pd.DataFrame, front: Int64[np.ndarray, " k"], baseline: int
) -> dict[str, Any]:
    in_mean, beyond_noise = dominates(found, rows["flops"].to_numpy(np.int64), baseline)
    best = int(front[found.mean[front].argmax()])
    return {
        "role": rows["role"][baseline], "network": rows["network"][baseline],
        "accuracy": float(found.mean[baseline]), "flops": int(rows["flops"][baseline]),
        "dominated_by": rows["network"][front[in_mean[front]]].tolist(),
        "dominated_beyond_noise_by": rows["network"][front[beyond_noise[front]]].tolist(),
        "best_of_front_minus_it": float(found.mean[best] - found.mean[baseline]),
        "margin": found.margin(best, baseline),
    }  # fmt: skip


def write_verification(
    folder: Path, rows: pd.DataFrame, result: Mapping[str, Any], study: Mapping[str, Any]
) -> list[Path]:
    """Write ``verify.csv``, ``verify.json`` and ``verify.png``; returns their paths."""
    atomic_write_bytes(folder / "verify.csv", rows.to_csv(index=False, lineterminator="\n").encode())
    write_json(folder / "verify.json", _without_nan({**result, "study": study}))
    atomic_write_bytes(folder / "verify.png", _drawn(rows, result))
    return [folder / name for name in ("verify.csv", "verify.json", "verify.png")]


def _without_nan(value: Any) -> Any:
    """JSON has no nan: what is not known is null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _drawn(rows: pd.DataFrame, result: Mapping[str, Any]) -> bytes:
    figure = Figure(figsize=(11, 4.5), dpi=140, layout="constrained")
    order, cost = figure.subplots(1, 2)
    for axes, x, scale, label in (
        (order, "predicted", 1.0, "predicted accuracy [percent]"),
        (cost, "flops", 1e-6, "FLOPs [million]"),
    ):
        for role, marker in ((FRONT_ROLE, "o"), (NAMED, "s"), (MEDIAN, "D"), (KNOWN, "^")):
            one = rows[rows["role"] == role]
            if len(one):
                colour = FRONT if role == FRONT_ROLE else INK
                axes.scatter(one[x] * scale, one["accuracy"], marker=marker, s=28, color=colour, label=role)
        _name(axes, label)
    order.set_title(f"tau of the front {result['front']['kendall_tau']:.2f}", loc="left", fontsize=11, color=INK)
    cost.set_title("trained", loc="left", fontsize=11, color=INK)
    cost.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _name(axes: Axes, x: str) -> None:
    axes.set(xlabel=x, ylabel="accuracy, trained [percent]")
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(CLOUD)


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The verification metrics that tracking shows, without those that are unknown."""
    parts: Sequence[str] = ("front", "all")
    named = {f"{part}/{name}": value for part in parts for name, value in result[part].items()}
    return {name: float(value) for name, value in named.items() if not np.isnan(value)}
