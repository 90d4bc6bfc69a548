"""``gennape finetune``: fine-tune a checkpoint on labelled architectures of a search space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import space_option, typed
from gennape.jobs.shared.tracked import Register, TrackingUri, Workspace, refuse_wrong_address, register_result
from gennape.platform.workspace.hints import command

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from jaxtyping import Float64

    from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
    from gennape.search_spaces.graphs.graph import PackedGraphs
    from gennape.search_spaces.labels.labels import LabelledArchitectures

#: Parts that are left out in turn; of fewer rows than the second each row by itself, and of fewer than the third none.
_FOLDS, _FEW, _FEWEST = 5, 10, 3
#: One-sided 5 % of a normal distribution: below so many standard errors a rank correlation is one of chance.
_CHANCE = 1.645


@one_document
def finetune(
    space: Annotated[str, space_option("Search space of the rows.")],
    labels: Annotated[Path, typer.Option(help="Labelled file, in any format that `gennape data` lists.")],
    out: Annotated[Path, typer.Option(help="Folder to write the fine-tuned checkpoint to.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from.", show_default="the shipped one")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the accuracies.", show_default="the usual one of the file")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Use this many rows, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the drawn rows and of the validation folds.")] = 0,
    register: Register = False,
    workspace: Workspace = None,
    tracking_uri: TrackingUri = None,
) -> Result:
    """Fine-tune the predictor on some 50 labels of a search space, and write a checkpoint."""
    import numpy as np
    from rich.console import Console

    from gennape.errors import InvalidDataError
    from gennape.jobs.shared.progress import progress_bar
    from gennape.jobs.shared.provenance import provenance
    from gennape.predictors.evaluation.protocol import draw_labelled
    from gennape.predictors.evaluation.rows import learnt_families
    from gennape.predictors.model.checkpoint import check_place, load_checkpoint, provenance_of, save_tuned
    from gennape.search_spaces.families.registry import family
    from gennape.search_spaces.labels.labels import read_labels

    refuse_wrong_address(tracking_uri)
    check_place(out, checkpoint)
    search_space = family(space)
    rows = read_labels(labels, search_space, column)  # before the checkpoint, which takes longer
    predictor = load_checkpoint(checkpoint, zero_shot=True)
    if limit is not None:
        rows = rows.take(draw_labelled(rows.identity, seed, limit))
    if len(rows.genomes) < 2:
        raise InvalidDataError(f"{labels} holds {len(rows.genomes)} labelled rows; fine-tuning takes 2, and 50 do much")
    graphs = search_space.graphs(rows.genomes)
    found = _across_folds(predictor, graphs, rows.accuracy, np.random.default_rng(seed))
    record = provenance(labels, seed, family=space, networks=len(graphs), column=rows.column, metrics=found)
    families = sorted({*learnt_families(provenance_of(checkpoint)), space})
    with progress_bar("Fine-tuning", 1) as advance:
        predictor.fit(graphs, rows.accuracy)
        advance(1)
    sha256 = save_tuned(out, predictor, {**record, "families": families}, checkpoint, rows.identity)
    screen = Console(highlight=False)
    screen.print(f"checkpoint {sha256[:12]} fine-tuned on {len(graphs)} networks of {space}, written to {out}")
    for name, value in found.items():
        screen.print(f"{name:<16}{value:.3f}  {_MEANINGS[name]}")
    check = command("data", "check", labels, space=typed(space), column=column)
    warnings = [*_lessons(found, len(graphs)), *_contradictions(rows, check)]
    for warning in warnings:
        typer.echo(f"gennape: warning: {warning}", err=True)
    if register:
        register_result(out, "finetune", workspace, tracking_uri)
    screen.print(f"next: {command('search', space=typed(space), checkpoint=out)}", soft_wrap=True, markup=False)
    return Result(
        {"checkpoint": out, "sha256": sha256, "space": space, "networks": len(graphs), "metrics": found,
         "warnings": warnings}
    )  # fmt: skip


#: What the figures are.
_MEANINGS = {
    "srcc": "rank correlation on rows left out in turn",
    "mae_percent": "mean error on rows left out in turn",
    "zero_shot_srcc": "rank correlation on the same rows without these labels",
}


def _across_folds(
    predictor: FuzzyEnsemble, graphs: PackedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator
) -> dict[str, float]:
    """How well rows are predicted that were left out in turn, and how well without any labels; nothing of too few."""
    import copy

    import numpy as np

    from gennape.jobs.shared.progress import progress_bar
    from gennape.predictors.metrics import mae, srcc

    n = len(accuracy)
    if n < _FEWEST or np.ptp(accuracy) == 0:
        return {}
    predicted, folds = np.zeros(n), n if n < _FEW else _FOLDS
    zero_shot = copy.copy(predictor).fit(graphs.take(np.arange(0)), accuracy[:0]).predict(graphs).accuracy
    with progress_bar("Measuring on rows left out", folds) as advance:
        for fold in np.array_split(rng.permutation(n), folds):
            rest = np.setdiff1d(np.arange(n), fold)
            tuned = copy.copy(predictor).fit(graphs.take(rest), accuracy[rest])
            predicted[fold] = tuned.predict(graphs.take(fold)).accuracy
            advance(1)
    figures = {
        "srcc": srcc(accuracy, predicted),
        "mae_percent": mae(accuracy, predicted),
        "zero_shot_srcc": srcc(accuracy, zero_shot),
    }
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _lessons(found: Mapping[str, float], n: int) -> list[str]:
    """What to know of labels that taught little."""
    if "srcc" not in found:
        return [
            f"{n} labels, or labels that are all equal, say nothing of how well the checkpoint ranks; some 50 labels "
            "of networks drawn at random do much"
        ]
    reached, before = found["srcc"], found.get("zero_shot_srcc", 0.0)
    chance = _CHANCE / (n - 1) ** 0.5
    if reached <= chance:
        return [
            f"the labels taught no order that holds on rows left out: rank correlation {reached:.2f}, where chance "
            f"alone reaches {chance:.2f} with {n} rows; give more labels, some 50 do much"
        ]
    if reached < before:
        return [
            f"on rows left out the order is worse than without these labels ({reached:.2f} against {before:.2f}); give "
            "more labels, or use the checkpoint that you started from where only the order matters"
        ]
    return []


def _contradictions(rows: LabelledArchitectures, check: str) -> list[str]:
    """What to know of architectures whose labels contradict one another."""
    from gennape.search_spaces.labels.contradictions import spread_of

    found = spread_of([rows]).contradictions()
    if not found:
        return []
    worst = found[0]
    count = "1 architecture has" if len(found) == 1 else f"{len(found)} architectures have"
    return [
        f"{count} labels that contradict one another, from {worst.lowest:.6g} to {worst.highest:.6g} at worst; "
        f"`{check}` lists them"
    ]
