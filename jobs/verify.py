"""``gennape verify``: train networks of a front, and see whether they come out as predicted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import refuse_another_space, space_option
from gennape.jobs.shared.tracked import Address, TrackingUri, Workspace, refuse_wrong_address
from gennape.jobs.shared.training import (
    Batch,
    Device,
    Epochs,
    Images,
    PerGpu,
    Processes,
    RecipeFile,
    Resize,
    RetryFailed,
    TestImages,
    Trainings,
    device_of,
    recipe_of,
    train_networks,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

LABELS = "labels.parquet"


@one_document
def verify(
    run: Annotated[str, typer.Option(help="Run to verify: its name, or the beginning of it.")],
    images: Images,
    out: Annotated[Path, typer.Option(help="Folder for labels and results. An unfinished one is continued.")],
    test: TestImages = None,
    resize: Resize = None,
    space: Annotated[str | None, space_option("Search space of the run, if it is your own.")] = None,
    points: Annotated[int, typer.Option(min=2, help="Networks to take, evenly spaced along the front.")] = 5,
    architectures: Annotated[
        Path | None, typer.Option(help="Compare with the architectures of a file: a table, or a JSON list.")
    ] = None,
    known: Annotated[Path | None, typer.Option(help="Compare with the best network of a labelled file.")] = None,
    trainings: Trainings = 3,
    epochs: Epochs = None,
    batch: Batch = None,
    recipe: RecipeFile = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of all trainings, and of the sample whose median is trained.")
    ] = 0,
    device: Device = None,
    workers: Processes = None,
    per_gpu: PerGpu = 4,
    retry_failed: RetryFailed = False,
    workspace: Workspace = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
) -> Result:
    """Train networks of a front and others, and test whether the predicted order holds."""
    import pandas as pd

    from gennape.platform.evaluation.tracking import finished_run
    from gennape.platform.labelling.rows import tasks_of
    from gennape.platform.labelling.sources import architectures_in, family_of
    from gennape.platform.labelling.study import ImageSources, Workers
    from gennape.platform.labelling.verification import candidates, metrics_of, verify_front, write_verification
    from gennape.platform.workspace.files import make_writable, open_workspace

    refuse_wrong_address(tracking_uri)
    folder = open_workspace(workspace)
    refuse_another_space(family_of(folder, run).name, run, space)
    where = device_of(device, address)
    settings = recipe_of(recipe, {"epochs": epochs, "batch": batch}, where)
    named = None if architectures is None else architectures_in(architectures, family_of(folder, run))
    make_writable(out, "give another --out")
    chosen = candidates(folder, run, points, named, known, seed)
    sources = ImageSources(images, test, None if resize is None else (resize, resize))
    tasks = tasks_of(chosen.space, chosen.genomes, trainings)
    share, labels = Workers(where, workers, per_gpu), out / LABELS
    of = (tasks, sources, settings, seed, share, address, tracking_uri)
    train_networks(labels, folder, *of, retry_failed=retry_failed)
    rows, result = verify_front(chosen, pd.read_parquet(labels))
    study = {"run": run, "points": points, "trainings": trainings, "seed": seed, "recipe": settings.sha256}
    files = write_verification(out, rows, result, study)
    parameters = {name: str(value) for name, value in study.items()}
    _say(rows, result, out)  # before logging to MLflow, which may not answer
    finished_run(folder, f"verify-{chosen.space.name}", parameters, metrics_of(result), files, tracking_uri)
    return Result({"study": study, "networks": rows.to_dict("records"), "result": result, "files": files})


def _say(rows: pd.DataFrame, result: Mapping[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    screen = Console(highlight=False, soft_wrap=True, markup=False)
    table = Table("role", "network", "predicted", "trained", "trainings", "MFLOPs")
    for row in rows.to_dict("records"):
        values = (
            f"{row['predicted']:.2f}",
            f"{row['accuracy']:.2f}",
            str(row["trainings"]),
            f"{row['flops'] / 1e6:,.1f}",
        )
        table.add_row(row["role"], row["network"][:12], *values)
    screen.print(table)
    front = result["front"]
    noise = "noise unknown, no network was trained twice"
    if not math.isnan(front["noise"]):
        noise = f"noise of a training {front['noise']:.2f}, {front['pairs_apart']:.0f} pairs further apart than it"
        if front["pairs_apart"]:
            noise += f", tau of these {front['tau_apart']:.2f}"
    screen.print(f"the front's order: tau {front['kendall_tau']:.2f}, regret {front['regret']:.2f} percent; {noise}")
    for one in result["baselines"]:
        known = one["dominated_by"] and not math.isnan(one["margin"])
        clear = f", {len(one['dominated_beyond_noise_by'])} of them beyond noise" if known else ""
        screen.print(
            f"{one['role']} {one['network'][:12]}: dominated by {len(one['dominated_by'])} of the front{clear}"
        )
    screen.print(f"metrics   {out / 'verify.json'}\nplot      {out / 'verify.png'}")
