"""``gennape evaluate``: measure a checkpoint on labelled architectures, beside FLOPs alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64

    from gennape.predictors.predictor import Predictor

#: File, family, and whether only the held-out test rows count because the shipped checkpoint was trained on the rest.
TABLES = (
    ("nb101.csv.gz", "nb101", True),
    ("ofa_mbv3_profile.csv.gz", "ofa_mbv3", False),
    ("ofa_mbv3.csv.gz", "ofa_mbv3", False),
    ("ofa_resnet.csv.gz", "ofa_resnet", False),
)


def evaluate(
    data: Annotated[Path, typer.Option(help="Folder of labelled files.")],
    out: Annotated[Path, typer.Option(help="Folder to write report.json and report.md to.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint; default the shipped one.")] = None,
) -> None:
    """Rank correlation and error of zero-shot predictions, overall and within each resolution."""
    import json

    from rich.console import Console

    from gennape.errors import InvalidDataError
    from gennape.platform.workspace import atomic_write_bytes
    from gennape.predictors.checkpoint import load_checkpoint, provenance_of
    from gennape.source import commit

    present = [table for table in TABLES if (data / table[0]).is_file()]
    if not present:
        raise InvalidDataError(f"{data} holds none of {[name for name, _, _ in TABLES]}; name the folder that does")
    predictor = load_checkpoint(checkpoint)
    rows = [row for table in present for row in _measure(data, *table, predictor)]
    report = {"checkpoint": predictor.sha256, "trained": provenance_of(checkpoint), "commit": commit(), "rows": rows}
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    text = _markdown(rows)
    atomic_write_bytes(out / "report.md", text.encode())
    Console(width=120).print(text, markup=False)


def _measure(data: Path, name: str, family: str, held_out: bool, predictor: Predictor) -> list[dict[str, Any]]:
    import numpy as np

    from gennape.search_spaces.cost import flops
    from gennape.search_spaces.families.registry import family as family_named
    from gennape.search_spaces.graph import Column
    from gennape.search_spaces.labels import read_labels, split
    from gennape.search_spaces.ops import Op

    space = family_named(family)
    labels = read_labels(data / name, space)
    if held_out:
        labels = labels.take(split(labels) == 2)
    graphs = space.graphs(labels.genomes)
    predicted, cost = predictor.predict(graphs).accuracy, flops(graphs).astype(np.float64)
    resolution = graphs.nodes[graphs.nodes[:, Column.OP] == Op.INPUT, Column.H_OUT]  # one input a graph, in their order
    subsets = [("all", np.ones(len(predicted), bool))]
    if held_out:
        subsets.append(("at least 80 %", labels.accuracy >= 80))
    if len(np.unique(resolution)) > 1:
        subsets += [(f"resolution {r}", resolution == r) for r in np.unique(resolution)]
    return [
        {"file": name, "family": family, "subset": what, **_figures(labels.accuracy[s], predicted[s], cost[s])}
        for what, s in subsets
    ]


def _figures(
    accuracy: Float64[np.ndarray, " n"], predicted: Float64[np.ndarray, " n"], cost: Float64[np.ndarray, " n"]
) -> dict[str, Any]:
    from gennape.predictors.metrics import mae, srcc

    return {
        "rows": len(accuracy),
        "srcc": round(srcc(accuracy, predicted), 4),
        "srcc_flops": round(srcc(accuracy, cost), 4),
        "mae_percent": round(mae(accuracy, predicted), 4),
    }


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| file | family | rows | n | SRCC | SRCC of FLOPs alone | MAE % |",
        "|---|---|---|---:|---:|---:|---:|",
        *(
            f"| {r['file']} | {r['family']} | {r['subset']} | {r['rows']} | {r['srcc']:.3f} | {r['srcc_flops']:.3f} "
            f"| {r['mae_percent']:.2f} |"
            for r in rows
        ),
    ]
    return "\n".join(lines) + "\n"
