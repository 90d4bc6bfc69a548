"""Labels: what is to be trained, one file for each finished training, and the table and picture of all."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gennape.errors import ConfigError
from gennape.platform.search.front_page import CLOUD, FRONT, INK
from gennape.platform.workspace.run_files import read_json
from gennape.search_spaces.files.atomic import atomic_write_bytes, write_json
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.cost import flops

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from jaxtyping import Int64
    from matplotlib.axes import Axes

    from gennape.platform.labelling.training.network_training import TrainingResult
    from gennape.search_spaces.families.space import SearchSpace

#: How a training ended: with a label, or with a reason why there is none.
DONE, FAILED = "DONE", "FAILED"
#: Columns of a table of labels; those of failed trainings are the first six and the reason.
_WHAT = ("family", "architecture", "network", "seed", "recipe", "data")
_FOUND = (
    "accuracy", "validation_accuracy", "test_accuracy", "accuracy_by_epoch", "flops", "seconds", "images_per_second",
    "device",
)  # fmt: skip
SUFFIXES = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True, slots=True)
class LabellingTask:
    """One training: of which network, by its architecture (JSON text) and canonical hash; its FLOPs; which training."""

    family: str
    architecture: str
    network: str
    flops: int
    training: int

    @property
    def key(self) -> str:
        """Tells it from all others of a study."""
        return f"{self.network}-{self.training}"


def tasks_of(space: SearchSpace, genomes: Int64[np.ndarray, "n g"], trainings: int) -> list[LabellingTask]:
    """All trainings of some architectures; of architectures that are the same network the first alone.

    The first training of every network comes before the second of any.
    """
    graphs = space.graphs(genomes)
    networks: dict[str, tuple[str, int]] = {}
    for hashed, genome, cost in zip(canonical_hashes(graphs), genomes, flops(graphs).tolist(), strict=True):
        networks.setdefault(hashed, (json.dumps(space.encode(genome)), int(cost)))
    return [
        LabellingTask(space.name, architecture, network, cost, training)
        for training in range(trainings)
        for network, (architecture, cost) in networks.items()
    ]


# One file for each ---------------------------------------------------------------------------------------------------


def row_path(folder: Path, task: LabellingTask) -> Path:
    """Where the row of a finished training is; the name tells the training, so that none can be there twice."""
    return folder / "rows" / f"{task.key}.json"


def write_row(folder: Path, task: LabellingTask, recipe: str, data: str, found: TrainingResult | str) -> dict[str, Any]:
    """Write, whole or not at all, what a training gave, or why it failed; returns the row."""
    row: dict[str, Any] = {
        "family": task.family, "architecture": task.architecture, "network": task.network, "seed": task.training,
        "recipe": recipe, "data": data,
    }  # fmt: skip
    if isinstance(found, str):
        row |= {"state": FAILED, "reason": found}
    else:
        last = found.validation[-1]
        row |= {
            "state": DONE, "accuracy": last if found.test is None else found.test, "validation_accuracy": last,
            "test_accuracy": found.test, "accuracy_by_epoch": found.validation, "flops": task.flops,
            "seconds": found.seconds, "images_per_second": found.images_per_second, "device": found.device,
        }  # fmt: skip
    write_json(row_path(folder, task), row)
    return row


def read_row(folder: Path, task: LabellingTask) -> dict[str, Any] | None:
    """The row of a training, if it has finished."""
    path = row_path(folder, task)
    row: dict[str, Any] | None = read_json(path) if path.exists() else None
    return row


# The table of all ----------------------------------------------------------------------------------------------------


def check_suffix(out: Path) -> None:
    """Raise :class:`ConfigError` for a kind of file that labels are not written to."""
    if not out.name.lower().endswith(SUFFIXES):
        raise ConfigError(f"cannot write labels to {out.name!r}: its suffix must be one of {', '.join(SUFFIXES)}")


def beside(out: Path, what: str) -> Path:
    """A file beside the labels: ``labels.parquet`` has ``labels.study.json``, ``labels.failed.csv``, ``labels.png``."""
    suffix = next(suffix for suffix in SUFFIXES[::-1] if out.name.lower().endswith(suffix))
    return out.with_name(f"{out.name[: -len(suffix)]}{what}")


def write_labels(out: Path, rows: Sequence[Mapping[str, Any]], study: Mapping[str, Any]) -> None:
    """Write ``out``, in a form that every reader of labels takes, and beside it failures and what they are labels of.

    Accuracies are in percent; ``accuracy_by_epoch`` is a JSON list. ``accuracy`` is that on the images to test on
    where there are any, else on those to validate with.
    """
    done = [{**row, "accuracy_by_epoch": json.dumps(row["accuracy_by_epoch"])} for row in rows if row["state"] == DONE]
    table = pd.DataFrame(done, columns=[*_WHAT, *_FOUND])
    table["test_accuracy"] = table["test_accuracy"].astype("float64")
    atomic_write_bytes(out, _bytes_of(table, out))
    failed = [row for row in rows if row["state"] == FAILED]
    if failed:
        reasons = pd.DataFrame(failed, columns=[*_WHAT, "reason"])
        atomic_write_bytes(beside(out, ".failed.csv"), _bytes_of(reasons, beside(out, ".failed.csv")))
    else:
        beside(out, ".failed.csv").unlink(missing_ok=True)
    write_json(beside(out, ".study.json"), {**study, "labels": len(done), "failed": len(failed)})


def _bytes_of(table: pd.DataFrame, path: Path) -> bytes:
    buffer = io.BytesIO()
    if path.suffix.lower() == ".parquet":
        table.to_parquet(buffer, index=False)
    else:
        compression = {"method": "gzip", "mtime": 0} if path.suffix.lower() == ".gz" else None
        table.to_csv(buffer, index=False, lineterminator="\n", compression=compression)
    return buffer.getvalue()


# The picture ---------------------------------------------------------------------------------------------------------


def draw_labels(paths: Sequence[Path], rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Accuracy by epoch, and at the end against FLOPs, as PNG files; none without labels."""
    done = [row for row in rows if row["state"] == DONE]
    if not done:
        return
    figure = Figure(figsize=(11, 4.5), dpi=140, layout="constrained")
    curves, costs = figure.subplots(1, 2)
    for row in done:
        by_epoch = row["accuracy_by_epoch"]
        curves.plot(range(1, len(by_epoch) + 1), by_epoch, color=FRONT, alpha=0.35, linewidth=0.9, marker=".", ms=3)
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    costs.scatter([row["flops"] / 1e6 for row in done], [row["accuracy"] for row in done], s=14, color=FRONT)
    tested = done[0]["test_accuracy"] is not None
    _name(curves, f"{title}: validation by epoch", "epoch", "accuracy [percent]")
    _name(costs, f"{len(done)} labels: {'test' if tested else 'validation'}", "FLOPs [million]", "accuracy [percent]")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    for path in paths:
        atomic_write_bytes(path, buffer.getvalue())


def _name(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(CLOUD)
