"""``gennape finetune``: teach a checkpoint a family by some labelled architectures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.jobs.tracked import Register, TrackingUri, Workspace, refuse_wrong_address, register_result

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64

    from gennape.predictors.fuzzy_ensemble import FuzzyEnsemble
    from gennape.search_spaces.graph import PackedGraphs

_FOLDS, _FEWEST = 5, 10


def finetune(
    family: Annotated[str, typer.Option("--family", "--space", help="Search space of the rows.")],
    labels: Annotated[Path, typer.Option(help="Labelled file, of any format that `gennape data` names.")],
    out: Annotated[Path, typer.Option(help="Folder to write the fine-tuned checkpoint to.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint to start from; default the shipped one.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the accuracies; default the usual one.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Learn from so many rows, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw, and of the folds that are measured.")] = 0,
    register: Register = False,
    workspace: Workspace = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Learn from labelled rows, say how well, and write a checkpoint to search or serve with."""
    import numpy as np
    from rich.console import Console

    from gennape.errors import InvalidDataError
    from gennape.jobs.progress import progress_bar
    from gennape.jobs.provenance import provenance
    from gennape.predictors.checkpoint import check_place, load_checkpoint, provenance_of, save_tuned
    from gennape.predictors.evaluation_rows import learnt_families
    from gennape.predictors.protocol import draw_labelled
    from gennape.search_spaces.families.registry import family as family_named
    from gennape.search_spaces.labels import read_labels

    refuse_wrong_address(tracking_uri)
    check_place(out)
    space = family_named(family)
    rows = read_labels(labels, space, column)  # before the checkpoint, which takes longer
    predictor = load_checkpoint(checkpoint)
    if limit is not None:
        rows = rows.take(draw_labelled(rows.identity, seed, limit))
    if len(rows.genomes) < 2:
        raise InvalidDataError(f"{labels} holds {len(rows.genomes)} labelled rows; fine-tuning takes 2, and 50 do much")
    graphs = space.graphs(rows.genomes)
    found = _across_folds(predictor, graphs, rows.accuracy, np.random.default_rng(seed))
    record = provenance(labels, seed, family=family, networks=len(graphs), column=rows.column, metrics=found)
    families = sorted({*learnt_families(provenance_of(checkpoint)), family})
    with progress_bar("Fine-tuning", 1) as advance:
        predictor.fit(graphs, rows.accuracy)
        advance(1)
    sha256 = save_tuned(out, predictor, {**record, "families": families}, checkpoint, rows.identity)
    screen = Console(highlight=False)
    screen.print(f"checkpoint {sha256[:12]} fine-tuned on {len(graphs)} networks of {family}, written to {out}")
    for name, value in found.items():
        screen.print(f"{name:<12}{value:.3f}  on rows left out in turn")
    if register:
        register_result(out, "finetune", workspace, tracking_uri)
    screen.print(f"next: gennape search --space {family} --checkpoint {out}", soft_wrap=True)


def _across_folds(
    predictor: FuzzyEnsemble, graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator
) -> dict[str, float]:
    """How well rows are predicted that were left out in turn; nothing of a few."""
    import copy

    import numpy as np

    from gennape.jobs.progress import progress_bar
    from gennape.predictors.metrics import mae, srcc

    if len(accuracy) < _FEWEST:
        return {}
    predicted = np.zeros(len(accuracy))
    with progress_bar("Measuring on rows left out", _FOLDS) as advance:
        for fold in np.array_split(rng.permutation(len(accuracy)), _FOLDS):
            rest = np.setdiff1d(np.arange(len(accuracy)), fold)
            tuned = copy.copy(predictor).fit(graphs.take(rest), accuracy[rest])
            predicted[fold] = tuned.predict(graphs.take(fold)).accuracy
            advance(1)
    return {"srcc": srcc(accuracy, predicted), "mae_percent": mae(accuracy, predicted)}
