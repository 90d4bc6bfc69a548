"""``gennape fit``: fit the fuzzy ensemble on labelled architectures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gennape.jobs.shared.config_options import field_option
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import space_option
from gennape.jobs.shared.settings_file import SettingsFile, run_with
from gennape.jobs.shared.tracked import Register, TrackingUri, Workspace, refuse_wrong_address, register_result
from gennape.predictors.encoder.settings import ClusteringConfig, KGnnTraining
from gennape.predictors.ensemble.settings import HeadTraining, MembersConfig, PairTraining
from gennape.predictors.model.settings import FitConfig, RowsConfig

if TYPE_CHECKING:
    from gennape.predictors.predictor import Predictor
    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.labels.labels import LabelledArchitectures

_ROWS, _HOW, _MEMBERS, _CLUSTERING = RowsConfig(), FitConfig(), MembersConfig(), ClusteringConfig()


@one_document
def fit(
    context: typer.Context,
    encoder: Annotated[Path, typer.Option(help="Folder of a pretrained encoder.")],
    data: Annotated[Path, typer.Option(help="Labelled file to train on, in any format that `gennape data` lists.")],
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    space: Annotated[str, space_option("Search space of the rows.")] = "nb101",
    minimum_accuracy: Annotated[
        float, field_option(RowsConfig, "minimum_accuracy", show_default=True)
    ] = _ROWS.minimum_accuracy,
    epochs: Annotated[int, field_option(FitConfig, "epochs", show_default=True)] = _HOW.epochs,
    head_epochs: Annotated[int, field_option(HeadTraining, "epochs", show_default=True)] = _MEMBERS.regression.epochs,
    pair_epochs: Annotated[int, field_option(PairTraining, "epochs", show_default=True)] = _MEMBERS.pairwise.epochs,
    k_gnn_epochs: Annotated[int, field_option(KGnnTraining, "epochs", show_default=True)] = _MEMBERS.end_to_end.epochs,
    batch: Annotated[int, field_option(FitConfig, "batch", show_default=True)] = _HOW.batch,
    clusters: Annotated[int, field_option(ClusteringConfig, "clusters", show_default=True)] = _CLUSTERING.clusters,
    fuzzifier: Annotated[float, field_option(ClusteringConfig, "fuzzifier", show_default=True)] = _CLUSTERING.fuzzifier,
    settings: SettingsFile = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Device to compute on.", show_default="cuda if available")
    ] = None,
    register: Register = False,
    workspace: Workspace = None,
    tracking_uri: TrackingUri = None,
) -> Result:
    """Fit the predictor on a labelled file.

    Trains on its training rows and reports metrics on its validation and test rows.
    """
    from dataclasses import asdict

    import numpy as np
    from rich.console import Console

    from gennape.errors import ConfigError
    from gennape.jobs.shared.progress import progress_bar
    from gennape.jobs.shared.provenance import provenance
    from gennape.predictors.bounds import require_bounds
    from gennape.predictors.encoder.optimisation import chosen_device
    from gennape.predictors.model import fitting
    from gennape.predictors.model.checkpoint import check_place, load_checkpoint, load_encoder, save_ensemble
    from gennape.search_spaces.families.registry import family
    from gennape.search_spaces.labels.labels import read_labels, split

    if settings is not None:
        again: Result = run_with(context, settings)
        return again
    refuse_wrong_address(tracking_uri)
    check_place(out, encoder)
    require_bounds(ClusteringConfig(clusters=clusters, fuzzifier=fuzzifier))
    where = chosen_device(device)
    rng = np.random.default_rng(seed)
    search_space = family(space)
    pretrained, encoder_sha256 = load_encoder(encoder)
    labels = read_labels(data, search_space)
    part = split(labels)
    chosen = labels.take((part == 0) & (labels.accuracy >= minimum_accuracy))
    if (n := len(chosen.genomes)) < (needed := max(batch, clusters)):
        below = int(((part == 0) & (labels.accuracy < minimum_accuracy)).sum())
        raise ConfigError(
            f"{data}: {n} rows to train on and {below} below --minimum-accuracy {minimum_accuracy:g}, but --batch "
            f"{batch} and --clusters {clusters} take {needed}; lower one of these"
        )
    graphs = search_space.graphs(chosen.genomes)
    held_out = labels.take((part == 1) & (labels.accuracy >= minimum_accuracy))
    how = FitConfig(epochs, batch, members=_MEMBERS.lasting(head_epochs, pair_epochs, k_gnn_epochs))
    with progress_bar("Fitting", how.steps(len(graphs))) as advance:
        fitted = fitting.fit(
            pretrained, graphs, chosen.accuracy, ClusteringConfig(pretrained.config, clusters, fuzzifier), how,
            rng, lambda n, loss: advance(n, f"loss {loss:.3f}"), device=where,
            held_out=(search_space.graphs(held_out.genomes), held_out.accuracy) if len(held_out.genomes) else None,
        )  # fmt: skip
    record = provenance(
        data, seed, family=space, networks=len(graphs), minimum_accuracy=minimum_accuracy, fit=asdict(how),
        encoder=encoder_sha256, device=where.type,
    )  # fmt: skip
    seen = np.isin(part, (0, 1))  # the validation rows are looked at, too
    learnt = [labels.identity[i] for i in np.flatnonzero(seen)]
    save_ensemble(out, fitted, record, learnt)
    predictor = load_checkpoint(out)
    record["metrics"] = {
        name: _figures(predictor, search_space, labels.take(part == index), minimum_accuracy)
        for name, index in (("validation", 1), ("test", 2))
    }
    sha256 = save_ensemble(out, fitted, record, learnt)
    Console().print(f"checkpoint {sha256[:12]} written to {out}")
    Console().print_json(data=record["metrics"])
    if register:
        register_result(out, "fit", workspace, tracking_uri)
    return Result({"checkpoint": out, "sha256": sha256, "networks": len(graphs), "metrics": record["metrics"]})


def _figures(
    predictor: Predictor, space: SearchSpace, rows: LabelledArchitectures, minimum_accuracy: float
) -> dict[str, Any]:
    """Rank correlation and mean absolute error on all rows, and on those that training would have kept; where there are
    too few for one, without it."""
    from gennape.predictors.metrics import mae, srcc

    if len(rows.genomes) == 0:
        return {"rows": 0}
    predicted = predictor.predict(space.graphs(rows.genomes)).accuracy
    kept = rows.accuracy >= minimum_accuracy
    figures = {
        "rows": len(predicted),
        "srcc": round(srcc(rows.accuracy, predicted), 4),
        "mae_percent": round(mae(rows.accuracy, predicted), 4),
        "rows_kept": int(kept.sum()),
    }
    if kept.sum() >= 2:
        figures |= {
            "srcc_kept": round(srcc(rows.accuracy[kept], predicted[kept]), 4),
            "mae_percent_kept": round(mae(rows.accuracy[kept], predicted[kept]), 4),
        }
    return figures
